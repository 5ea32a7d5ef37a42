package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
)

// How a load is put on a server: so many clients ask at a time, the next one as soon
// as one has its lease. Who is not answered in time is counted as lost.
const (
	loadWindow   = 64
	loadPatience = 2 * time.Second
)

// loadResult is what became of a load.
type loadResult struct {
	period         time.Duration
	leases, lost   int
	offers, grants []time.Duration // from question to answer
}

// visitor is a client of a load.
type visitor struct {
	asked    time.Time
	offered  bool
	question []byte // for as long as it waits
}

// wire is how a load's messages come to the server and back.
type wire interface {
	// send sends a message of the client with a number.
	send(n int, message []byte) error
	// receive returns the next message that may be for a client, nil for one that is not.
	// Its memory is buf's.
	receive(buf []byte) ([]byte, error)
	SetReadDeadline(t time.Time) error
	Close() error
}

// load is clients, behind a relay or on the link.
type load struct {
	wire
	ipv6    bool
	server  netip.Addr // of DHCPv4
	relay   netip.Addr // of DHCPv4; the zero Addr: there is none
	window  int        // how many clients ask at a time
	rate    int        // how many begin to in a second; 0: as soon as others have their lease
	next    int        // number of the next client
	waiting map[int]*visitor
	result  loadResult
}

// relayWire is a relay's socket.
type relayWire struct {
	net.PacketConn
	to net.Addr
}

func (w relayWire) send(_ int, message []byte) error {
	_, err := w.WriteTo(message, w.to)
	return err
}

func (w relayWire) receive(buf []byte) ([]byte, error) {
	n, _, err := w.ReadFrom(buf)
	return buf[:n], err
}

// newLoad opens a relay's socket in the guest. The clients have numbers from first
// on.
func newLoad(b *bench, guest *nstest.NS, ipv6 bool, first int) *load {
	l := &load{
		ipv6: ipv6, server: netip.MustParseAddr(serverAddr), relay: netip.MustParseAddr(guestAddr),
		window: loadWindow, next: first, waiting: make(map[int]*visitor),
	}
	var err error
	if ipv6 {
		l.wire, err = openRelay6(guest)
	} else {
		l.wire, err = openRelay(guest, l.relay, l.server)
	}
	if err != nil {
		b.Fatalf("opening the guest's socket: %w", err)
	}
	b.Cleanup(func() { _ = l.Close() })
	return l
}

// openRelay opens the socket of a relay in a guest.
func openRelay(guest *nstest.NS, from, server netip.Addr) (w relayWire, err error) {
	w.to = net.UDPAddrFromAddrPort(netip.AddrPortFrom(server, dhcpv4.ServerPort))
	err = guest.Do(func() (err error) {
		at := netip.AddrPortFrom(from, dhcpv4.ServerPort)
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { roomFor(int(fd)) })
		}}
		w.PacketConn, err = lc.ListenPacket(context.Background(), "udp4", at.String())
		return err
	})
	return w, err
}

// roomFor has the answers for many clients, who have one socket here, wait in it.
func roomFor(fd int) { _ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) }

// openRelay6 is openRelay of DHCPv6.
func openRelay6(guest *nstest.NS) (w relayWire, err error) {
	// With a zone in the address the library would list all links for each message.
	w.to = &net.UDPAddr{IP: dhcpv6.AllDHCPRelayAgentsAndServers, Port: dhcpv6.DefaultServerPort}
	err = guest.Do(func() (err error) {
		ifi, err := net.InterfaceByName(guestLink)
		if err != nil {
			return err
		}
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			return errors.Join(c.Control(func(fd uintptr) {
				roomFor(int(fd))
				err = errors.Join(unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, ifi.Index),
					unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 0))
			}), err)
		}}
		w.PacketConn, err = lc.ListenPacket(context.Background(), "udp6", fmt.Sprintf("[::]:%d", dhcpv6.DefaultServerPort))
		return err
	})
	return w, err
}

