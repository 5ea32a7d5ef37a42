package bridge_test

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vnetd/vnetd/internal/nstest"
	"golang.org/x/sys/unix"
)

func sortAddrs(addrs []shownAddr) {
	slices.SortFunc(addrs, func(a, b shownAddr) int { return strings.Compare(a.Local, b.Local) })
}

func TestEnsureReplacesAddresses(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		cfg := defaultConfig()
		// The second is a secondary address, which goes with the first.
		cfg.Addrs = prefixes("192.0.2.1/24", "192.0.2.2/24", "2001:db8:1::1/64")
		ensure(t, b, cfg)
		cfg.Addrs = prefixes("192.0.2.2/24", "198.51.100.1/31", "203.0.113.1/32")
		ensure(t, b, cfg)
		want := []shownAddr{
			{Local: "192.0.2.2", Bits: 24, Broadcast: "192.0.2.255", Scope: "global"},
			{Local: "198.51.100.1", Bits: 31, Scope: "global"},
			{Local: "203.0.113.1", Bits: 32, Scope: "global"},
		}
		got := show(t, name).Addrs
		sortAddrs(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("addresses (-want +got):\n%s", diff)
		}
	})
}

// TestEnsureEndsTentativeAddresses: an address whose duplicate address detection
// waits for a carrier is of no use to a server.
func TestEnsureEndsTentativeAddresses(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		cfg := defaultConfig()
		ensure(t, b, cfg)
		nstest.IP(t, "addr del 2001:db8:122::1/64 dev virbr0")
		nstest.IP(t, "addr add 2001:db8:122::1/64 dev virbr0")
		if err := bind("2001:db8:122::1"); !errors.Is(err, unix.EADDRNOTAVAIL) {
			t.Fatalf("binding to a tentative address: %v", err)
		}
		ensure(t, b, cfg)
		if err := bind("2001:db8:122::1"); err != nil {
			t.Error(err)
		}
	})
}

func bind(ip string) error {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(ip), 53)))
	if err != nil {
		return err
	}
	return conn.Close()
}

func TestAddressesBindOnAPortlessBridge(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		ensure(t, newBridges(t), defaultConfig())
		for _, ip := range []string{"192.168.122.1", "2001:db8:122::1"} {
			if err := bind(ip); err != nil {
				t.Error(err)
			}
		}
	})
}
