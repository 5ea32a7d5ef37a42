package store_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// How many clients ask at a time, and when one asks again.
const (
	atOnce   = 64
	patience = time.Second
)

// person is a client. The odd ones speak DHCPv6.
type person struct {
	number  int
	addr    netip.Addr // what it was acknowledged last
	expiry  time.Time  // its lease lasts as long as this at least
	offer   []byte     // the offer that it takes, nil until it has one
	first   time.Time  // when it asked first in this round
	asked   time.Time  // when it asked last
	done    bool       // for this round
	holding bool       // it has addr from an earlier round and asks for it again
}

func (p *person) v6() bool { return p.number%2 == 1 }

func (p *person) mac() net.HardwareAddr {
	return net.HardwareAddr{2, 0, 0x5e, byte(p.number >> 16), byte(p.number >> 8), byte(p.number)}
}

// duid is what identifies a client of DHCPv6: the server may not have seen its frame,
// and does not believe its hardware address then.
func (p *person) duid() *dhcpv6.DUIDLL {
	return &dhcpv6.DUIDLL{HWType: 1, LinkLayerAddr: p.mac()}
}

// holds reports whether l is p's.
func (p *person) holds(l *dhcpd.Lease) bool {
	if p.v6() {
		return bytes.Equal(l.DUID, p.duid().ToBytes())
	}
	return l.MAC.String() == p.mac().String()
}

// crowd are clients behind one relay, of both families.
type crowd struct {
	t      *testing.T
	mu     sync.Mutex
	people []*person
	owner  map[netip.Addr]*person // of every address ever acknowledged
	queue  []*person              // who is still to ask in this round
	asking map[*person]bool
	sock4  net.PacketConn
	sock6  net.PacketConn
	server *net.UDPAddr // of DHCPv6
	got    score
}

// score is what happened in this round.
type score struct {
	offered int
	acked   int // clients that were told that they have an address
	again   int // of these, such as had it before
}

// score is what happened so far.
func (c *crowd) score() score {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got
}

// newCrowd opens the relay's sockets and reads from them until the test ends.
func newCrowd(t *testing.T, guest *nstest.NS) *crowd {
	t.Helper()
	c := &crowd{t: t, owner: make(map[netip.Addr]*person), asking: make(map[*person]bool)}
	err := guest.Do(func() (err error) {
		lc := new(net.ListenConfig)
		if c.sock4, err = lc.ListenPacket(context.Background(), "udp4", relay.String()+":67"); err != nil {
			return err
		}
		c.sock6, err = lc.ListenPacket(context.Background(), "udp6", "[::]:547")
		if err != nil {
			return err
		}
		ifi, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		// The zone by number: the test's own namespace has no eth0.
		c.server = &net.UDPAddr{IP: net.ParseIP("ff02::1:2"), Port: 547, Zone: strconv.Itoa(ifi.Index)}
		return nil
	})
	if err != nil {
		t.Fatalf("opening the relay's sockets: %v", err)
	}
	for _, reader := range []struct {
		conn   net.PacketConn
		handle func([]byte)
	}{{c.sock4, c.handle4}, {c.sock6, c.handle6}} {
		done := make(chan struct{})
		go func() { defer close(done); c.read(reader.conn, reader.handle) }()
		t.Cleanup(func() { _ = reader.conn.Close(); <-done })
	}
	return c
}

func (c *crowd) read(conn net.PacketConn, handle func([]byte)) {
	buf := make([]byte, 4096)
	for {
		n, _, err := conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			c.mu.Lock()
			handle(buf[:n])
			c.mu.Unlock()
		}
	}
}

// begin has n clients ask, one in four of them for the address that it has.
func (c *crowd) begin(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue, c.got = nil, score{}
	clear(c.asking)
	old := rand.Perm(len(c.people))
	for i := range n {
		p := &person{number: len(c.people)}
		if i%4 == 0 && i/4 < len(old) {
			p = c.people[old[i/4]]
		} else {
			c.people = append(c.people, p)
		}
		p.done, p.offer, p.holding, p.asked = false, nil, p.addr.IsValid(), time.Time{}
		c.queue = append(c.queue, p)
	}
}

// waiting is how many clients of this round have no answer.
func (c *crowd) waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.queue) + len(c.asking)
}

