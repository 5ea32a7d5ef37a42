package v4_test

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
)

// vethWire is a guest that speaks in raw frames, with any MAC address.
type vethWire struct{ conn *packet.Conn }

// newVethWire plugs a guest into br0.
func newVethWire(t testing.TB) *vethWire { return newVethWireOf(t, "g1") }

// newVethWireOf is newVethWire of one guest of several.
func newVethWireOf(t testing.TB, name string) *vethWire {
	t.Helper()
	guest := nstest.Guest(t, "br0", name, "")
	w := new(vethWire)
	err := guest.Do(func() error {
		ifi, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		w.conn, err = packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, nil)
		if err != nil {
			return err
		}
		return w.conn.SetPromiscuous(true)
	})
	if err != nil {
		t.Fatalf("opening the guest's packet socket: %v", err)
	}
	t.Cleanup(func() { _ = w.conn.Close() })
	// A bridge answers on a port once the port forwards.
	nstest.Eventually(t, dhcpdtest.ReplyLimit, "the port forwards", func() error {
		return w.arp(netip.IPv4Unspecified())
	})
	return w
}

// arp asks for the server's address and waits a moment for the answer.
func (w *vethWire) arp(src netip.Addr) error {
	f := append([]byte{}, mac(0xff)...)
	copy(f, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f = append(f, probeMAC...)
	f = append(f, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	f = append(f, probeMAC...)
	f = append(f, src.AsSlice()...)
	f = append(f, 0, 0, 0, 0, 0, 0)
	f = append(f, serverAddr.AsSlice()...)
	if _, err := w.conn.WriteTo(f, &packet.Addr{HardwareAddr: net.HardwareAddr(f[:6])}); err != nil {
		return err
	}
	_ = w.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	buf := make([]byte, 2048)
	for {
		n, _, err := w.conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		if n >= 42 && binary.BigEndian.Uint16(buf[12:]) == unix.ETH_P_ARP && buf[21] == 2 {
			return nil
		}
	}
}

func (w *vethWire) send(t testing.TB, payload []byte, hw net.HardwareAddr, src, dst netip.Addr) {
	t.Helper()
	if !src.IsValid() {
		src = netip.IPv4Unspecified()
	}
	to := mac(1)
	if dst == broadcast {
		to = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	}
	f := clientFrame(hw, to, src, dst, payload)
	if _, err := w.conn.WriteTo(f, &packet.Addr{HardwareAddr: to}); err != nil {
		t.Fatalf("sending a frame: %v", err)
	}
}

// clientFrame is a frame as a client without a UDP checksum sends it.
func clientFrame(from, to net.HardwareAddr, src, dst netip.Addr, payload []byte) []byte {
	f := append(append([]byte{}, to...), from...)
	f = append(f, 8, 0)
	head := make([]byte, 28)
	head[0], head[8], head[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(head[2:], uint16(28+len(payload)))
	copy(head[12:], src.AsSlice())
	copy(head[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(head[10:], nstest.Checksum(head[:20]))
	binary.BigEndian.PutUint16(head[20:], 68)
	binary.BigEndian.PutUint16(head[22:], 67)
	binary.BigEndian.PutUint16(head[24:], uint16(8+len(payload)))
	return append(append(f, head...), payload...)
}

// receive waits for a DHCP reply and answers ARP meanwhile, for every address.
func (w *vethWire) receive(t testing.TB) dhcpdtest.Sent {
	t.Helper()
	_ = w.conn.SetReadDeadline(time.Now().Add(dhcpdtest.ReplyLimit))
	buf := make([]byte, 2048)
	for {
		n, _, err := w.conn.ReadFrom(buf)
		if err != nil {
			t.Fatalf("waiting for a reply: %v", err)
		}
		switch f := buf[:n]; {
		case n < 42:
		case isServersQuestion(f):
			w.answerARP(f)
		case binary.BigEndian.Uint16(f[12:]) == unix.ETH_P_IP && f[23] == 17 && binary.BigEndian.Uint16(f[34:]) == 67:
			return parseFrame(t, f)
		}
	}
}

// isServersQuestion reports whether a frame is an ARP request of the bridge.
func isServersQuestion(f []byte) bool {
	return binary.BigEndian.Uint16(f[12:]) == unix.ETH_P_ARP && f[21] == 1 && bytes.Equal(f[6:12], mac(1))
}

// answerARP answers the server's question with the hardware address that a
// guest of that address would have.
func (w *vethWire) answerARP(q []byte) {
	hw := mac(q[41])
	f := append(append(append([]byte{}, q[6:12]...), hw...), 8, 6, 0, 1, 8, 0, 6, 4, 0, 2)
	f = append(append(f, hw...), q[38:42]...)
	f = append(f, q[22:32]...)
	_, _ = w.conn.WriteTo(f, &packet.Addr{HardwareAddr: net.HardwareAddr(q[6:12])})
}

// parseFrame takes a reply out of its frame, whose checksums must be right.
func parseFrame(t testing.TB, f []byte) dhcpdtest.Sent {
	t.Helper()
	dstIP := netip.AddrFrom4([4]byte(f[30:34]))
	if nstest.Checksum(f[14:34]) != 0 {
		t.Errorf("wrong IP checksum in reply to %v", dstIP)
	}
	udp := f[34 : 14+binary.BigEndian.Uint16(f[16:])]
	pseudo := append(append([]byte{}, f[26:34]...), 0, 17, byte(len(udp)>>8), byte(len(udp)))
	if binary.BigEndian.Uint16(udp[6:]) != 0 && nstest.Checksum(pseudo, udp) != 0 {
		t.Errorf("wrong UDP checksum in reply to %v", dstIP)
	}
	if src := netip.AddrFrom4([4]byte(f[26:30])); src != serverAddr {
		t.Errorf("a reply comes from %v", src)
	}
	return dhcpdtest.Sent{
		HW:      append(net.HardwareAddr{}, f[:6]...),
		Dst:     netip.AddrPortFrom(dstIP, binary.BigEndian.Uint16(udp[2:])),
		Payload: append([]byte{}, udp[8:]...),
	}
}
