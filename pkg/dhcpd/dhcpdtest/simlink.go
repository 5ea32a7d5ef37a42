// Package dhcpdtest has what the tests of the DHCP servers have in common: a link and a
// store in memory, and machines with real clients.
package dhcpdtest

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd"
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
	in   chan dhcpd.Datagram
	out  chan Sent
	stop chan struct{}
	once sync.Once

	ports sync.Map // ifindex by card

	asked chan netip.Addr // addresses that the server asks for
	heard chan claim
}

// claim is somebody's saying that it has an address.
type claim struct {
	addr netip.Addr
	hw   dhcpd.HWAddr
}

// NewSimLink makes a link that holds size datagrams in each direction. Replies
// beyond are lost.
func NewSimLink(size int) *SimLink {
	return &SimLink{
		in: make(chan dhcpd.Datagram, size), out: make(chan Sent, size), stop: make(chan struct{}),
		asked: make(chan netip.Addr, size), heard: make(chan claim, size),
	}
}

// Asked returns the addresses that the server asks for.
func (l *SimLink) Asked() <-chan netip.Addr { return l.asked }

// Claim has somebody say that it has an address.
func (l *SimLink) Claim(a netip.Addr, hw net.HardwareAddr) { l.heard <- claim{a, dhcpd.HWAddr(hw)} }

// Ask implements arpLink.
func (l *SimLink) Ask(a netip.Addr) error {
	l.asked <- a
	return nil
}

// Heard implements arpLink.
func (l *SimLink) Heard() (netip.Addr, dhcpd.HWAddr, error) {
	select {
	case c := <-l.heard:
		return c.addr, c.hw, nil
	case <-l.stop:
		return netip.Addr{}, dhcpd.HWAddr{}, os.ErrDeadlineExceeded
	}
}

// Deliver brings a client's datagram to the server. It waits while the link is
// full.
func (l *SimLink) Deliver(payload []byte, src netip.AddrPort, dst netip.Addr) {
	l.in <- dhcpd.Datagram{Payload: payload, Src: src, Dst: dst}
}

// DeliverFrom is Deliver of a datagram whose frame comes from a hardware address.
func (l *SimLink) DeliverFrom(hw net.HardwareAddr, payload []byte, src netip.AddrPort, dst netip.Addr) {
	l.in <- dhcpd.Datagram{Payload: payload, Src: src, Dst: dst, From: dhcpd.Sender{HW: dhcpd.HWAddr(hw)}}
}

// DeliverHidden is Deliver of a datagram whose frame nobody saw.
func (l *SimLink) DeliverHidden(payload []byte, src netip.AddrPort, dst netip.Addr) {
	l.in <- dhcpd.Datagram{Payload: payload, Src: src, Dst: dst, From: dhcpd.Sender{Hidden: true}}
}

// DeliverWaited is DeliverHidden of a datagram that may have come to a former process.
func (l *SimLink) DeliverWaited(payload []byte, src netip.AddrPort, dst netip.Addr) {
	l.in <- dhcpd.Datagram{Payload: payload, Src: src, Dst: dst, From: dhcpd.Sender{Hidden: true, Waited: true}}
}

// Plug has a card be at a port from now on.
func (l *SimLink) Plug(hw net.HardwareAddr, port int) { l.ports.Store(dhcpd.HWAddr(hw), port) }

// Replies returns what the server sends.
func (l *SimLink) Replies() <-chan Sent { return l.out }

// Receive implements dhcpd.Transport: all that was delivered, at most a few at a time.
func (l *SimLink) Receive() ([]dhcpd.Datagram, error) {
	const most = 4
	select {
	case d := <-l.in:
		all := []dhcpd.Datagram{l.arrive(d)}
		for len(all) < most && len(l.in) > 0 {
			all = append(all, l.arrive(<-l.in))
		}
		return all, nil
	case <-l.stop:
		return nil, os.ErrDeadlineExceeded
	}
}

// arrive is a datagram as the server gets it: with the port where its card is now.
func (l *SimLink) arrive(d dhcpd.Datagram) dhcpd.Datagram {
	d.Payload = slices.Clone(d.Payload)
	if port, plugged := l.ports.Load(d.From.HW); plugged {
		d.From.Port = port.(int)
	}
	return d
}

// Collect implements dhcpd.Transport.
func (l *SimLink) Collect() (many bool) { return false }

// Send implements dhcpd.Transport.
func (l *SimLink) Send(out []*dhcpd.Reply, _ func(*dhcpd.Reply, error)) {
	for _, r := range out {
		select {
		case l.out <- sent(r):
		default:
		}
	}
}

func sent(out *dhcpd.Reply) Sent {
	s := Sent{Framed: out.Framed, Dst: out.Dst, Payload: slices.Clone(out.Payload)}
	if out.Framed {
		s.HW = slices.Clone(out.HW[:])
	}
	return s
}

// Interrupt implements dhcpd.Transport.
func (l *SimLink) Interrupt() { l.once.Do(func() { close(l.stop) }) }

// Copy implements dhcpd.Transport. Nobody else can read what l carries.
func (l *SimLink) Copy() (*os.File, error) { return nil, errors.ErrUnsupported }

// Close implements dhcpd.Transport.
func (l *SimLink) Close() error { return nil }

// Handle returns what happens to one datagram, what is due then, and what these left for
// the committer: for an engine on a link that does not run.
func Handle(e *dhcpd.Engine, link *SimLink, payload []byte, src netip.AddrPort, dst netip.Addr, now time.Time) []Sent {
	e.Serve([]dhcpd.Datagram{{Payload: payload, Src: src, Dst: dst}}, now)
	e.Expire(now)
	e.Commit()
	var all []Sent
	for len(link.out) > 0 {
		all = append(all, <-link.out)
	}
	return all
}
