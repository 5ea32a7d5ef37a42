package v4

import (
	"net/netip"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/internal/udpwait"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/internal/iface"
)

// TestManyQuestions asks as many addresses at once as may be probed, by a port that takes
// its time, once the bridge was down: none of the questions is lost here.
func TestManyQuestions(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.IP(t, "link add br0 type bridge")
		nstest.IP(t, "link add p1 type veth peer name guest")
		nstest.IP(t, "link set p1 master br0")
		for _, link := range []string{"guest", "p1", "br0"} {
			nstest.IP(t, "link set "+link+" up")
		}
		nstest.Exec(t, "tc", "qdisc", "add", "dev", "p1", "root", "tbf", "rate", "1mbit", "burst", "5kb", "limit", "1mb")
		ifi, err := iface.ByName("br0")
		if err != nil {
			t.Fatal(err)
		}
		conn, err := (&iface.Receiver{Network: "udp4", Addr: netip.IPv4Unspecified(), Port: serverPort, Interface: "br0", Configure: configure}).Open(nil)
		if err != nil {
			t.Fatal(err)
		}
		udp, err := udpwait.New(conn)
		if err != nil {
			t.Fatal(err)
		}
		s := &sockets{udp: udp, index: ifi.Index, mac: dhcpd.HWAddr{0x52, 0x54, 0, 0, 0, 1}}
		if err := s.open(ifi, true); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		nstest.IP(t, "link set br0 down")
		nstest.IP(t, "link set br0 up")
		for i := range maxProbes {
			if err := s.Ask(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})); err != nil {
				t.Fatalf("question %d: %v", i, err)
			}
		}
	})
}
