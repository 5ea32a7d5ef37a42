package dhcpd

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Names of unexported things that tests need.
const (
	OfferHold   = offerHold
	DeclineHold = declineHold
	MaxPending  = maxPending
)

// Sent is a reply as the server handed it to the link.
type Sent struct {
	Framed  bool
	HW      net.HardwareAddr // of framed ones
	Dst     netip.AddrPort
	Payload []byte
}

// SimLink is a link without a kernel. The zero value is not ready, see
// NewSimLink.
type SimLink struct {
	in   chan datagram
	out  chan Sent
	stop chan struct{}
	once sync.Once

	asked chan netip.Addr // addresses that the server asks for
	heard chan claim
}

// claim is somebody's saying that it has an address.
type claim struct {
	addr netip.Addr
	hw   hwAddr
}

// NewSimLink makes a link that holds size datagrams in each direction. Replies
// beyond are lost.
func NewSimLink(size int) *SimLink {
	return &SimLink{
		in: make(chan datagram, size), out: make(chan Sent, size), stop: make(chan struct{}),
		asked: make(chan netip.Addr, size), heard: make(chan claim, size),
	}
}

// Asked is the addresses that the server asks for.
func (l *SimLink) Asked() <-chan netip.Addr { return l.asked }

// Claim has somebody say that it has an address.
func (l *SimLink) Claim(a netip.Addr, hw net.HardwareAddr) { l.heard <- claim{a, hwAddr(hw)} }

// Ask implements arpLink.
func (l *SimLink) Ask(a netip.Addr) error {
	l.asked <- a
	return nil
}

// Heard implements arpLink.
func (l *SimLink) Heard() (netip.Addr, hwAddr, error) {
	select {
	case c := <-l.heard:
		return c.addr, c.hw, nil
	case <-l.stop:
		return netip.Addr{}, hwAddr{}, os.ErrDeadlineExceeded
	}
}

// Deliver brings a client's datagram to the server. It waits while the link is
// full.
func (l *SimLink) Deliver(payload []byte, src netip.AddrPort, dst netip.Addr) {
	l.in <- datagram{payload: payload, src: src, dst: dst}
}

// Replies is what the server sends.
func (l *SimLink) Replies() <-chan Sent { return l.out }

// Receive implements transport.
func (l *SimLink) Receive(buf []byte) (datagram, error) {
	select {
	case d := <-l.in:
		d.payload = buf[:copy(buf, d.payload)]
		return d, nil
	case <-l.stop:
		return datagram{}, os.ErrDeadlineExceeded
	}
}

// Send implements transport.
func (l *SimLink) Send(out *outgoing) error {
	select {
	case l.out <- sent(out):
	default:
	}
	return nil
}

func sent(out *outgoing) Sent {
	s := Sent{Framed: out.framed, Dst: out.dst, Payload: out.payload}
	if out.framed {
		s.HW = out.hw[:]
	}
	return s
}

// Interrupt implements transport.
func (l *SimLink) Interrupt() { l.once.Do(func() { close(l.stop) }) }

// Copy implements transport. Nobody else can read what l carries.
func (l *SimLink) Copy() (*os.File, error) { return nil, errors.ErrUnsupported }

// Close implements transport.
func (l *SimLink) Close() error { return nil }

// OpenOn is Open on a simulated link.
func OpenOn(cfg Config, link *SimLink) (*Server, error) {
	return open(cfg, func() (transport, error) { return link, nil })
}

// Handle is what happens to one datagram, and then to what it left for the
// committer. For a server on a SimLink that does not run.
func (s *Server) Handle(payload []byte, src netip.AddrPort, dst netip.Addr, now time.Time) []Sent {
	return handle(&s.engine, payload, src, dst, now)
}

func handle(s *engine, payload []byte, src netip.AddrPort, dst netip.Addr, now time.Time) []Sent {
	s.send(s.serve(datagram{payload: payload, src: src, dst: dst}, now))
	s.expire(now)
	s.answer(s.commitPending())
	var all []Sent
	for link := s.link.(*SimLink); len(link.out) > 0; {
		all = append(all, <-link.out)
	}
	return all
}

// Frame4 is the frame that carries payload to dst.
func Frame4(from, to net.HardwareAddr, src netip.Addr, dst netip.AddrPort, payload []byte) []byte {
	return frame4(hwAddr(from), hwAddr(to), src, dst, payload)
}

