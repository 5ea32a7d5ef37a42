package v4

import (
	"context"
	"net/netip"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// How long the server listens for somebody who has an address already, and how
// often it asks meanwhile. Whoever is on the link answers within milliseconds.
const (
	probeWait  = 500 * time.Millisecond
	probeTimes = 2
)

// maxProbes is how many addresses are probed at a time. Clients beyond ask again.
const maxProbes = 1024

// arpLink asks a link who has an address. Heard is for one goroutine, and ends
// with an error when the transport that it belongs to is interrupted.
type arpLink interface {
	// Ask sends a question that nobody takes note of (RFC 5227, section 1.1: an ARP
	// Probe).
	Ask(a netip.Addr) error
	// Heard waits for somebody to say that it has an address.
	Heard() (netip.Addr, dhcpd.HWAddr, error)
}

// probe is an offer that waits until nobody has said that the address is in use.
type probe struct {
	c     *request // the client's last DISCOVER
	addr  netip.Addr
	asked int
	next  time.Time // when to ask again, or to offer
}

// probes are the offers that wait, by address. The Server's lock guards them.
type probes struct {
	arp    arpLink // nil: nothing is probed
	byAddr map[netip.Addr]*probe
	wake   chan struct{} // capacity 1: there is a new one
}

func newProbes(arp arpLink) probes {
	return probes{arp: arp, byAddr: make(map[netip.Addr]*probe), wake: make(chan struct{}, 1)}
}

// unseen reports whether a must be probed before it is offered to c: it is not
// known to have had a client.
//
// RFC 2131, section 3.1, step 2: "When allocating a new address, servers SHOULD
// check that the offered network address is not already in use; e.g., the server
// may probe the offered address with an ICMP Echo Request."
func (s *handler) unseen(a netip.Addr, c *request) bool {
	if s.probes.arp == nil {
		return false
	}
	b := s.Pool.Lookup(a)
	return b.None() || b.Blank() && (b.Offered() != c.Key || !b.Probed())
}

// probe asks for a, which c is offered when nobody answers. Nobody else waits for
// that. the engine must be locked.
func (s *handler) probe(a netip.Addr, c *request) {
	if p := s.probes.byAddr[a]; p != nil {
		p.c = c.kept(s.plan) // it asked again meanwhile
		return
	}
	if len(s.probes.byAddr) >= maxProbes {
		s.Count.Overload.Add(1)
		return
	}
	s.Pool.Hold(a, c.Key, c.Now.Add(dhcpd.OfferHold), c.Via)
	s.probes.byAddr[a] = &probe{c: c.kept(s.plan), addr: a, next: c.Now}
	select {
	case s.probes.wake <- struct{}{}:
	default:
	}
}

// probeLoop asks and offers when it is time, until ctx ends.
func (s *handler) probeLoop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.probes.wake:
		case <-timer.C:
		}
		ask, offers, next := s.settle(time.Now())
		for _, a := range ask {
			if err := s.probes.arp.Ask(a); err != nil {
				s.Count.SendErrors.Add(1)
				s.Log.Limited("asking who has an address", "ip", a, "error", err)
			}
		}
		s.Send(offers...)
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
	}
}

// settle finds what is due at now: addresses to ask for and offers to send. next is
// when to come back, zero when nothing waits.
func (s *handler) settle(now time.Time) (ask []netip.Addr, offers []*dhcpd.Reply, next time.Time) {
	s.Lock()
	defer s.Unlock()
	for _, p := range s.probes.byAddr {
		switch {
		case now.Before(p.next):
		case p.asked < probeTimes:
			ask = append(ask, p.addr)
			p.asked++
			p.next = now.Add(probeWait / probeTimes)
		default:
			delete(s.probes.byAddr, p.addr)
			if out := s.passed(p, now); out != nil {
				offers = append(offers, out)
			}
			continue
		}
		if next.IsZero() || p.next.Before(next) {
			next = p.next
		}
	}
	return ask, offers, next
}

// passed offers an address for which nobody has answered.
func (s *handler) passed(p *probe, now time.Time) *dhcpd.Reply {
	if b := s.Pool.Lookup(p.addr); !b.None() && b.Offered() == p.c.Key {
		b.SetProbed()
	}
	return s.reconsider(p.c, now)
}

// reconsider finds out anew what to do about a DISCOVER.
func (s *handler) reconsider(c *request, now time.Time) *dhcpd.Reply {
	c.Now = now
	s.identify(c)
	return s.handleDiscover(c)
}

// hearLoop listens for those who have an address, until ctx ends or the link
// fails.
func (s *handler) hearLoop(ctx context.Context) {
	for {
		a, hw, err := s.probes.arp.Heard()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.Fail(err)
			return
		}
		if out := s.heard(a, hw, time.Now()); out != nil {
			s.Send(out)
		}
	}
}

// heard acts on somebody's having an address that is being probed: it is kept from
// everybody for a while, and its client is offered another one.
func (s *handler) heard(a netip.Addr, hw dhcpd.HWAddr, now time.Time) *dhcpd.Reply {
	s.Lock()
	defer s.Unlock()
	p := s.probes.byAddr[a]
	if p == nil || hw == p.c.MAC {
		return nil
	}
	delete(s.probes.byAddr, a)
	s.Count.Conflicts.Add(1)
	s.Log.Limited("an address is in use by somebody else: offering another", "ip", a, "used_by", hw, "mac", p.c.MAC)
	var ch dhcpd.Change
	ch.Set(s.Pool.Bindings, dhcpd.Declined, s.Pool.Binding(a), dhcpd.Lease{
		Addr: a, MAC: append([]byte(nil), hw[:]...), Expiry: now.Add(dhcpd.DeclineHold), State: dhcpd.StateDeclined,
	})
	s.Pool.Withdraw(p.c.Key)
	s.Enqueue(ch)
	return s.reconsider(p.c, now)
}
