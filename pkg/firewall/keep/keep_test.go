package keep_test

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/keep"
)

// Where another program has the table, the kernel is not asked again with every change of
// rules, which would wait for it each time, but soon.
func TestRefused(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.Exec(t, "nft", "add table ip "+keep.Table)
		networks := []*firewall.Network{{Bridge: "virbr0", Mode: firewall.ModeNAT, Subnets: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}}}
		keeper := new(keep.Keeper)
		defer func() { _ = keeper.Release() }()
		holds := func() bool { return keeper.Holds(firewall.IPv4, slices.Values(networks)) }
		if holds() {
			t.Error("there is nothing to do, before anything was done")
		}
		if done, err := keeper.Hold(firewall.IPv4, slices.Values(networks)); done || err == nil {
			t.Errorf("another's table was changed: %v, %v", done, err)
		}
		if !holds() {
			t.Error("what was refused is tried again at once")
		}
		nstest.Exec(t, "nft", "delete table ip "+keep.Table)
		nstest.Eventually(t, 20*time.Second, "the next try", func() error {
			if holds() {
				return errors.New("nothing to do")
			}
			return nil
		})
		if done, err := keeper.Hold(firewall.IPv4, slices.Values(networks)); !done || err != nil || !holds() {
			t.Errorf("once the table is gone: %v, %v", done, err)
		}
	})
}
