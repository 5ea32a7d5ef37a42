package iptables_test

import (
	"strings"
	"testing"

	"github.com/vnetd/vnetd/pkg/firewall"
)

func TestPurgeRestoresTheStateBefore(t *testing.T) {
	onKernel(t, func(h *host) {
		fresh := h.firewall()
		h.set(fresh, intents()["nat66-dev"], intents()["isolated"])
		if err := fresh.Purge(h.Context()); err != nil {
			h.Fatalf("Purge: %v", err)
		}
		h.expect("after Purge on an empty kernel", ruleset{})
		if err := fresh.Purge(h.Context()); err != nil {
			h.Fatalf("second Purge: %v", err)
		}

		h.iptables(firewall.IPv4, "-A FORWARD -i eno1 -j DROP")
		h.iptables(firewall.IPv4, "-t nat -N DOCKER")
		h.iptables(firewall.IPv6, "-A INPUT -p tcp --dport 22 -j ACCEPT")
		before := h.saved()
		h.set(h.firewall(), natNetwork())
		adopting := h.firewall()
		adopting.Adopt(natNetwork())
		if err := adopting.Purge(h.Context()); err != nil {
			h.Fatalf("Purge of a former process' rules: %v", err)
		}
		h.expect("after Purge beside others", before)
	})
}

func TestPurgeLeavesWhatOthersUse(t *testing.T) {
	onKernel(t, func(h *host) {
		f := h.firewall()
		for name, c := range map[string]struct {
			family      firewall.Family
			table, rule string
			want        string
		}{
			"rule in a chain":    {firewall.IPv6, "nat", "LIBVIRT_PRT -o eno1 -j ACCEPT", "-o eno1 -j ACCEPT"},
			"rule to a chain":    {firewall.IPv4, "filter", "FORWARD -i eno1 -j LIBVIRT_FWX", "leads to chain LIBVIRT_FWX"},
			"goto to a chain":    {firewall.IPv4, "filter", "INPUT -i eno1 -g LIBVIRT_INP", "leads to chain LIBVIRT_INP"},
			"an unknown network": {firewall.IPv4, "filter", "LIBVIRT_FWX -i virbr7 -o virbr7 -j ACCEPT", "virbr7"},
		} {
			h.set(f, natNetwork())
			h.iptables(c.family, "-t "+c.table+" -A "+c.rule)
			want := h.saved()
			err := f.Purge(h.Context())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				h.Errorf("%s: Purge says %v, want %q", name, err, c.want)
			}
			h.expect("after the refused Purge", want)
			h.iptables(c.family, "-t "+c.table+" -D "+c.rule)
		}
	})
}
