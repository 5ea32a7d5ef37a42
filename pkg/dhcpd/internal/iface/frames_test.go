package iface_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/internal/iface"
)

// TestSource asks whose card a message is from that several have sent.
func TestSource(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dhcpdtest.MakeBridge(t)
		bridge := link(t, "br0")
		frames, err := iface.ListenFrames(bridge, false, 67, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = frames.Close() }()
		var conn *packet.Conn
		if err := nstest.Guest(t, "br0", "g1", "").Do(func() (err error) {
			conn, err = packet.Listen(link(t, "eth0"), packet.Raw, unix.ETH_P_IP, nil)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()

		src, dst, other := netip.MustParseAddrPort("192.0.2.9:68"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
		a, b, c := iface.HWAddr{2, 0, 0, 0, 0, 1}, iface.HWAddr{2, 0, 0, 0, 0, 2}, iface.HWAddr{2, 0, 0, 0, 0, 3}
		message := []byte("message")
		send := func(from iface.HWAddr, to netip.Addr) {
			t.Helper()
			if _, err := conn.WriteTo(datagram(from, bridge.HardwareAddr, src, to, message), &packet.Addr{HardwareAddr: bridge.HardwareAddr}); err != nil {
				t.Fatal(err)
			}
		}
		nstest.Eventually(t, 5*time.Second, "the port forwards", func() error {
			send(a, dst)
			time.Sleep(10 * time.Millisecond)
			if frames.Collect(); frames.Source(src, dst, message, a) != a {
				return unix.EAGAIN
			}
			return nil
		})
		for _, test := range []struct {
			name string
			sent []iface.HWAddr
			says iface.HWAddr
			want []iface.HWAddr // of one call after the other
		}{
			{"nobody", nil, a, []iface.HWAddr{{}}},
			{"one", []iface.HWAddr{a}, iface.HWAddr{}, []iface.HWAddr{a, {}}},
			{"one for another", []iface.HWAddr{a}, b, []iface.HWAddr{a, {}}},
			{"one, twice", []iface.HWAddr{a, a}, iface.HWAddr{}, []iface.HWAddr{a, a, {}}},
			{"two", []iface.HWAddr{a, b}, iface.HWAddr{}, []iface.HWAddr{{}, {}}},
			{"two, of which one says so", []iface.HWAddr{a, b}, b, []iface.HWAddr{b, a, {}}},
			{"two for another", []iface.HWAddr{a, b}, c, []iface.HWAddr{{}, {}}},
		} {
			for _, from := range test.sent {
				send(from, dst)
				send(c, other)
			}
			time.Sleep(50 * time.Millisecond) // they have come
			frames.Collect()
			for i, want := range test.want {
				if got := frames.Source(src, dst, message, test.says); got != want {
					t.Errorf("%s: call %d says %v, want %v", test.name, i, got, want)
				}
			}
		}
		if n := testing.AllocsPerRun(100, func() { frames.Collect(); frames.Source(src, dst, message, a) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}

// datagram is a frame with a UDP datagram to port 67.
func datagram(from iface.HWAddr, to net.HardwareAddr, src netip.AddrPort, dst netip.Addr, message []byte) []byte {
	head := make([]byte, 28)
	head[0], head[8], head[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(head[2:], uint16(len(head)+len(message)))
	copy(head[12:], src.Addr().AsSlice())
	copy(head[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(head[10:], nstest.Checksum(head[:20]))
	binary.BigEndian.PutUint16(head[20:], src.Port())
	binary.BigEndian.PutUint16(head[22:], 67)
	binary.BigEndian.PutUint16(head[24:], uint16(8+len(message)))
	f := append(append(append([]byte{}, to...), from[:]...), 8, 0)
	return append(append(f, head...), message...)
}
