package dnsd

import (
	"net/netip"
	"time"

	"github.com/vnetd/vnetd/pkg/dnsd/upstream"
	"github.com/vnetd/vnetd/pkg/dnsd/wire"
	"github.com/vnetd/vnetd/pkg/dnsd/zone"
)

// What tests reach inside for.

// SetTiming shortens the waits for upstreams. To be called before Run.
func (s *Server) SetTiming(total, stagger, retransmit time.Duration) {
	s.forwarder.client.Timing = upstream.Timing{Total: total, Stagger: stagger, Retransmit: retransmit, TCP: total}
	s.forwarder.staleAfter = stagger
}

// SetClock gives s another clock. To be called before Run.
func (s *Server) SetClock(now func() time.Time) { s.now, s.forwarder.now = now, now }

// FlushCache forgets what is kept.
func (s *Server) FlushCache() { s.forwarder.cache.flush() }

// InFlight is the number of questions that upstreams are asked now.
func (s *Server) InFlight() int { return s.forwarder.queries.Len() }

// NewUnbound is a server without sockets.
func NewUnbound(cfg Config) *Server {
	cfg = cfg.withDefaults()
	s := &Server{log: cfg.Logger, zone: zone.New(cfg.zone()), counters: newCounters(), tcpClients: newSlots(1), cfg: cfg, now: time.Now, gating: gating{places: make(chan struct{}, gateLimit)}}
	s.surroundings.Store(&surroundings{cfg.Peers, cfg.Gate})
	s.forwarder = newForwarder(cfg, s.zone, s.counters, cfg.Logger)
	return s
}

// RespondUDP is the answer to a datagram; forwarded tells that an upstream is
// to be asked.
func (s *Server) RespondUDP(raw, buf []byte) (reply []byte, forwarded bool) {
	return s.Responder()(raw, buf)
}

// Responder is RespondUDP for one reader, as a socket has it.
func (s *Server) Responder() func(raw, buf []byte) (reply []byte, forwarded bool) {
	q := new(wire.Query)
	return func(raw, buf []byte) ([]byte, bool) {
		reply, forward := s.respond(q, raw, buf, wire.PayloadSize, s.now())
		return reply, forward != nil
	}
}

// Break makes every query that looks at the zone panic.
func (s *Server) Break() { s.zone = nil }

// AnswerFrom is what the client that sent raw is told when an upstream sends
// b, whose id and question are made to fit when fit is set. Nil: raw is
// not forwarded, or b is ignored.
func (s *Server) AnswerFrom(raw, b []byte, fit bool) []byte {
	q := new(wire.Query)
	if _, forward := s.respond(q, raw, nil, wire.PayloadSize, s.now()); forward == nil {
		return nil
	}
	query := wire.UpstreamQuery(q)
	if end := len(query) - 11*int(query[11]); fit && len(b) >= end { // behind the question, before an OPT record
		b = append([]byte(nil), b...)
		copy(b, query[:2])
		b[2] |= 1 << 7 // QR
		copy(b[4:], query[4:6])
		copy(b[12:], query[12:end])
	}
	msg := wire.ReadAnswer(b, query)
	if msg == nil {
		return nil
	}
	r := s.forwarder.accept(q, msg, new(wire.Response))
	if r == nil {
		return nil
	}
	s.forwarder.cache.put(q.Question(), r, s.forwarder.cache.generation.Load(), s.now())
	return s.forwarder.pack(q, r, nil, false)
}

// Slots are slots.
type Slots = slots

// NewSlots is newSlots.
func NewSlots(total int) *Slots { return newSlots(total) }

// Slot is a slot.
type Slot = slot

// Acquire is acquire.
func (s *Slots) Acquire(a netip.Addr, yield func()) *Slot {
	p := new(slot)
	if !s.acquire(p, a, yield) {
		return nil
	}
	return p
}

// Use is use.
func (s *Slots) Use(p *Slot) { s.use(p) }

// Release is release.
func (s *Slots) Release(p *Slot) { s.release(p) }

// InUse is inUse.
func (s *Slots) InUse() int { return s.inUse() }