// run puts the load on the server for a while, or until so many have a lease.
func (l *load) run(period time.Duration, leases int) (loadResult, error) {
	begin := time.Now()
	looked, begun := begin, 0 // for those to be forgotten; how many clients
	for buf := make([]byte, 4096); time.Since(begin) < period && l.result.leases < leases; {
		for len(l.waiting) < l.window && l.due(begun, begin) {
			if err := l.ask(l.next, &visitor{question: l.first(l.next)}); err != nil {
				return l.result, err
			}
			l.next++
			begun++
		}
		if err := l.SetReadDeadline(time.Now().Add(l.pause())); err != nil {
			return l.result, err
		}
		b, err := l.receive(buf)
		if err == nil {
			err = l.answer(b)
		} else if errors.Is(err, os.ErrDeadlineExceeded) {
			err = nil
		}
		if err != nil {
			return l.result, err
		}
		if now := time.Now(); now.Sub(looked) > loadPatience/20 {
			l.forget()
			looked = now
		}
	}
	l.result.period = time.Since(begin)
	return l.result, nil
}

// due reports whether one more client is to begin, of whom so many have since a time.
func (l *load) due(begun int, since time.Time) bool {
	return l.rate == 0 || begun < int(time.Since(since).Seconds()*float64(l.rate))
}

// pause is how long is waited for a message before others may begin.
func (l *load) pause() time.Duration {
	if l.rate > 0 {
		return time.Millisecond
	}
	return 20 * time.Millisecond
}

// ask sends v's question.
func (l *load) ask(n int, v *visitor) error {
	v.asked = time.Now()
	l.waiting[n] = v
	return l.send(n, v.question)
}

// forget gives up those who have waited for too long.
func (l *load) forget() {
	for n, v := range l.waiting {
		if time.Since(v.asked) > loadPatience {
			delete(l.waiting, n)
			l.result.lost++
		}
	}
}

// answer takes a server's message.
func (l *load) answer(b []byte) error {
	number, addr, granted, err := l.parse(b)
	v := l.waiting[number]
	if errors.Is(err, errRefused) { // dnsmasq, which does not probe, may offer two clients one address
		if v != nil { // and has not waited for too long
			delete(l.waiting, number)
			l.result.lost++
		}
		return nil
	}
	if err != nil || v == nil || granted != v.offered {
		return err
	}
	took := time.Since(v.asked)
	if granted {
		l.result.grants = append(l.result.grants, took)
		l.result.leases++
		delete(l.waiting, number)
		return nil
	}
	l.result.offers = append(l.result.offers, took)
	v.offered, v.question = true, l.second(number, addr, b)
	return l.ask(number, v)
}

// errRefused is the error of an answer that gives nothing.
var errRefused = errors.New("the client was refused")

// parse takes the client's number and the address out of an answer, and tells an
// acknowledgement from an offer. A refusal is an error. It reads what servers send as far as
// that goes, since the bench shares the processors with the server; number is negative for
// what is no answer.
func (l *load) parse(b []byte) (number int, a netip.Addr, granted bool, err error) {
	if l.ipv6 {
		return parse6(b)
	}
	if len(b) < dhcpHeader || b[0] != byte(dhcpv4.OpcodeBootReply) {
		return -1, a, false, nil
	}
	number, a = int(binary.BigEndian.Uint32(b[4:])), netip.AddrFrom4([4]byte(b[16:]))
	typ := dhcpv4.MessageTypeNone
	for rest := b[dhcpHeader:]; len(rest) > 2 && rest[0] != dhcpv4.OptionEnd.Code() && len(rest) >= 2+int(rest[1]); rest = rest[2+int(rest[1]):] {
		if rest[0] == dhcpv4.OptionDHCPMessageType.Code() {
			typ = dhcpv4.MessageType(rest[2])
		}
	}
	if typ != dhcpv4.MessageTypeOffer && typ != dhcpv4.MessageTypeAck {
		return number, a, false, fmt.Errorf("%w: %v", errRefused, typ)
	}
	return number, a, typ == dhcpv4.MessageTypeAck, nil
}

// dhcpHeader is the length of what is ahead of the options of a DHCPv4 message, relayHeader of
// those of a relay's in DHCPv6, and iaHeader of those of an IA.
const (
	dhcpHeader  = 240
	relayHeader = 34
	iaHeader    = 12
)

// option6 is the value of the first option of that code, nil for none.
func option6(b []byte, code dhcpv6.OptionCode) []byte {
	for len(b) >= 4 {
		size := 4 + int(binary.BigEndian.Uint16(b[2:]))
		if size > len(b) {
			return nil
		}
		if binary.BigEndian.Uint16(b) == uint16(code) {
			return b[4:size]
		}
		b = b[size:]
	}
	return nil
}

