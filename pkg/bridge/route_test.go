package bridge_test

import (
	"net/netip"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
)

// hostLinks makes a host with the links eno1 and eno2.
func hostLinks(t *testing.T) {
	t.Helper()
	for _, args := range []string{
		"link add eno1 type veth peer name eno2",
		"link set eno1 up",
		"link set eno2 up",
	} {
		nstest.IP(t, args)
	}
}

func TestAddressOwner(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		hostLinks(t)
		for _, args := range []string{
			"addr add 192.0.2.5/25 dev eno1",
			"addr add 192.0.2.200/26 dev eno2 noprefixroute",
			"route add 198.51.100.0/24 dev eno2",
			"route add default dev eno1",
			"route add unreachable 203.0.113.0/28",
			"route add 203.0.113.16/28 nexthop dev eno1 nexthop dev eno2",
			"route add 203.0.113.32/28 dev eno1 table 100",
			"-6 addr add 2001:db8:1::1/64 dev eno1 nodad",
		} {
			nstest.IP(t, args)
		}
		b := newBridges(t)
		ensure(t, b, defaultConfig())
		for _, tt := range []struct {
			what, prefix, except, want string
		}{
			{"exactly an address's network", "192.0.2.1/25", "", "eno1"},
			{"the network's own address", "192.0.2.0/25", "", "eno1"},
			{"an address without route", "192.0.2.193/26", "", "eno2"},
			{"exactly a route", "198.51.100.1/24", "", "eno2"},
			{"contains them", "192.0.2.1/24", "", ""},
			{"lies inside a route", "198.51.100.1/25", "", ""},
			{"free", "10.0.0.1/24", "", ""},
			{"the default route", "0.0.0.0/0", "", "eno1"},
			{"a route without link", "203.0.113.1/28", "", ""},
			{"multipath", "203.0.113.17/28", "", "eno1"},
			{"multipath, one's own first", "203.0.113.17/28", "eno1", "eno2"},
			{"another table", "203.0.113.33/28", "", ""},
			{"one's own bridge", "192.168.122.1/24", name, ""},
			{"another network's bridge", "192.168.122.1/24", "virbr1", name},
			{"IPv6 is no conflict", "2001:db8:1::2/64", "", ""},
		} {
			got, err := b.AddressOwner(netip.MustParsePrefix(tt.prefix), tt.except)
			if err != nil || got != tt.want {
				t.Errorf("%s: owner of %s is %q, %v, want %q", tt.what, tt.prefix, got, err, tt.want)
			}
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
