package iptables_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/iptables"
)

// leave plants rules as a libvirtd that died has left them: one by one, with the
// chains in another order than ours, and some of them twice.
func (h *host) leave(n firewall.Network) {
	h.Helper()
	rules := iptables.Render(n, iptables.DefaultPrefix)
	slices.Reverse(rules)
	h.plant(rules...)
	h.plant(rules[:len(rules)/2]...)
}

// A network takes over the bridge of a libvirtd that is gone: nothing of its
// rules is left, whatever subnet, device or ports they were for. What a living
// libvirtd has for other bridges, and the administrator for this one, stays.
func TestMigration(t *testing.T) {
	onKernel(t, func(h *host) {
		f := h.firewall()
		living := firewall.Network{Bridge: "virbr7", Mode: firewall.ModeNAT, DHCP: true, Subnets: subnets("198.51.100.1/24", "2001:db8:7::1/64")}
		h.set(h.firewall(), living)
		administrator := []firewall.Line{
			{Family: firewall.IPv4, Table: "filter", Chain: "LIBVIRT_FWI", Args: "-d 192.168.122.10/32 -o virbr0 -p tcp -m tcp --dport 80 -j ACCEPT"},
			{Family: firewall.IPv4, Table: "filter", Chain: "LIBVIRT_FWI", Args: "-d 192.168.122.11/32 -o virbr0 -j ACCEPT"},
			{Family: firewall.IPv4, Table: "filter", Chain: "LIBVIRT_INP", Args: "-i virbr0 -p udp -m udp --dport 69 -j ACCEPT"},
			{Family: firewall.IPv4, Table: "nat", Chain: "LIBVIRT_PRT", Args: "-s 192.168.122.0/24 -d 10.0.0.0/8 -j RETURN"},
		}
		h.plant(administrator...)
		for _, name := range []string{"nat", "nat-dev", "nat66-dev", "route", "nat-tftp", "nat-several-ips", "isolated-ipv6", "nat-addresses"} {
			h.leave(with(intents()[name], func(n *firewall.Network) { n.Bridge = "virbr0" }))
			h.set(f, natNetwork())
			want := scaffold(iptables.DefaultPrefix).
				add(iptables.Render(natNetwork(), iptables.DefaultPrefix)...).
				add(iptables.Render(living, iptables.DefaultPrefix)...)
			for _, r := range administrator {
				want.add(r)
			}
			if name == "nat-tftp" {
				// The administrator's accept was one half of libvirtd's pair.
				k := key(firewall.IPv4, "filter", "LIBVIRT_INP")
				want[k] = want[k][:len(want[k])-1]
				administrator = slices.Delete(administrator, 2, 3)
			}
			h.expect("after taking over from "+name, h.unordered(want))
		}
	})
}

// Rules in the chains for policies that nobody knows of, as a vnetd leaves them that was killed
// before it had written down what it opened, go with the next change of their network, and
// with its end. Those of other bridges stay.
func TestStrays(t *testing.T) {
	onKernel(t, func(h *host) {
		policy := with(natNetwork(), func(n *firewall.Network) {
			n.Policy = firewall.Policy{Egress: firewall.ActionReject, Ingress: firewall.ActionDrop}
		})
		other := with(intents()["isolated"], func(n *firewall.Network) { n.Policy = policy.Policy })
		h.set(h.firewall(), policy, other)
		want := h.saved()
		stray := func() {
			for chain, match := range map[string]string{
				"VNETD_EGRESS": "3 -d 198.51.100.7/32 -i virbr0", "VNETD_HOST": "2 -d 198.51.100.7/32 -i virbr0", "VNETD_INGRESS": "3 -s 198.51.100.7/32 -o virbr0",
			} {
				h.iptables(firewall.IPv4, "-I "+chain+" "+match+" -p tcp -m tcp --dport 80 -j RETURN")
			}
		}
		stray()
		h.iptables(firewall.IPv4, "-A VNETD_EGRESS -i virbr07 -j RETURN")
		k := key(firewall.IPv4, "filter", "VNETD_EGRESS")
		want[k] = append(want[k], "-i virbr07 -j RETURN")
		f := h.firewall() // the next vnetd
		f.Adopt(policy)
		f.Adopt(other)
		h.set(f, policy)
		h.expect("after a change", want)
		stray()
		h.delete(f, policy)
		peers := with(intents()["peers"], func(n *firewall.Network) { n.Bridge = "virbr0" })
		h.set(h.firewall(), peers)
		peers.Peers = nil // as it is cleared away, nobody knows of them
		f.Adopt(peers)
		h.delete(f, peers)
		for chain, rules := range h.saved() {
			if slices.ContainsFunc(rules, func(r string) bool { return strings.Contains(r, "virbr0 ") }) {
				t.Errorf("after the end of the network %v holds %q", chain, rules)
			}
		}
	})
}