// inner6 is the message in a relay's, nil where there is none.
func inner6(b []byte) []byte {
	if len(b) < relayHeader || b[0] != byte(dhcpv6.MessageTypeRelayReply) {
		return nil // the relay hears its own questions
	}
	return option6(b[relayHeader:], dhcpv6.OptionRelayMsg)
}

func parse6(b []byte) (number int, a netip.Addr, granted bool, err error) {
	m := inner6(b)
	if len(m) < 4 {
		return -1, a, false, nil
	}
	number = int(m[1])<<16 | int(binary.BigEndian.Uint16(m[2:]))
	var in []byte
	if ia := option6(m[4:], dhcpv6.OptionIANA); len(ia) >= iaHeader {
		in = option6(ia[iaHeader:], dhcpv6.OptionIAAddr)
	}
	if len(in) < 16 {
		return number, a, false, errRefused
	}
	return number, netip.AddrFrom16([16]byte(in)), m[0] == byte(dhcpv6.MessageTypeReply), nil
}

// first is the first question of a client, second that for an offer.
func (l *load) first(n int) []byte {
	if l.ipv6 {
		return message6(n, dhcpv6.MessageTypeSolicit, nil, netip.Addr{})
	}
	return l.message4(n, dhcpv4.MessageTypeDiscover)
}

func (l *load) second(n int, a netip.Addr, offer []byte) []byte {
	if !l.ipv6 {
		id, addr := l.server.As4(), a.As4()
		return l.message4(n, dhcpv4.MessageTypeRequest,
			append([]byte{dhcpv4.OptionRequestedIPAddress.Code(), 4}, addr[:]...), append([]byte{dhcpv4.OptionServerIdentifier.Code(), 4}, id[:]...))
	}
	return message6(n, dhcpv6.MessageTypeRequest, option6(inner6(offer)[4:], dhcpv6.OptionServerID), a)
}

// message4 is a message with options besides its type.
func (l *load) message4(n int, typ dhcpv4.MessageType, options ...[]byte) []byte {
	const leastMessage = 300
	b := make([]byte, dhcpHeader, leastMessage)
	b[0], b[1], b[2] = byte(dhcpv4.OpcodeBootRequest), 1, 6
	binary.BigEndian.PutUint32(b[4:], uint32(n))
	if l.relay.IsValid() {
		relay := l.relay.As4()
		copy(b[24:], relay[:])
	}
	mac := clientMAC(n)
	copy(b[28:], mac[:])
	copy(b[236:], []byte{99, 130, 83, 99})
	b = append(b, dhcpv4.OptionDHCPMessageType.Code(), 1, byte(typ))
	for _, o := range options {
		b = append(b, o...)
	}
	return append(b, dhcpv4.OptionEnd.Code())[:leastMessage]
}

// appendOption6 appends an option.
func appendOption6(b []byte, code dhcpv6.OptionCode, value []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(code))
	return append(binary.BigEndian.AppendUint16(b, uint16(len(value))), value...)
}

// message6 is a message as a relay forwards it. The server's identifier, of a Request, is what
// its Advertise has.
func message6(n int, typ dhcpv6.MessageType, server []byte, a netip.Addr) []byte {
	mac := clientMAC(n)
	m := appendOption6([]byte{byte(typ), byte(n >> 16), byte(n >> 8), byte(n)}, dhcpv6.OptionClientID, duidOf(n))
	ia := make([]byte, iaHeader)
	ia[3] = 1
	if server != nil {
		m = appendOption6(m, dhcpv6.OptionServerID, server)
		ia = appendOption6(ia, dhcpv6.OptionIAAddr, append(a.AsSlice(), make([]byte, 8)...))
	}
	m = appendOption6(m, dhcpv6.OptionIANA, ia)
	out := make([]byte, relayHeader)
	out[0] = byte(dhcpv6.MessageTypeRelayForward)
	link := netip.MustParseAddr(serverAddr6).As16()
	copy(out[2:], link[:])
	copy(out[18:], []byte{0xfe, 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]})
	return appendOption6(out, dhcpv6.OptionRelayMsg, m)
}
