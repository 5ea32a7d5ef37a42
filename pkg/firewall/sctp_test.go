package firewall_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// The kernel that runs the tests may have no sockets of SCTP, so that its packets are made
// here: those which open an association (RFC 9260 section 3.3.2 and 3.3.3).
const (
	sctpInit    = 1
	sctpInitAck = 2
	sctpTag     = 0x76000001
)

// sctpPacket is a packet with the one chunk.
func sctpPacket(from, to uint16, tag uint32, chunk byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, from)
	b = binary.BigEndian.AppendUint16(b, to)
	b = binary.BigEndian.AppendUint32(b, tag)
	b = append(b, 0, 0, 0, 0, chunk, 0, 0, 20)
	for _, n := range []uint32{sctpTag, 1 << 16, 1<<16 | 1, 1} { // tag, window, streams, first number
		b = binary.BigEndian.AppendUint32(b, n)
	}
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// listenSCTP receives the packets of SCTP in a namespace, nil for the host's, of the family
// of an address.
func listenSCTP(ns *nstest.NS, of netip.Addr) (conn net.PacketConn, err error) {
	network := "ip4:132"
	if of.Is6() {
		network = "ip6:132"
	}
	listen := func() (err error) {
		conn, err = net.ListenPacket(network, "")
		return err
	}
	if ns == nil {
		return conn, listen()
	}
	return conn, ns.Do(listen)
}

// acceptSCTP answers in a guest who wants an association, at any port; its answer comes from
// that port, and the window in it is that port too.
func (h *host) acceptSCTP(ns *nstest.NS, guest netip.Addr, seen func(from netip.Addr, port uint16)) {
	h.Helper()
	conn, err := listenSCTP(ns, guest)
	if err != nil {
		h.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for b := make([]byte, 100); ; {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			if n < 32 || b[12] != sctpInit {
				continue
			}
			at, _ := netip.ParseAddr(from.String())
			client, port := binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
			seen(at.Unmap(), port)
			_, _ = conn.WriteTo(sctpPacket(port, client, sctpTag, sctpInitAck), from)
		}
	})
	h.Cleanup(func() { _ = conn.Close(); running.Wait() })
}

// openSCTP asks for an association, and says whether it is answered by the port asked.
func openSCTP(ns *nstest.NS, to netip.Addr, from, port uint16) error {
	conn, err := listenSCTP(ns, to)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	send := func() error {
		_, err := conn.WriteTo(sctpPacket(from, port, 0, sctpInit), &net.IPAddr{IP: to.AsSlice()})
		return err
	}
	if ns == nil {
		err = send()
	} else {
		err = ns.Do(send)
	}
	if err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	for b := make([]byte, 100); ; {
		n, _, err := conn.ReadFrom(b)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return errors.New(lost)
		case err != nil:
			return err
		case n >= 32 && b[12] == sctpInitAck && binary.BigEndian.Uint16(b[2:]) == from && binary.BigEndian.Uint16(b) == port:
			return nil
		}
	}
}

// Associations of SCTP are led by each writer as those of TCP are, from everywhere, to the
// same ports, to others and in ranges.
func TestForwardsOfSCTP(t *testing.T) {
	byEachWriter(t, func(h *host) {
		lan := nstest.NewLAN(h)
		nstest.IP(h, "link set lo up")
		lan.IP("route add 10.0.0.0/16 via " + nstest.Uplink)
		lan.IP("-6 route add fd00::/16 via " + nstest.Uplink6)
		f := h.firewall(false)
		n := firewall.Network{Name: "nat", Bridge: "nat", Mode: firewall.ModeNAT, NATIPv6: true, Subnets: subnets("10.0.1.1/24", "fd00:1::1/64"), NoLoopback6: true}
		other := firewall.Network{Name: "other", Bridge: "other", Mode: firewall.ModeNAT, NATIPv6: true, Subnets: subnets("10.0.3.1/24", "fd00:3::1/64")}
		guest, beside := h.guestIn(n), h.guestIn(other)
		sibling := nstest.Guest(h, "nat", "sibling", "")
		sibling.IP("addr add 10.0.1.3/24 dev eth0")
		sibling.IP("addr add fd00:1::3/64 dev eth0 nodad")
		sibling.IP("route add default via 10.0.1.1")
		sibling.IP("-6 route add default via fd00:1::1")
		var mu sync.Mutex
		last := ""
		for _, s := range n.Subnets {
			to := s.Addr().Next()
			for _, forward := range []firewall.Forward{
				{Ports: firewall.PortRange{Start: 5000, End: 5000}, ToPort: 5000},
				{Ports: firewall.PortRange{Start: 5010, End: 5010}, ToPort: 600},
				{Ports: firewall.PortRange{Start: 5020, End: 5029}, ToPort: 5020},
				{Ports: firewall.PortRange{Start: 5030, End: 5039}, ToPort: 700},
			} {
				forward.Protocol, forward.To = "sctp", to
				n.Forwards = append(n.Forwards, forward)
			}
			h.acceptSCTP(guest.ns, to, func(from netip.Addr, port uint16) {
				mu.Lock()
				defer mu.Unlock()
				last = fmt.Sprintf("%s %d", from, port)
			})
		}
		nstest.Exec(h, "sysctl", "-qw", "net.ipv4.conf.nat.route_localnet=1")
		h.set(f, n)
		h.set(f, other)
		h.routing()
		client := uint16(20000)
		for _, from := range []struct {
			what   string
			ns     *nstest.NS
			to, as string
		}{
			{"outside", lan, nstest.Uplink, nstest.LANHost},
			{"outside", lan, nstest.Uplink6, nstest.LANHost6},
			{"the host", nil, nstest.Uplink, nstest.Uplink},
			{"the host", nil, nstest.Uplink6, nstest.Uplink6},
			{"the host by 127.0.0.1", nil, "127.0.0.1", "10.0.1.1"},
			{"the guest", guest.ns, nstest.Uplink, "10.0.1.1"},
			{"the guest", guest.ns, nstest.Uplink6, "fd00:1::1"},
			{"its sibling", sibling, nstest.Uplink, "10.0.1.1"},
			{"its sibling", sibling, nstest.Uplink6, "fd00:1::1"},
			{"a guest of another network", beside.ns, nstest.Uplink, "10.0.1.1"},
			{"a guest of another network", beside.ns, nstest.Uplink6, "fd00:1::1"},
		} {
			for port, lands := range map[uint16]int{5000: 5000, 5010: 600, 5025: 5025, 5037: 707} {
				client++
				var err error
				for range 3 { // the first of a pair may be lost while they find each other
					if err = openSCTP(from.ns, netip.MustParseAddr(from.to), client, port); err == nil {
						break
					}
				}
				mu.Lock()
				got := last
				mu.Unlock()
				if want := fmt.Sprintf("%s %d", from.as, lands); err != nil || got != want {
					h.Errorf("%s asks %s port %d: %v, the guest sees %q, want %q", from.what, from.to, port, err, got, want)
				}
			}
		}
	})
}
