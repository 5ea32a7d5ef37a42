package bridge_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/bridge"
)

// TestHostNetsFollowTheHost: a list is as new as the host, however it changed.
func TestHostNetsFollowTheHost(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		hostLinks(t)
		b := newBridges(t)
		for _, step := range []struct {
			do, net string
			there   bool
		}{
			{"addr add 10.1.0.7/24 dev eno1", "10.1.0.0/24", true},
			{"route add 10.2.0.0/24 dev eno2", "10.2.0.0/24", true},
			{"link set eno2 down", "10.2.0.0/24", false},
			{"addr del 10.1.0.7/24 dev eno1", "10.1.0.0/24", false},
			{"-6 addr add 2001:db8:1::1/64 dev eno1", "2001:db8:1::/64", true},
			{"-6 route add 2001:db8:2::/64 dev eno1", "2001:db8:2::/64", true},
			{"link del eno1", "2001:db8:1::/64", false},
		} {
			nstest.IP(t, step.do)
			for range 2 { // the second time nothing has changed
				nets, err := b.HostNets()
				there := slices.ContainsFunc(nets, func(n bridge.HostNet) bool { return n.Prefix.String() == step.net })
				if err != nil || there != step.there {
					t.Errorf("after ip %s: %v, %v; is %s there: want %v", step.do, nets, err, step.net, step.there)
				}
			}
		}
	})
}

// TestNetsOf: what is asked of one link is what the list of all has of it, whether or not that
// is at hand, and others cost nothing.
func TestNetsOf(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		hostLinks(t)
		b, listed := newBridges(t), newBridges(t)
		eno1, err := b.Lookup("eno1")
		if err != nil {
			t.Fatal(err)
		}
		same := func(when string) {
			t.Helper()
			all, err := listed.HostNets()
			if err != nil {
				t.Fatal(err)
			}
			var want []netip.Prefix
			for _, n := range all {
				if n.Link == "eno1" {
					want = append(want, n.Prefix)
				}
			}
			slices.SortFunc(want, netip.Prefix.Compare)
			for how, by := range map[string]*bridge.Bridges{"alone": b, "as listed": listed} {
				got, err := by.NetsOf(eno1.Index)
				got = slices.SortedFunc(slices.Values(got), netip.Prefix.Compare)
				if err != nil || !slices.Equal(got, want) {
					t.Errorf("%s, %s: %v, %v, want %v", when, how, got, err, want)
				}
			}
		}
		for _, args := range []string{
			"addr add 192.0.2.5/25 dev eno1",
			"addr add 203.0.113.9/28 dev eno1 noprefixroute",
			"route add 198.51.100.0/24 dev eno1",
			"route add 198.51.101.0/24 nexthop dev eno1 nexthop dev eno2",
			"route add 198.51.102.0/24 dev eno2",
			"route add default dev eno1",
			"-6 route add 2001:db8::/48 dev eno1",
			"-6 route add 2001:db8:1::/48 dev eno2",
			"addr del 192.0.2.5/25 dev eno1",
			"link set eno1 down",
		} {
			nstest.IP(t, args)
			same("after ip " + args)
		}
		few := testing.AllocsPerRun(10, func() { _, _ = b.NetsOf(eno1.Index) })
		for n := range 200 {
			nstest.IP(t, fmt.Sprintf("addr add 10.1.%d.1/24 dev eno2", n))
		}
		if many := testing.AllocsPerRun(10, func() { _, _ = b.NetsOf(eno1.Index) }); many > few+10 {
			t.Errorf("it takes %v allocations beside 200 networks of another link, and %v beside none", many, few)
		}
	})
}

func TestHostNets(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		hostLinks(t)
		for _, args := range []string{
			"addr add 192.0.2.5/25 dev eno1",
			"addr add 203.0.113.9/28 dev eno2 noprefixroute",
			"route add 198.51.100.0/24 dev eno2",
			"route add default dev eno1",
			"-6 route add 2001:db8::/48 dev eno2",
		} {
			nstest.IP(t, args)
		}
		nets, err := newBridges(t).HostNets()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]int{}
		for _, n := range nets {
			got[n.Link+" "+n.Prefix.String()]++
		}
		for _, want := range []string{"eno1 192.0.2.0/25", "eno2 203.0.113.0/28", "eno2 198.51.100.0/24", "eno2 2001:db8::/48"} {
			if got[want] != 1 {
				t.Errorf("%s is there %d times in %v", want, got[want], nets)
			}
		}
		if got["eno1 0.0.0.0/0"] != 0 {
			t.Errorf("the default route is in %v", nets)
		}
	})
}
