package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"

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

// load is a relay with clients behind it.
type load struct {
	ipv6    bool
	conn    net.PacketConn
	to      net.Addr
	next    int // number of the next client
	waiting map[int]*visitor
	result  loadResult
}

// newLoad opens the relay's socket in the guest. The clients have numbers from first
// on.
func newLoad(b *bench, guest *nstest.NS, ipv6 bool, first int) *load {
	l := &load{ipv6: ipv6, next: first, waiting: make(map[int]*visitor)}
	err := guest.Do(func() (err error) {
		lc := new(net.ListenConfig)
		if !ipv6 {
			l.to = &net.UDPAddr{IP: net.ParseIP(serverAddr), Port: dhcpv4.ServerPort}
			l.conn, err = lc.ListenPacket(context.Background(), "udp4", net.JoinHostPort(guestAddr, strconv.Itoa(dhcpv4.ServerPort)))
			return err
		}
		ifi, err := net.InterfaceByName(guestLink)
		if err != nil {
			return err
		}
		l.to = &net.UDPAddr{IP: dhcpv6.AllDHCPRelayAgentsAndServers, Port: dhcpv6.DefaultServerPort, Zone: strconv.Itoa(ifi.Index)}
		l.conn, err = lc.ListenPacket(context.Background(), "udp6", fmt.Sprintf("[::]:%d", dhcpv6.DefaultServerPort))
		return err
	})
	if err != nil {
		b.Fatalf("opening the guest's socket: %w", err)
	}
	b.Cleanup(func() { _ = l.conn.Close() })
	return l
}

// run puts the load on the server for a while, or until so many have a lease.
func (l *load) run(period time.Duration, leases int) (loadResult, error) {
	begin := time.Now()
	for buf := make([]byte, 4096); time.Since(begin) < period && l.result.leases < leases; {
		for len(l.waiting) < loadWindow {
			if err := l.ask(l.next, &visitor{question: l.first(l.next)}); err != nil {
				return l.result, err
			}
			l.next++
		}
		if err := l.conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			return l.result, err
		}
		n, _, err := l.conn.ReadFrom(buf)
		if err == nil {
			err = l.answer(buf[:n])
		} else if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
			err = nil
		}
		if err != nil {
			return l.result, err
		}
		l.forget()
	}
	l.result.period = time.Since(begin)
	return l.result, nil
}

// ask sends v's question.
func (l *load) ask(n int, v *visitor) error {
	v.asked = time.Now()
	l.waiting[n] = v
	_, err := l.conn.WriteTo(v.question, l.to)
	return err
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

// parse takes the client's number and the address out of an answer, and tells an
// acknowledgement from an offer. A refusal is an error.
func (l *load) parse(b []byte) (number int, a netip.Addr, granted bool, err error) {
	if l.ipv6 {
		return parse6(b)
	}
	m, err := dhcpv4.FromBytes(b)
	if err != nil {
		return 0, a, false, err
	}
	a, _ = netip.AddrFromSlice(m.YourIPAddr.To4())
	number = int(binary.BigEndian.Uint32(m.TransactionID[:]))
	switch m.MessageType() {
	case dhcpv4.MessageTypeOffer:
		return number, a, false, nil
	case dhcpv4.MessageTypeAck:
		return number, a, true, nil
	default:
		return number, a, false, fmt.Errorf("client %d was answered %s", number, m.Summary())
	}
}

func parse6(b []byte) (number int, a netip.Addr, granted bool, err error) {
	outer, err := dhcpv6.FromBytes(b)
	if err != nil {
		return 0, a, false, err
	}
	if outer.Type() != dhcpv6.MessageTypeRelayReply {
		return -1, a, false, nil // the relay hears its own questions
	}
	m, err := outer.GetInnerMessage()
	if err != nil {
		return 0, a, false, err
	}
	number = int(m.TransactionID[0])<<16 | int(binary.BigEndian.Uint16(m.TransactionID[1:]))
	ia := m.Options.OneIANA()
	if ia == nil || ia.Options.OneAddress() == nil {
		return number, a, false, fmt.Errorf("client %d was answered %s", number, m.Summary())
	}
	a, _ = netip.AddrFromSlice(ia.Options.OneAddress().IPv6Addr)
	return number, a, m.MessageType == dhcpv6.MessageTypeReply, nil
}

// first is the first question of a client, second that for an offer.
func (l *load) first(n int) []byte {
	if l.ipv6 {
		return message6(n, dhcpv6.MessageTypeSolicit, nil, netip.Addr{})
	}
	return message4(n, dhcpv4.MessageTypeDiscover)
}

func (l *load) second(n int, a netip.Addr, offer []byte) []byte {
	if !l.ipv6 {
		return message4(n, dhcpv4.MessageTypeRequest,
			dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(a.AsSlice())), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.ParseIP(serverAddr))))
	}
	outer, _ := dhcpv6.FromBytes(offer) // parse6 has read it
	inner, _ := outer.GetInnerMessage()
	return message6(n, dhcpv6.MessageTypeRequest, inner.Options.ServerID(), a)
}

func message4(n int, typ dhcpv4.MessageType, mods ...dhcpv4.Modifier) []byte {
	mac := clientMAC(n)
	m := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootRequest, HWType: 1, ClientHWAddr: mac[:], Options: dhcpv4.Options{},
		GatewayIPAddr: net.ParseIP(guestAddr).To4(),
	}
	binary.BigEndian.PutUint32(m.TransactionID[:], uint32(n))
	m.UpdateOption(dhcpv4.OptMessageType(typ))
	for _, mod := range mods {
		mod(m)
	}
	return m.ToBytes()
}

func message6(n int, typ dhcpv6.MessageType, server dhcpv6.DUID, a netip.Addr) []byte {
	mac := clientMAC(n)
	m := &dhcpv6.Message{MessageType: typ, TransactionID: dhcpv6.TransactionID{byte(n >> 16), byte(n >> 8), byte(n)}}
	m.AddOption(dhcpv6.OptClientID(&dhcpv6.DUIDLL{HWType: 1, LinkLayerAddr: mac[:]}))
	ia := &dhcpv6.OptIANA{IaId: [4]byte{0, 0, 0, 1}}
	if server != nil {
		m.AddOption(dhcpv6.OptServerID(server))
		ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.AsSlice()})
	}
	m.AddOption(ia)
	peer := net.IP{0xfe, 0x80, 15: 0}
	copy(peer[8:], []byte{mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
	forward := &dhcpv6.RelayMessage{MessageType: dhcpv6.MessageTypeRelayForward, LinkAddr: net.ParseIP(serverAddr6), PeerAddr: peer}
	forward.AddOption(dhcpv6.OptRelayMessage(m))
	return forward.ToBytes()
}