// ParseName is the label that is made of a client's host name.
func ParseName(raw []byte) string { return parseName(raw).label }

// RALink is a link for router advertisements without a kernel. Its methods may
// be called from any goroutine.
type RALink struct {
	in   chan solicit
	out  chan Advert
	stop chan struct{}
	down atomic.Bool
}

// Advert is an advertisement as the server sent it.
type Advert struct {
	Dst     netip.Addr
	Payload []byte
	At      time.Time
}

// NewRALink makes a link that can't send yet.
func NewRALink() *RALink {
	l := &RALink{in: make(chan solicit), out: make(chan Advert, 4096), stop: make(chan struct{})}
	l.down.Store(true)
	return l
}

// Up lets the link send.
func (l *RALink) Up() { l.down.Store(false) }

// Adverts is what the server sends.
func (l *RALink) Adverts() <-chan Advert { return l.out }

// Solicit brings a guest's message to the server.
func (l *RALink) Solicit(payload []byte, src netip.Addr, hopLimit int) {
	l.in <- solicit{payload: payload, src: src, hopLimit: hopLimit}
}

func (l *RALink) receive([]byte) (solicit, error) {
	select {
	case m := <-l.in:
		return m, nil
	case <-l.stop:
		return solicit{}, os.ErrDeadlineExceeded
	}
}

func (l *RALink) source() (netip.Addr, error) {
	if l.down.Load() {
		return netip.Addr{}, errNoLinkLocal
	}
	return netip.MustParseAddr("fe80::1"), nil
}

func (l *RALink) send(payload []byte, _, dst netip.Addr) error {
	l.out <- Advert{Dst: dst, Payload: payload, At: time.Now()}
	return nil
}

func (l *RALink) interrupt() { close(l.stop) }

func (l *RALink) close() error { return nil }

// OpenRAOn is OpenRA on a simulated link.
func OpenRAOn(cfg RAConfig, link *RALink) (*RAServer, error) {
	return openRA(cfg, func() (raLink, error) { return link, nil })
}

// CheckSolicit says why a message is no valid solicitation.
func CheckSolicit(payload []byte, src netip.Addr, hopLimit int) error {
	return checkSolicit(solicit{payload: payload, src: src, hopLimit: hopLimit})
}

// OpenOn6 is Open6 on a simulated link.
func OpenOn6(cfg Config6, link *SimLink) (*Server6, error) {
	return open6(cfg, func() (transport, error) { return link, nil })
}

// Handle is as that of Server.
func (s *Server6) Handle(payload []byte, src netip.AddrPort, dst netip.Addr, now time.Time) []Sent {
	return handle(&s.engine, payload, src, dst, now)
}

// ParseTFTP is a request in short, or the error packet that answers it.
func ParseTFTP(b []byte, root string) (path, rest string, fault []byte) {
	r, err := parseTFTP(b, root)
	if err != nil {
		return "", "", tftpError(err)
	}
	return r.path, fmt.Sprint(r.ascii, r.block, r.window, r.timeout, r.size), nil
}

// Remembered is how many things the server keeps in memory on account of guests.
func (s *Server) Remembered() int { return remembered(&s.engine) }

// Remembered is as that of Server.
func (s *Server6) Remembered() int { return remembered(&s.engine) }

func remembered(s *engine) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pool
	return len(p.bindings) + len(p.byClient) + len(p.byOffer) + len(p.used.chunks) + p.offers.Len() + p.stale.Len() +
		len(s.each.seen) + s.each.order.Len() + len(s.pending) + len(s.limit.kinds)
}

// ClientsRemembered bounds the clients whose message rate is known.
const ClientsRemembered = clientsRemembered

// ProbeWait is how long the server listens before it offers an address.
const ProbeWait = probeWait

// ARPProbe is the frame that asks who has an address.
func ARPProbe(from net.HardwareAddr, a netip.Addr) []byte { return arpProbe(hwAddr(from), a) }

// ARPSender is who sent an ARP packet, and the address that it says to have; the
// zero Addr when it says nothing.
func ARPSender(frame []byte) (netip.Addr, net.HardwareAddr) {
	a, hw, ok := arpSender(frame)
	if !ok {
		return netip.Addr{}, nil
	}
	return a, hw[:]
}
