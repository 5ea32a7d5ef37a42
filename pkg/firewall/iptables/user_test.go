package iptables_test

import (
	"slices"
	"testing"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// What the administrator keeps in their chains is asked first and stays, whatever vnetd
// does; without it nothing is left.
func TestChainsOfAdministrator(t *testing.T) {
	onKernel(t, func(h *host) {
		f := h.firewall()
		h.set(f, natNetwork())
		const mine = "-i virbr0 -p tcp -m tcp --dport 25 -j REJECT --reject-with icmp-port-unreachable"
		forward, chain := key(firewall.IPv4, "filter", "FORWARD"), key(firewall.IPv4, "filter", "VNETD_USER_FWD")
		h.iptables(firewall.IPv4, "-A VNETD_USER_FWD "+mine)
		stays := func(when string) {
			h.Helper()
			got := h.saved()
			if !slices.Equal(got[chain], []string{mine}) {
				h.Errorf("%s the chain holds %q", when, got[chain])
			}
			if len(got[forward]) == 0 || got[forward][0] != "-j VNETD_USER_FWD" {
				h.Errorf("%s FORWARD holds %q", when, got[forward])
			}
		}
		h.set(f, intents()["policy"], intents()["peers"])
		stays("after networks were set")
		h.iptables(firewall.IPv4, "-F FORWARD")
		if report, err := f.Repair(h.Context()); err != nil || report.Cause != firewall.CauseJumpDeleted {
			h.Errorf("Repair: %+v, %v", report, err)
		}
		stays("after a repair")
		h.delete(f, intents()["peers"])
		stays("after the last network")
		if err := f.Purge(h.Context()); err != nil {
			h.Fatal(err)
		}
		h.expect("after Purge", ruleset{chain: {mine}})
		h.set(f, natNetwork())
		stays("after the next start")
		h.iptables(firewall.IPv4, "-F VNETD_USER_FWD")
		if err := f.Purge(h.Context()); err != nil {
			h.Fatal(err)
		}
		h.expect("after Purge without rules of the administrator", ruleset{})
	})
}
