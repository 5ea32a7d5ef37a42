package iptables_test

import (
	"slices"
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
