package bridge_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/bridge"
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

// owns fails the test unless that link owns the prefix.
func owns(t *testing.T, b *bridge.Bridges, what, prefix, want string) {
	t.Helper()
	got, err := b.AddressOwner(netip.MustParsePrefix(prefix), "")
	if err != nil || got != want {
		t.Errorf("%s: owner of %s is %q, %v, want %q", what, prefix, got, err, want)
	}
}

// TestAddressOwnerFollowsTheHost: what came and went since the last question
// counts, however it came and went.
func TestAddressOwnerFollowsTheHost(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		const subnet = "10.1.0.1/24"
		hostLinks(t)
		for _, step := range []struct{ do, want string }{
			{"addr add 10.1.0.7/24 dev eno1", "eno1"},
			{"addr del 10.1.0.7/24 dev eno1", ""},
			{"route add 10.1.0.0/24 dev eno2", "eno2"},
			{"link set eno2 down", ""}, // the kernel tells of the link alone, not of its routes
			{"link set eno2 up", ""},
			{"addr add 10.1.0.7/24 dev eno2", "eno2"},
			{"link set eno2 down", "eno2"}, // an address stays
			{"link del eno2", ""},
			{"link add eno3 type bridge", ""},
			{"link set eno3 up", ""},
			{"nexthop add id 7 dev eno3", ""},
			{"route add 10.1.0.0/24 nhid 7", "eno3"},
			{"link add eno4 up type bridge", "eno3"},
			{"nexthop replace id 7 dev eno4", "eno4"}, // the kernel tells of the nexthop alone
			{"link del eno3", "eno4"},
			{"link set eno4 name eno5", "eno5"},
			{"link del eno5", ""},
			{"route add unreachable 10.1.0.0/24", ""},
			{"link add eno6 up type bridge", ""},
			{"route replace 10.1.0.0/24 dev eno6", "eno6"},
		} {
			nstest.IP(t, step.do)
			owns(t, b, "ip "+step.do, subnet, step.want)
		}
	})
}

// TestAddressOwnerBeforeTheFirstRoute: the kernel has no main table yet, which it
// tells with an error.
func TestAddressOwnerBeforeTheFirstRoute(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.IP(t, "netns add bare")
		bare := nstest.NS{Name: "bare"}
		err := bare.Do(func() error {
			b, err := bridge.New()
			if err != nil {
				return err
			}
			defer b.Close()
			owner, err := b.AddressOwner(netip.MustParsePrefix("10.1.0.1/24"), "")
			if owner != "" {
				t.Errorf("owner is %q", owner)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// TestAddressOwnerOnABusyHost: more comes between two questions than the kernel
// keeps for us.
func TestAddressOwnerOnABusyHost(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		hostLinks(t)
		b := newBridges(t)
		owns(t, b, "at first", "10.1.0.1/24", "")
		var batch strings.Builder
		for n := range 20_000 {
			fmt.Fprintf(&batch, "route add 10.%d.%d.0/24 dev eno1\n", 100+n>>8, n&0xff)
		}
		batch.WriteString("addr add 10.1.0.7/24 dev eno2\n")
		file := filepath.Join(t.TempDir(), "batch")
		if err := os.WriteFile(file, []byte(batch.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		nstest.IP(t, "-batch "+file)
		owns(t, b, "after many routes", "10.1.0.1/24", "eno2")
		owns(t, b, "after many routes", "10.100.255.1/24", "eno1")
		owns(t, b, "after many routes", "10.2.0.1/24", "")
	})
}
