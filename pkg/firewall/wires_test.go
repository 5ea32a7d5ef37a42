package firewall_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// Protocols of layer 4. Of others no ports are known.
const (
	tcp, udp, icmp, icmp6 = unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6
)

// packet is one of those that tests send: an opening one of a connection, or its answer.
type packet struct {
	source, dest netip.Addr
	protocol     uint8
	from, to     uint16 // ports, or the identifier of an echo in from
	device       string // by which this host sends it, empty for any
	answer       bool
	number       uint32 // by which it is known again
}

// toAll reports whether the packet goes to many, who do not answer it.
func (p packet) toAll() bool {
	return p.dest.IsMulticast() || p.dest == netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// mark stands ahead of packets' numbers.
const mark = "vnetd's test "

// payload is what is in the packet.
func (p packet) payload() []byte {
	b := binary.BigEndian.AppendUint32([]byte(mark), p.number)
	if p.answer {
		return append(b, 1, 0, 0)
	}
	return append(b, 0, 0, 0)
}

// reply answers the packet as it arrived.
func (p packet) reply() packet {
	p.source, p.dest, p.from, p.to, p.answer = p.dest, p.source, p.to, p.from, true
	if p.protocol == icmp || p.protocol == icmp6 {
		p.from, p.to = p.to, p.from
	}
	return p
}

// transport is the packet without its IP header.
func (p packet) transport() []byte {
	var b []byte
	check := 0 // where the checksum stands
	switch p.protocol {
	case udp:
		b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, p.from), p.to)
		b, check = append(binary.BigEndian.AppendUint16(b, uint16(8+len(p.payload()))), 0, 0), 6
	case tcp:
		b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, p.from), p.to)
		const syn, ack, sequence = 2, 16, 1000
		if p.answer {
			b = append(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, sequence), sequence+1), 5<<4, syn|ack)
		} else {
			b = append(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, sequence), 0), 5<<4, syn)
		}
		b, check = append(b, 0xff, 0xff, 0, 0, 0, 0), 16
	case icmp, icmp6:
		kinds := map[bool][2]byte{false: {8, 0}, true: {128, 129}}[p.protocol == icmp6] // of echo, and its answer
		b, check = binary.BigEndian.AppendUint16([]byte{kinds[0], 0, 0, 0}, p.from), 2
		if p.answer {
			b[0] = kinds[1]
		}
		b = append(b, 0, 1)
	default: // what has no right checksum the kernel does not reject
		b = []byte{0, 0}
	}
	b = append(b, p.payload()...)
	binary.BigEndian.PutUint16(b[check:], nstest.Checksum(p.pseudo(len(b)), b))
	return b
}

// pseudo is the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1), which of IPv4 only
// protocols with ports have.
func (p packet) pseudo(size int) []byte {
	if p.source.Is4() && p.protocol != tcp && p.protocol != udp {
		return nil
	}
	b := append(p.source.AsSlice(), p.dest.AsSlice()...)
	return append(binary.BigEndian.AppendUint32(b, uint32(size)), 0, 0, 0, p.protocol)
}

// bytes is the packet with its IP header.
func (p packet) bytes() []byte {
	body := p.transport()
	var b []byte
	if p.source.Is4() {
		b = binary.BigEndian.AppendUint16([]byte{0x45, 0}, uint16(20+len(body)))
		b = append(b, 0, 0, 0x40, 0, 64, p.protocol, 0, 0)
		b = append(append(b, p.source.AsSlice()...), p.dest.AsSlice()...)
		binary.BigEndian.PutUint16(b[10:], nstest.Checksum(b))
	} else {
		b = binary.BigEndian.AppendUint16([]byte{0x60, 0, 0, 0}, uint16(len(body)))
		b = append(append(append(b, p.protocol, 64), p.source.AsSlice()...), p.dest.AsSlice()...)
	}
	return append(b, body...)
}

// arrival is a packet that somebody got, or an error of ICMP about one.
type arrival struct {
	packet
	rejected bool // it is such an error
}

// read reads a packet with its IP header; false if it is none of the tests'.
func read(b []byte) (a arrival, ok bool) {
	at := strings.Index(string(b), mark)
	if at < 0 || len(b) < at+len(mark)+5 || len(b) < 40 {
		return a, false
	}
	a.number, a.answer = binary.BigEndian.Uint32(b[at+len(mark):]), b[at+len(mark)+4] != 0
	size := 20
	if b[0]>>4 == 4 {
		a.protocol, a.source, a.dest = b[9], netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
	} else {
		size = 40
		a.protocol, a.source, a.dest = b[6], netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
	}
	return a, a.readTransport(b[size:])
}

// readTransport reads what is behind the IP header.
func (a *arrival) readTransport(b []byte) bool {
	const unreachable, unreachable6, echo6 = 3, 1, 128
	switch a.protocol {
	case tcp, udp:
		a.from, a.to = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	case icmp:
		a.from, a.rejected = binary.BigEndian.Uint16(b[4:]), b[0] == unreachable
		return a.rejected || b[0] == 8 || b[0] == 0
	case icmp6:
		a.from, a.rejected = binary.BigEndian.Uint16(b[4:]), b[0] == unreachable6
		return a.rejected || b[0] == echo6 || b[0] == echo6+1
	}
	return true
}

