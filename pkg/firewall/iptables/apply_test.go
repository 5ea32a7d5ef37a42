package iptables

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// The changes of several networks are one transaction: here, where iptables makes
// the chains, one commit for each table and family.
func TestChangesAreJoined(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		w, err := New(t.Context(), Config{IPTables: "iptables-nft", IP6Tables: "ip6tables-nft"})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = w.Close() }()
		var changes []firewall.Change
		for i := range 5 {
			n := firewall.Network{
				Bridge: fmt.Sprintf("virbr%d", i), Mode: firewall.ModeNAT, DHCP: true,
				Subnets: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.0.%d.0/24", i))},
			}
			changes = append(changes, firewall.Change{Network: n, Rules: n.Rules()})
		}
		before := w.cache.generation()
		if err := w.Apply(t.Context(), nil, changes); err != nil {
			t.Fatal(err)
		}
		if commits := w.cache.generation() - before; commits != 6+1 {
			t.Errorf("%d commits, want 3 tables in 2 families and the keeper's", commits)
		}
	})
}
