package iface_test

import (
	"bytes"
	"net"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd/internal/iface"
)

// TestCardsAfterDown sends to a card once the bridge was down: the kernel tells a packet socket
// of that by the next call, whichever that is.
func TestCardsAfterDown(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.IP(t, "link add br0 address 52:54:00:00:00:01 type bridge")
		nstest.IP(t, "link add p1 type veth peer name guest")
		nstest.IP(t, "link set p1 master br0")
		for _, link := range []string{"guest", "p1", "br0"} {
			nstest.IP(t, "link set "+link+" up")
		}
		bridge, guest := link(t, "br0"), link(t, "guest")
		udp, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 67})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = udp.Close() }()
		conn, err := udp.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		in, err := iface.NewIntake(conn, bridge, false, 67, func([]byte) (none iface.HWAddr) { return none })
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = in.Close() }()
		seen, err := packet.Listen(guest, packet.Raw, unix.ETH_P_IP, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = seen.Close() }()

		nstest.IP(t, "link set br0 down")
		nstest.IP(t, "link set br0 up")
		var box iface.Outbox
		head := []byte{0x45, 0, 0, 24, 0, 0, 0, 0, 64, 17, 0, 0}
		for _, body := range []string{"first", "second"} {
			box.ToCard(iface.HWAddr(guest.HardwareAddr), bridge.Index, func(b []byte) []byte { return append(b, head...) }, []byte(body))
		}
		box.Flush(in.Cards(), func(at int, err error) { t.Errorf("packet %d is not sent: %v", at, err) })
		for _, body := range []string{"first", "second"} {
			want := append(append(append([]byte{}, guest.HardwareAddr...), bridge.HardwareAddr...), 8, 0)
			want = append(append(want, head...), body...)
			if got := toCard(t, seen, guest.HardwareAddr); !bytes.Equal(got, want) {
				t.Errorf("the card gets % x, want % x", got, want)
			}
		}
	})
}

// toCard waits for a frame to that card.
func toCard(t *testing.T, conn *packet.Conn, card net.HardwareAddr) []byte {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	for buf := make([]byte, 128); ; {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.HasPrefix(buf[:n], card) {
			return buf[:n]
		}
	}
}

// link finds a link.
func link(t *testing.T, name string) *net.Interface {
	t.Helper()
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return ifi
}
