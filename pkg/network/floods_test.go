package network_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/miekg/dns"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/internal/nstest"
)

// floodTime is how long a flood of one kind lasts at least: FLOOD_TIME, or three seconds.
func floodTime() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("FLOOD_TIME")); err == nil {
		return d
	}
	return 3 * time.Second
}

// What a flood may cost at most: transfers of TFTP are goroutines, and have their files'
// blocks in memory.
const (
	floodGoroutines = 300
	floodHeap       = 96 << 20
)

// TestFloods has one guest send each kind of messages as fast as it can, under names, cards and
// addresses of many, while another asks for what a guest needs. The network's guards are off,
// but for what DHCP says of them: it is the services that must hold.
func TestFloods(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		files := t.TempDir()
		must(t, os.WriteFile(filepath.Join(files, "boot"), []byte(strings.Repeat("boot", 1000)), 0o600))
		h := newHub(t, t.TempDir(), hubOptions{})
		h.started("<network xmlns:vnetd='urn:vnetd:network:1'><name>one</name><bridge name='one' stp='off'/>" +
			"<dns><host ip='192.0.2.1'><hostname>gw</hostname></host></dns>" +
			"<ip address='192.0.2.1' prefix='24'><tftp root='" + files + "'/><dhcp><range start='192.0.2.100' end='192.0.2.227'/></dhcp></ip>" +
			"<ip family='ipv6' address='fd00:2::1' prefix='64'><dhcp><range start='fd00:2::100' end='fd00:2::17f'/></dhcp></ip>" +
			"<vnetd:guard level='off' dhcp='gateway'/></network>")
		evil := newFlooder(t, nstest.Guest(t, "one", "evil", "52:54:00:66:66:66"))
		s := newSibling(t, nstest.Guest(t, "one", "sib", "52:54:00:00:00:20"))
		s.ask(t, "no")
		goroutines, heap := runtime.NumGoroutine(), heapInUse()

		t.Logf("%-34s %10s %11s %9s  %s", "flood", "messages/s", "goroutines", "heap", "longest answer to the sibling")
		for _, kind := range floods() {
			ctx, cancel := context.WithCancel(t.Context())
			var flooding sync.WaitGroup
			sent, most := 0, 0
			began := time.Now()
			flooding.Go(func() {
				for ; ctx.Err() == nil; sent++ {
					evil.send(kind.frame(sent))
					if sent%32 == 0 {
						time.Sleep(4 * time.Millisecond) // the servers are to be kept busy, not all processors
					}
				}
			})
			longest := map[string]time.Duration{}
			for time.Since(began) < floodTime() {
				for what, took := range s.ask(t, kind.name) {
					longest[what] = max(longest[what], took.Round(time.Millisecond))
				}
				most = max(most, runtime.NumGoroutine())
				time.Sleep(time.Second) // more would be too much of a guest itself
			}
			cancel()
			flooding.Wait()
			now := heapInUse()
			t.Logf("%-34s %10.0f %+11d %+8.1fM  %v", kind.name, float64(sent)/time.Since(began).Seconds(), most-goroutines, float64(int64(now)-int64(heap))/(1<<20), longest)
			if most > goroutines+floodGoroutines {
				t.Errorf("%s: %d goroutines, %d before", kind.name, most, goroutines)
			}
			if now > heap+floodHeap {
				t.Errorf("%s: %d bytes of heap, %d before", kind.name, now, heap)
			}
		}
	})
}

// heapInUse is what the heap has after a collection.
func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// kind is a kind of flood: its frames, by number.
type kind struct {
	name  string
	frame func(n int) []byte
}