// party is somebody who sends and receives packets: the machine behind a TAP device or, of
// the test's own namespace, what is sent by this host and accepted by it.
type party struct {
	name        string
	bridge      string // of which it is a guest, empty for none
	second      bool   // it is not the first one there
	addrs       []netip.Addr
	mac, router firewall.MAC
	tap         *os.File
}

// wires are all parties.
type wires struct {
	*host
	parties []*party
	self    *party
	poll    int
	readers map[int32]func() // what came by each descriptor
	out     map[bool]int     // by which this host sends, IPv4 or not
	got     []delivery
}

// delivery is what came to whom.
type delivery struct {
	arrival
	party *party
}

// newWires has this host send and receive.
func newWires(h *host) *wires {
	h.Helper()
	w := &wires{host: h, self: &party{name: "host"}, readers: map[int32]func(){}, out: map[bool]int{}}
	var err error
	if w.poll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { _ = unix.Close(w.poll) })
	for is4, family := range map[bool]int{true: unix.AF_INET, false: unix.AF_INET6} {
		w.out[is4] = w.raw(family, unix.IPPROTO_RAW)
		if err := unix.SetsockoptInt(w.out[is4], unix.SOL_SOCKET, unix.SO_BROADCAST, 1); err != nil {
			h.Fatal(err)
		}
	}
	for _, setting := range []string{
		"net.ipv4.icmp_echo_ignore_all=1", "net.ipv6.icmp.echo_ignore_all=1", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0",
		"net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.default.send_redirects=0", "net.ipv6.conf.default.accept_dad=0",
	} {
		nstest.Exec(h, "sysctl", "-qw", setting)
	}
	h.routing()
	return w
}

// raw is a raw socket.
func (w *wires) raw(family, protocol int) int {
	w.Helper()
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// hear has what comes by a descriptor be read.
func (w *wires) hear(fd int, read func()) {
	w.Helper()
	w.readers[int32(fd)] = read
	if err := unix.EpollCtl(w.poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
		w.Fatal(err)
	}
}

// accepts has this host accept a protocol: raw sockets get what no rule has stopped.
func (w *wires) accepts(is4 bool, protocol uint8) {
	family := map[bool]int{true: unix.AF_INET, false: unix.AF_INET6}[is4]
	fd := w.raw(family, int(protocol))
	b := make([]byte, 1<<12)
	w.hear(fd, func() {
		for {
			n, from, err := unix.Recvfrom(fd, b, 0)
			if err != nil {
				return
			}
			if is4 {
				w.came(w.self, b[:n])
				continue
			}
			// Without its header.
			head := append(make([]byte, 8), from.(*unix.SockaddrInet6).Addr[:]...)
			head[0], head[6] = 0x60, protocol
			w.came(w.self, append(append(head, make([]byte, 16)...), b[:n]...))
		}
	})
}

// came notes a packet.
func (w *wires) came(p *party, b []byte) {
	if a, ok := read(b); ok {
		w.got = append(w.got, delivery{a, p})
	}
}

// etherSize is that of Ethernet's header.
const etherSize = 14

// join has a party be behind a new TAP device, a port of bridge if that is not empty. It knows
// this host by the address of the bridge, or else of the device.
func (w *wires) join(name, device, bridge string, last byte, addrs ...netip.Addr) *party {
	w.Helper()
	tap, err := nstest.OpenTAP(device)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = tap.Close() })
	p := &party{name: name, bridge: bridge, addrs: addrs, tap: tap, mac: firewall.MAC{2, 0, 0, 0, 1, last}, router: firewall.MAC{2, 0, 0, 0, 0, last}}
	nstest.IP(w, "link set "+device+" address "+p.router.String())
	at := device
	if bridge != "" {
		at = bridge
		nstest.IP(w, "link set "+device+" master "+bridge)
		p.router = firewall.MAC{2, 0, 0, 0, 2, 0}
	}
	nstest.IP(w, "link set "+device+" up")
	for _, a := range addrs {
		nstest.IP(w, "neigh replace "+a.String()+" lladdr "+p.mac.String()+" nud permanent dev "+at)
	}
	w.parties = append(w.parties, p)
	fd := int(tap.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		w.Fatal(err)
	}
	b := make([]byte, 1<<12)
	w.hear(fd, func() {
		for {
			n, err := unix.Read(fd, b)
			if err != nil {
				return
			}
			const group = 1
			if n > etherSize && (firewall.MAC(b[:6]) == p.mac || b[0]&group != 0) { // a bridge sends to all what it does not know
				w.came(p, b[etherSize:n])
			}
		}
	})
	return p
}

// sending is a packet that a party sends, and what came of it.
type sending struct {
	what string // for people
	from *party
	packet
	came []delivery
}