// run lets clients ask until so many more have been acknowledged.
func (c *crowd) run(n int) {
	c.t.Helper()
	want := c.score().acked + n
	c.until("the clients are served", func() bool { return c.score().acked >= want })
}

// finish lets clients ask until all of this round have been acknowledged.
func (c *crowd) finish() {
	c.t.Helper()
	c.until("all clients are served", func() bool { return c.waiting() == 0 })
}

// runFor lets clients ask for a while.
func (c *crowd) runFor(d time.Duration) {
	c.t.Helper()
	end := time.Now().Add(d)
	c.until("", func() bool { return time.Now().After(end) })
}

// until lets clients ask until done.
func (c *crowd) until(what string, done func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(serverLimit); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: not within %v; %d clients wait", what, serverLimit, c.waiting())
		}
		c.push()
	}
}

// push lets the next clients ask, and those again that got no answer.
func (c *crowd) push() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.asking) < atOnce && len(c.queue) > 0 {
		c.asking[c.queue[0]] = true
		c.queue = c.queue[1:]
	}
	for p := range c.asking {
		if time.Since(p.asked) > patience {
			p.offer = nil
			c.ask(p)
		}
	}
}

// drain waits until what the server had sent has been read.
func (c *crowd) drain() {
	const silence = 10 // looks at which nothing is new: on a busy machine answers come late
	last, same := c.score(), 0
	for same < silence {
		time.Sleep(50 * time.Millisecond)
		if is := c.score(); is == last {
			same++
		} else {
			last, same = is, 0
		}
	}
}

// ask sends the message that p's state asks for.
func (c *crowd) ask(p *person) {
	if p.asked.IsZero() { // a later answer may be to this question
		p.first = time.Now()
	}
	p.asked = time.Now()
	if p.v6() {
		_, _ = c.sock6.WriteTo(p.message6(), c.server)
	} else {
		_, _ = c.sock4.WriteTo(p.message4(), &net.UDPAddr{IP: link4.Addr().AsSlice(), Port: 67})
	}
}

// acknowledged notes that p was told that it has a.
func (c *crowd) acknowledged(p *person, a netip.Addr) {
	if other := c.owner[a]; other != nil && other != p {
		c.t.Errorf("client %d has the address %v of client %d", p.number, a, other.number)
	}
	if p.addr.IsValid() && p.addr != a {
		c.t.Errorf("client %d has %v and had %v", p.number, a, p.addr)
	}
	c.owner[a], p.addr, p.expiry = p, a, p.first.Add(crashLease)
	asking := c.asking[p]
	delete(c.asking, p)
	if p.done || !asking {
		return // an answer to a question that was asked twice, or in a former round
	}
	p.done = true
	c.got.acked++
	if p.holding {
		c.got.again++
	}
}

// check fails the test unless the store below root has every lease that a client
// was told of, for as long as it was told.
func (c *crowd) check(root string) {
	c.t.Helper()
	s := open(c.t, dirsIn(root))
	defer closed(c.t, s)
	if s.LeaseDamage() != nil {
		c.t.Errorf("the database is damaged: %v", s.LeaseDamage())
	}
	all, err := s.Leases(uuid).Load()
	if err != nil {
		c.t.Fatal(err)
	}
	stored := make(map[netip.Addr]dhcpd.Lease)
	for _, l := range all {
		stored[l.Addr] = l
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for a, p := range c.owner {
		l, ok := stored[a]
		switch {
		case !ok || l.State != dhcpd.StateBound:
			c.t.Errorf("the lease of %v is lost: stored is %+v", a, l)
		case !p.holds(&l):
			c.t.Errorf("%v is of client %v, stored is %+v", a, p.mac(), l)
		case l.Expiry.Before(p.expiry):
			c.t.Errorf("the lease of %v ends at %v, its client was told %v", a, l.Expiry, p.expiry)
		}
	}
}

// message4 is what the client sends: a DISCOVER, the REQUEST of an offer, or that
// of a client that starts again with the address it had.
func (p *person) message4() []byte {
	m := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootRequest, HWType: 1, ClientHWAddr: p.mac(), Options: dhcpv4.Options{},
		GatewayIPAddr: relay.AsSlice(),
	}
	binary.BigEndian.PutUint32(m.TransactionID[:], uint32(p.number))
	typ := dhcpv4.MessageTypeRequest
	switch {
	case p.holding:
		m.UpdateOption(dhcpv4.OptRequestedIPAddress(p.addr.AsSlice()))
	case p.offer != nil:
		m.UpdateOption(dhcpv4.OptRequestedIPAddress(p.offer))
		m.UpdateOption(dhcpv4.OptServerIdentifier(link4.Addr().AsSlice()))
	default:
		typ = dhcpv4.MessageTypeDiscover
	}
	m.UpdateOption(dhcpv4.OptMessageType(typ))
	return m.ToBytes()
}