// floods are what a guest may send to the services of its network without end.
func floods() []kind {
	card := net.HardwareAddr{0x52, 0x54, 0, 0x66, 0x66, 0x66}
	all := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	many := func() net.HardwareAddr {
		return binary.BigEndian.AppendUint32(net.HardwareAddr{2, 0x66}, rand.Uint32())
	}
	// Each is a neighbour of IPv6, of whom all namespaces of this machine have a thousand.
	some := func(n int) net.HardwareAddr { return net.HardwareAddr{2, 0x66, 0, 0, 0, byte(n)} }
	absent := func(n int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(2 + n%250)}) }
	zero, broadcast := netip.IPv4Unspecified(), netip.AddrFrom4([4]byte{255, 255, 255, 255})
	gateway := netip.AddrFrom4([4]byte{192, 0, 2, 1})
	message := func(hw net.HardwareAddr, mods ...dhcpv4.Modifier) []byte {
		m, _ := dhcpv4.New(append(mods, dhcpv4.WithHwAddr(hw))...)
		return m.ToBytes()
	}
	ofType := func(typ dhcpv4.MessageType) dhcpv4.Modifier { return dhcpv4.WithMessageType(typ) }
	return []kind{
		{"DISCOVER of many clients", func(n int) []byte {
			return frame4(card, all, zero, broadcast, 68, 67, message(many(), ofType(dhcpv4.MessageTypeDiscover)))
		}},
		{"DISCOVER of many cards", func(n int) []byte {
			hw := many()
			return frame4(hw, all, zero, broadcast, 68, 67, message(hw, ofType(dhcpv4.MessageTypeDiscover)))
		}},
		{"renewals of absent addresses", func(n int) []byte {
			return frame4(card, all, absent(n), gateway, 68, 67, message(many(), ofType(dhcpv4.MessageTypeRequest), dhcpv4.WithClientIP(absent(n).AsSlice())))
		}},
		{"DHCPINFORM from absent addresses", func(n int) []byte {
			return frame4(card, all, absent(n), gateway, 68, 67, message(many(), ofType(dhcpv4.MessageTypeInform), dhcpv4.WithClientIP(absent(n).AsSlice())))
		}},
		{"RELEASE and DECLINE for others", func(n int) []byte {
			typ := dhcpv4.MessageTypeRelease
			if n%2 == 1 {
				typ = dhcpv4.MessageTypeDecline
			}
			hw := net.HardwareAddr{2, 0, 0, 7, 0, byte(n)}
			a := netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + n%128)})
			return frame4(card, all, a, gateway, 68, 67, message(hw, ofType(typ), dhcpv4.WithClientIP(a.AsSlice()), dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(a.AsSlice()))))
		}},
		{"Solicit of many clients", func(n int) []byte { return solicit6(card, some(n), many()) }},
		{"Solicit of many cards", func(n int) []byte { hw := many(); return solicit6(hw, some(n), hw) }},
		{"router solicitations", func(n int) []byte {
			hw := some(n)
			return frame6(hw, ether.LinkLocal(hw), netip.IPv6LinkLocalAllRouters(), unix.IPPROTO_ICMPV6, append([]byte{133, 0, 0, 0, 0, 0, 0, 0, 1, 1}, hw...))
		}},
		{"TFTP from absent addresses", func(n int) []byte {
			return frame4(card, all, absent(n), gateway, uint16(2000+n%50000), 69, []byte("\x00\x01boot\x00octet\x00"))
		}},
		{"DNS from absent addresses", func(n int) []byte {
			m, _ := new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.gw.", n), dns.TypeA).Pack()
			return frame4(card, all, absent(n), gateway, uint16(2000+n%50000), 53, m)
		}},
	}
}

// solicit6 is a Solicit of a client in a frame from a card, sent by the address of another.
func solicit6(card, sender, client net.HardwareAddr) []byte {
	m, _ := dhcpv6.NewSolicit(client)
	return frame6(card, ether.LinkLocal(sender), netip.MustParseAddr("ff02::1:2"), unix.IPPROTO_UDP, udp(546, 547, m.ToBytes()))
}

// udp is a datagram without a checksum.
func udp(from, to uint16, payload []byte) []byte {
	b := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(b, from)
	binary.BigEndian.PutUint16(b[2:], to)
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
	return append(b, payload...)
}

