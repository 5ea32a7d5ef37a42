package nft_test

import (
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall/firewalltest"
	"github.com/vnetd/vnetd/pkg/firewall/nft"
)

// What the administrator keeps in their table stays, whatever vnetd does; without it
// nothing is left.
func TestTableOfAdministrator(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		f := newNetworks(t, nft.Config{})
		all := firewalltest.Policies()
		set(t, f, all["policy"])
		nstest.Exec(t, "nft", `add rule inet vnetd_user VNETD_USER_FWD iifname "virbr0" tcp dport 25 reject`)
		stays := func(when string) {
			t.Helper()
			if got := nstest.Exec(t, "nft", "list", "ruleset"); strings.Count(got, "tcp dport 25 reject") != 1 || !strings.Contains(got, "chain VNETD_USER_INP") {
				t.Errorf("%s nft lists\n%s", when, got)
			}
		}
		set(t, f, all["peers"])
		nstest.Exec(t, "nft", "delete", "table", "ip", "vnetd")
		if report, err := f.Repair(t.Context()); err != nil || !report.Repaired() {
			t.Errorf("Repair: %+v, %v", report, err)
		}
		stays("after a repair")
		if err := f.Delete(t.Context(), all["peers"]); err != nil {
			t.Fatal(err)
		}
		if err := f.Purge(t.Context()); err != nil {
			t.Fatal(err)
		}
		stays("after Purge")
		set(t, f, all["policy"])
		stays("after the next start")
		nstest.Exec(t, "nft", "flush", "chain", "inet", "vnetd_user", "VNETD_USER_FWD")
		if err := f.Purge(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left := nstest.Exec(t, "nft", "list", "ruleset"); left != "" {
			t.Errorf("after Purge without rules of the administrator nft lists\n%s", left)
		}
	})
}
