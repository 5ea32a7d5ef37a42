package uplink_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"golang.org/x/sys/unix"
)

// advertise sends a router advertisement (RFC 4861 sections 4.2, 4.6.2) from lan0
// with that router lifetime and, for the prefix 2001:db8:5::/64, valid lifetime.
func advertise(t *testing.T, lan *nstest.NS, router uint16, valid uint32) {
	t.Helper()
	ra := []byte{134, 0, 0, 0, 64, 0}
	ra = binary.BigEndian.AppendUint16(ra, router)
	ra = append(ra, make([]byte, 8)...)               // reachable time, retransmit timer
	ra = append(ra, 3, 4, 64, 0xc0)                   // prefix information: on-link, autonomous
	ra = binary.BigEndian.AppendUint32(ra, valid)     // valid
	ra = binary.BigEndian.AppendUint32(ra, valid-100) // preferred
	ra = append(ra, make([]byte, 4)...)               // reserved
	prefix := netip.MustParseAddr("2001:db8:5::").As16()
	ra = append(ra, prefix[:]...)
	err := lan.Do(func() error {
		ifi, err := net.InterfaceByName("lan0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
			return err
		}
		all := netip.MustParseAddr("ff02::1").As16()
		return unix.Sendto(fd, ra, 0, &unix.SockaddrInet6{Addr: all, ZoneId: uint32(ifi.Index)})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// awaitAdvertised waits until the link's default route ends in about router
// seconds and its advertised address in about valid seconds.
func awaitAdvertised(t *testing.T, dev string, router, valid float64) {
	t.Helper()
	near := func(got, want float64) bool { return got <= want+1 && got > want-100 }
	nstest.Eventually(t, soon, "the advertisement is taken on "+dev, func() error {
		var routes []struct {
			Expires float64 `json:"expires"`
		}
		out := nstest.IP(t, "-6 -j route show default dev "+dev)
		if err := json.Unmarshal([]byte(out), &routes); err != nil {
			return err
		}
		if len(routes) != 1 || !near(routes[0].Expires, router) {
			return fmt.Errorf("default routes %s", out)
		}
		var links []struct {
			Addrs []struct {
				Local string  `json:"local"`
				Valid float64 `json:"valid_life_time"`
			} `json:"addr_info"`
		}
		out = nstest.IP(t, "-6 -j addr show dev "+dev+" to 2001:db8:5::/64")
		if err := json.Unmarshal([]byte(out), &links); err != nil {
			return err
		}
		// Of addresses that aren't asked for, ip leaves empty objects.
		for _, l := range links {
			for _, a := range l.Addrs {
				if a.Local != "" && near(a.Valid, valid) {
					return nil
				}
			}
		}
		return fmt.Errorf("addresses %s", out)
	})
}

// TestUplinkOfRouterAdvertisements: a default route and an address that the kernel
// has from router advertisements move, and further ones renew them, on the bridge
// and back on the uplink.
func TestUplinkOfRouterAdvertisements(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		noForwarding(t)
		lan := nstest.NewLAN(t)
		nstest.IP(t, "-6 route del default")
		settle(t)
		nstest.Eventually(t, soon, "the router has its address", func() error {
			if out := lan.IP("-6 addr show dev lan0 scope link"); !strings.Contains(out, "fe80") || strings.Contains(out, "tentative") {
				return fmt.Errorf("%s", out)
			}
			return nil
		})
		advertise(t, lan, 1800, 86400)
		awaitAdvertised(t, "eno1", 1800, 86400)
		settle(t)
		u := newUplinks(t)
		s := attachUplink(t, u, "eno1")
		awaitAdvertised(t, "br0", 1800, 86400)
		if out := nstest.IP(t, "-6 route show default dev eno1"); out != "" {
			t.Errorf("the uplink has a default route: %s", out)
		}
		advertise(t, lan, 3600, 96400)
		awaitAdvertised(t, "br0", 3600, 96400)
		if f, err := newBridges(t).Forward(false, true); err != nil || len(f.AcceptRA) != 1 || f.AcceptRA[0].Link != "br0" {
			t.Errorf("accept_ra raised on %v, want br0 (%v)", f.AcceptRA, err)
		}
		advertise(t, lan, 4000, 106400)
		awaitAdvertised(t, "br0", 4000, 106400)
		noForwarding(t)
		detachUplink(t, u, s)
		awaitAdvertised(t, "eno1", 4000, 106400)
		advertise(t, lan, 5000, 116400)
		awaitAdvertised(t, "eno1", 5000, 116400)
	})
}