// frame4 is the frame of a datagram over IPv4.
func frame4(from, to net.HardwareAddr, src, dst netip.Addr, port, service uint16, payload []byte) []byte {
	f := append(append(append([]byte{}, to...), from...), 8, 0)
	ip := make([]byte, 20)
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(payload)))
	copy(ip[12:], src.AsSlice())
	copy(ip[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(ip[10:], nstest.Checksum(ip))
	return append(append(f, ip...), udp(port, service, payload)...)
}

// frame6 is the frame of a packet to a group, whose checksum stands at byte 6 of a datagram
// and at byte 2 of a message of ICMP.
func frame6(from net.HardwareAddr, src, dst netip.Addr, protocol byte, b []byte) []byte {
	to := dst.As16()
	f := append(append([]byte{0x33, 0x33}, to[12:]...), from...)
	f = append(f, 0x86, 0xdd, 0x60, 0, 0, 0, byte(len(b)>>8), byte(len(b)), protocol, 255)
	f = append(append(f, src.AsSlice()...), to[:]...)
	pseudo := append(append(append([]byte{}, f[22:54]...), 0, 0, byte(len(b)>>8), byte(len(b)), 0, 0, 0, protocol), b...)
	at := 6
	if protocol == unix.IPPROTO_ICMPV6 {
		at = 2
	}
	binary.BigEndian.PutUint16(b[at:], nstest.Checksum(pseudo))
	return append(f, b...)
}

// flooder sends frames from a guest.
type flooder struct {
	fd int
	to unix.SockaddrLinklayer
}

func newFlooder(t *testing.T, g *nstest.NS) *flooder {
	t.Helper()
	f := new(flooder)
	must(t, g.Do(func() error {
		card, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		f.to = unix.SockaddrLinklayer{Ifindex: card.Index}
		f.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	}))
	t.Cleanup(func() { _ = unix.Close(f.fd) })
	return f
}

func (f *flooder) send(frame []byte) { _ = unix.Sendto(f.fd, frame, 0, &f.to) }

// sibling is an honest guest with some clients behind it, another one each time.
type sibling struct {
	dhcp, dhcp6 net.PacketConn
	dns, tftp   net.Conn
	icmp        *icmp.PacketConn
	clients     byte
}

func newSibling(t *testing.T, g *nstest.NS) *sibling {
	t.Helper()
	g.IP("addr add 192.0.2.20/24 dev eth0")
	g.IP("-6 addr add fe80::20/64 dev eth0 nodad")
	s := new(sibling)
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) {
			err = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1), unix.BindToDevice(int(fd), "eth0"))
		}), err)
	}}
	must(t, g.Do(func() error {
		var errs [5]error
		s.dhcp, errs[0] = lc.ListenPacket(t.Context(), "udp4", "0.0.0.0:68")
		s.dhcp6, errs[1] = net.ListenPacket("udp6", "[fe80::20%eth0]:546")
		s.dns, errs[2] = net.Dial("udp", "192.0.2.1:53")
		s.tftp, errs[3] = net.Dial("udp", "192.0.2.1:69")
		s.icmp, errs[4] = icmp.ListenPacket("ip6:ipv6-icmp", "fe80::20%eth0")
		return errors.Join(errs[:]...)
	}))
	t.Cleanup(func() {
		_ = errors.Join(s.dhcp.Close(), s.dhcp6.Close(), s.dns.Close(), s.tftp.Close(), s.icmp.Close())
	})
	must(t, s.icmp.IPv6PacketConn().SetHopLimit(255))
	must(t, s.icmp.IPv6PacketConn().SetMulticastHopLimit(255))
	return s
}

// ask asks each service once, and again after a second as clients do, until it is answered.
// It says how long that took.
func (s *sibling) ask(t *testing.T, flood string) map[string]time.Duration {
	t.Helper()
	s.clients++
	hw := net.HardwareAddr{2, 0, 0, 7, 0, s.clients % 32}
	took := make(map[string]time.Duration)
	for what, once := range map[string]func(hw net.HardwareAddr) error{
		"DHCP": s.lease, "DHCPv6": s.solicit, "DNS": s.resolve, "TFTP": s.read, "RA": s.router,
	} {
		began := time.Now()
		nstest.Eventually(t, wait, fmt.Sprintf("an answer by %s under a flood: %s", what, flood), func() error { return once(hw) })
		took[what] = time.Since(began)
	}
	return took
}