func (c *crowd) handle4(b []byte) {
	m, err := dhcpv4.FromBytes(b)
	if err != nil {
		c.t.Errorf("reading an answer: %v", err)
		return
	}
	p := c.person(int(binary.BigEndian.Uint32(m.TransactionID[:])))
	a, _ := netip.AddrFromSlice(m.YourIPAddr.To4())
	switch m.MessageType() {
	case dhcpv4.MessageTypeOffer:
		if c.asking[p] && p.offer == nil {
			c.got.offered++
			p.offer = a.AsSlice()
			c.ask(p)
		}
	case dhcpv4.MessageTypeAck:
		c.acknowledged(p, a)
	default:
		c.t.Errorf("client %d got %v", p.number, m.Summary())
	}
}

// person is the client with that number.
func (c *crowd) person(number int) *person {
	if number >= len(c.people) {
		c.t.Fatalf("an answer is for client %d", number)
	}
	return c.people[number]
}

// message6 is as message4: a Solicit, a Request or a Renew, through the relay.
func (p *person) message6() []byte {
	iaid := [4]byte{0, 0, 0, 1}
	m := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeSolicit}
	binary.BigEndian.PutUint16(m.TransactionID[1:], uint16(p.number))
	m.TransactionID[0] = byte(p.number >> 16)
	m.AddOption(dhcpv6.OptClientID(p.duid()))
	ia := &dhcpv6.OptIANA{IaId: iaid}
	m.AddOption(ia)
	serverDUID := dhcpv6.OptServerID(&dhcpv6.DUIDLL{HWType: 1, LinkLayerAddr: net.HardwareAddr{0, 0, 0x5e, 0, 0x53, 1}})
	want := p.addr
	switch {
	case p.holding:
		m.MessageType = dhcpv6.MessageTypeRenew
		m.AddOption(serverDUID)
	case p.offer != nil:
		m.MessageType = dhcpv6.MessageTypeRequest
		want, _ = netip.AddrFromSlice(p.offer)
		m.AddOption(serverDUID)
	}
	if want.IsValid() {
		ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: want.AsSlice()})
	}
	peer := net.IP{0xfe, 0x80, 15: 0}
	hw := p.mac()
	copy(peer[8:], []byte{hw[0] ^ 2, hw[1], hw[2], 0xff, 0xfe, hw[3], hw[4], hw[5]})
	forward := &dhcpv6.RelayMessage{MessageType: dhcpv6.MessageTypeRelayForward, LinkAddr: link6.Addr().AsSlice(), PeerAddr: peer}
	forward.AddOption(dhcpv6.OptRelayMessage(m))
	return forward.ToBytes()
}

func (c *crowd) handle6(b []byte) {
	outer, err := dhcpv6.FromBytes(b)
	if err != nil {
		c.t.Errorf("reading an answer: %v", err)
		return
	}
	m, err := outer.GetInnerMessage()
	if err != nil {
		return // the relay hears what it sends to the group
	}
	p := c.person(int(m.TransactionID[0])<<16 | int(binary.BigEndian.Uint16(m.TransactionID[1:])))
	ia := m.Options.OneIANA()
	if ia == nil || ia.Options.OneAddress() == nil {
		c.t.Errorf("client %d got %v", p.number, m.Summary())
		return
	}
	a, _ := netip.AddrFromSlice(ia.Options.OneAddress().IPv6Addr)
	switch m.MessageType {
	case dhcpv6.MessageTypeAdvertise:
		if c.asking[p] && p.offer == nil {
			c.got.offered++
			p.offer = a.AsSlice()
			c.ask(p)
		}
	case dhcpv6.MessageTypeReply:
		c.acknowledged(p, a)
	default:
		c.t.Errorf("client %d got %v", p.number, m.Summary())
	}
}