// arrived is the delivery of the packet itself, nil for none: with it all is known.
func (s *sending) arrived() *delivery {
	for i := range s.came {
		if !s.came[i].rejected {
			return &s.came[i]
		}
	}
	return nil
}

// failure is who is told that the packet is rejected, if anybody is.
func (s *sending) failure() string {
	switch {
	case len(s.came) == 0:
		return lost
	case s.came[0].party == s.from:
		return rejected
	}
	return rejected + ", " + s.came[0].party.name + " is told"
}

// frame is a packet to this host, from behind a TAP device.
func (from *party) frame(p packet) []byte {
	kind := []byte{0x08, 0}
	if p.source.Is6() {
		kind = []byte{0x86, 0xdd}
	}
	return slices.Concat(from.router[:], from.mac[:], kind, p.bytes())
}

// send has a party send a packet.
func (w *wires) send(from *party, p packet) {
	w.Helper()
	b := p.bytes()
	var err error
	switch {
	case from != w.self:
		_, err = unix.Write(int(from.tap.Fd()), from.frame(p))
	case p.dest.Is4():
		err = errors.Join(unix.BindToDevice(w.out[true], p.device), unix.Sendto(w.out[true], b, 0, &unix.SockaddrInet4{Addr: p.dest.As4()}))
	default:
		err = errors.Join(unix.BindToDevice(w.out[false], p.device), unix.Sendto(w.out[false], b, 0, &unix.SockaddrInet6{Addr: p.dest.As16()}))
	}
	if err != nil {
		w.Fatalf("sending %+v: %v", p, err)
	}
}

// receive notes what comes, until nothing has come for as many milliseconds.
func (w *wires) receive(wait int) {
	w.Helper()
	for events := make([]unix.EpollEvent, 16); ; {
		n, err := unix.EpollWait(w.poll, events, wait)
		if err != nil && err != unix.EINTR {
			w.Fatal(err)
		}
		if n == 0 {
			return
		}
		for _, e := range events[:max(n, 0)] {
			w.readers[e.Fd]()
		}
	}
}

// carry has all be sent, and waits for what comes of it. What a TAP device gets has passed all
// rules once it is written, but for what a busy kernel puts off. What comes to nothing is sent
// again: answers of the kernel's may be left out.
func (w *wires) carry(all []*sending) {
	w.Helper()
	byNumber := make(map[uint32]*sending, len(all))
	for _, s := range all {
		byNumber[s.number] = s
	}
	missing := all
	for try := 0; try < 3 && len(missing) > 0; try++ {
		w.got = nil
		for _, s := range missing {
			w.send(s.from, s.packet)
			w.receive(0)
		}
		w.receive(100)
		for _, d := range w.got {
			if s := byNumber[d.number]; s != nil && s.answer == d.answer {
				s.came = append(s.came, d)
			}
		}
		missing = slices.DeleteFunc(slices.Clone(missing), func(s *sending) bool { return len(s.came) > 0 })
	}
}

// fates are what becomes of packets and, if they arrive, of their answers.
func (w *wires) fates(all []*sending) []string {
	w.Helper()
	w.carry(all)
	answers, of := []*sending(nil), map[*sending]*sending{}
	for _, s := range all {
		if d := s.arrived(); d != nil && !s.toAll() {
			came := d.packet
			came.dest = s.dest // of what this host has got it is not known
			of[s] = &sending{from: d.party, packet: came.reply()}
			answers = append(answers, of[s])
		}
	}
	w.carry(answers)
	var texts []string
	for _, s := range all {
		text := s.failure()
		if d := s.arrived(); d != nil {
			text = as(s.packet, d.packet)
		}
		if answer := of[s]; answer != nil {
			text += answeredAs(s, answer)
		}
		texts = append(texts, text)
	}
	return texts
}

// as says from which source a packet arrives.
func as(sent, came packet) string {
	text := "arrives"
	if came.source != sent.source {
		text += " from " + came.source.String()
	}
	return text + portClass(sent, came)
}

// answeredAs says what becomes of the answer.
func answeredAs(s, answer *sending) string {
	d := answer.arrived()
	switch {
	case d == nil:
		return ", its answer is " + answer.failure()
	case d.party != s.from || d.source != s.dest || (s.protocol == tcp || s.protocol == udp) && d.to != s.packet.from:
		return fmt.Sprintf(", its answer comes to %s from %s, port %d", d.party.name, d.source, d.to)
	}
	return " and is answered"
}

// portClass is from which ports a packet came, if that is not its own: which one it is, is
// chance where another has that.
func portClass(sent, came packet) string {
	switch port := came.from; {
	case sent.protocol != tcp && sent.protocol != udp || port == sent.from && came.source == sent.source:
		return ""
	case came.source == sent.source: // kept but for who has it already
		return " from another port"
	case port >= 500 && port <= 1000:
		return " port 500-1000"
	case port >= 1024:
		return " port 1024-65535"
	default:
		return " port " + strconv.Itoa(int(port))
	}
}
