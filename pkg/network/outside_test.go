package network_test

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
)

// TestServicesAreTheBridges asks for addresses, names and files from outside, at the host's
// address and at the gateway's, where nobody hears it; guests ask the same and are heard.
func TestServicesAreTheBridges(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		h.started("<network><name>one</name><forward mode='route'/><bridge name='one' stp='off'/>" +
			"<ip address='192.168.66.1' prefix='24'><tftp root='" + t.TempDir() + "'/><dhcp><range start='192.168.66.2' end='192.168.66.99'/></dhcp></ip>" +
			"<ip family='ipv6' address='2001:db8:1::1' prefix='64'><dhcp><range start='2001:db8:1::2' end='2001:db8:1::99'/></dhcp></ip></network>")
		lan := nstest.NewLAN(t)
		lan.IP("route add 192.168.66.0/24 via " + nstest.Uplink)
		lan.IP("-6 route add 2001:db8:1::/64 via " + nstest.Uplink6)
		guest := nstest.Guest(t, "one", "guest", "")
		guest.IP("addr add 192.168.66.9/24 dev eth0")
		guest.IP("-6 addr add 2001:db8:1::9/64 dev eth0 nodad")
		for _, at := range []string{
			"192.168.66.1:53", "192.168.66.1:67", "192.168.66.1:69", nstest.Uplink + ":53", nstest.Uplink + ":67", nstest.Uplink + ":69",
			"[2001:db8:1::1]:53", "[2001:db8:1::1]:547", "[" + nstest.Uplink6 + "]:53", "[" + nstest.Uplink6 + "]:547",
		} {
			if err := knock(lan, at, wait); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("a datagram from outside to %s: %v, want it refused", at, err)
			}
		}
		for _, at := range []string{"192.168.66.1:53", "192.168.66.1:67", "192.168.66.1:69", "[2001:db8:1::1]:53", "[2001:db8:1::1]:547"} {
			if err := knock(guest, at, 200*time.Millisecond); errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("a guest's datagram to %s is refused", at)
			}
		}
	})
}

// knock sends a datagram that is no message, and returns what came back: an error in any case, as
// nobody answers that.
func knock(from *nstest.NS, at string, patience time.Duration) error {
	return from.Do(func() error {
		conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(at)))
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if _, err := conn.Write([]byte{0}); err != nil {
			return err
		}
		_, err = conn.Read(make([]byte, 512))
		return err
	})
}