// answered reads from c until right says so, for a second.
func answered(c interface {
	SetReadDeadline(at time.Time) error
}, read func(b []byte) (int, error), right func(b []byte) bool,
) error {
	if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	b := make([]byte, 1500)
	for {
		n, err := read(b)
		if err != nil || right(b[:n]) {
			return err
		}
	}
}

// lease takes a new client from INIT to BOUND.
func (s *sibling) lease(hw net.HardwareAddr) error {
	to := &net.UDPAddr{IP: net.IPv4bcast, Port: 67}
	var got *dhcpv4.DHCPv4
	exchange := func(m *dhcpv4.DHCPv4, want dhcpv4.MessageType) error {
		m.SetBroadcast()
		if _, err := s.dhcp.WriteTo(m.ToBytes(), to); err != nil {
			return err
		}
		return answered(s.dhcp, packets(s.dhcp), func(b []byte) (ok bool) {
			var err error
			got, err = dhcpv4.FromBytes(b)
			return err == nil && got.TransactionID == m.TransactionID && got.MessageType() == want
		})
	}
	m, err := dhcpv4.NewDiscovery(hw)
	if err != nil {
		return err
	}
	if err := exchange(m, dhcpv4.MessageTypeOffer); err != nil {
		return err
	}
	if m, err = dhcpv4.NewRequestFromOffer(got); err != nil {
		return err
	}
	return exchange(m, dhcpv4.MessageTypeAck)
}

// packets reads from c.
func packets(c net.PacketConn) func(b []byte) (int, error) {
	return func(b []byte) (int, error) {
		n, _, err := c.ReadFrom(b)
		return n, err
	}
}

// solicit has a new client be advertised an address.
func (s *sibling) solicit(hw net.HardwareAddr) error {
	m, err := dhcpv6.NewSolicit(hw)
	if err != nil {
		return err
	}
	if _, err := s.dhcp6.WriteTo(m.ToBytes(), &net.UDPAddr{IP: net.ParseIP("ff02::1:2"), Port: 547, Zone: "eth0"}); err != nil {
		return err
	}
	return answered(s.dhcp6, packets(s.dhcp6), func(b []byte) bool {
		got, err := dhcpv6.MessageFromBytes(b)
		return err == nil && got.TransactionID == m.TransactionID && got.Options.OneIANA().Options.OneAddress() != nil
	})
}

func (s *sibling) resolve(net.HardwareAddr) error {
	m := new(dns.Msg).SetQuestion("gw.", dns.TypeA)
	b, err := m.Pack()
	if err != nil {
		return err
	}
	if _, err := s.dns.Write(b); err != nil {
		return err
	}
	return answered(s.dns, s.dns.Read, func(b []byte) bool {
		got := new(dns.Msg)
		return got.Unpack(b) == nil && got.Id == m.Id && len(got.Answer) == 1
	})
}

func (s *sibling) read(net.HardwareAddr) error {
	if _, err := s.tftp.Write([]byte("\x00\x01boot\x00octet\x00")); err != nil {
		return err
	}
	err := answered(s.tftp, s.tftp.Read, func(b []byte) bool { return len(b) == 516 && b[1] == 3 && b[3] == 1 })
	_, _ = s.tftp.Write([]byte{0, 5, 0, 0, 0}) // it wants no more
	time.Sleep(10 * time.Millisecond)          // what comes now is the same transfer's
	return err
}

func (s *sibling) router(net.HardwareAddr) error {
	to := &net.IPAddr{IP: net.ParseIP("ff02::2"), Zone: "eth0"}
	if _, err := s.icmp.WriteTo([]byte{133, 0, 0, 0, 0, 0, 0, 0}, to); err != nil {
		return err
	}
	return answered(s.icmp, packets(s.icmp), func(b []byte) bool { return ipv6.ICMPType(b[0]) == ipv6.ICMPTypeRouterAdvertisement })
}
