package dnsd

import (
	"net/netip"
	"time"
)

// What tests reach inside for.

// SetTiming shortens the waits for upstreams. To be called before Run.
func (s *Server) SetTiming(total, stagger, retransmit time.Duration) {
	s.forwarder.timing = timing{total: total, stagger: stagger, retransmit: retransmit, tcp: total, stale: stagger}
}

// SetClock gives s another clock. To be called before Run.
func (s *Server) SetClock(now func() time.Time) { s.now, s.forwarder.now = now, now }

// FlushCache forgets what is kept.
func (s *Server) FlushCache() { s.forwarder.cache.flush() }

// Flights is the number of questions that upstreams are asked now.
func (s *Server) Flights() int {
	s.forwarder.mu.Lock()
	defer s.forwarder.mu.Unlock()
	return len(s.forwarder.flights)
}

// NewUnbound is a server without sockets.
func NewUnbound(cfg Config) *Server {
	cfg = cfg.withDefaults()
	s := &Server{log: cfg.Logger, zone: newZone(cfg), counters: new(counters), tcpClients: newLimiter(1), cfg: cfg, now: time.Now}
	s.forwarder = newForwarder(cfg, s.counters, cfg.Logger)
	return s
}

// RespondUDP is the answer to a datagram; forwarded tells that an upstream is
// to be asked.
func (s *Server) RespondUDP(raw, buf []byte) (reply []byte, forwarded bool) {
	return s.respond(new(query), raw, buf, payloadSize, s.now())
}

// Responder is RespondUDP for one reader, as a socket has it.
func (s *Server) Responder() func(raw, buf []byte) (reply []byte, forwarded bool) {
	q := new(query)
	return func(raw, buf []byte) ([]byte, bool) { return s.respond(q, raw, buf, payloadSize, s.now()) }
}

// Break makes every query that looks at the zone panic.
func (s *Server) Break() { s.zone.view.Store(nil) }

// ReverseZones is reverseZones.
func ReverseZones(p netip.Prefix) []string { return reverseZones(p) }

// ParseResolvConf is parseResolvConf.
func ParseResolvConf(text []byte) []netip.Addr { return parseResolvConf(text) }

// AnswerFrom is what the client that sent raw is told when an upstream sends
// b, whose id and question are made to fit when fit is set. Nil: raw is
// not forwarded, or b is ignored.
func (s *Server) AnswerFrom(raw, b []byte, fit bool) []byte {
	q := new(query)
	if _, forward := s.respond(q, raw, nil, payloadSize, s.now()); !forward {
		return nil
	}
	query := upstreamQuery(q)
	if end := questionEnd(query); fit && len(b) >= end {
		b = append([]byte(nil), b...)
		copy(b, query[:2])
		b[2] |= bitQR >> 8
		copy(b[4:], query[4:6])
		copy(b[headerSize:], query[headerSize:end])
	}
	msg := readAnswer(b, query)
	if msg == nil {
		return nil
	}
	r := s.forwarder.accept(q, msg)
	if r == nil {
		return nil
	}
	s.forwarder.cache.put(q.flightKey(), r, s.forwarder.cache.generation.Load())
	return s.forwarder.adapt(q, r, false)
}

// Limiter is the limiter.
type Limiter = limiter

// NewLimiter is newLimiter.
func NewLimiter(places int) *Limiter { return newLimiter(places) }

// Place is a place.
type Place = place

// Acquire is acquire.
func (l *Limiter) Acquire(a netip.Addr, yield func()) *Place { return l.acquire(a, yield) }

// Use is use.
func (l *Limiter) Use(p *Place) { l.use(p) }

// Release is release.
func (l *Limiter) Release(p *Place) { l.release(p) }

// InUse is inUse.
func (l *Limiter) InUse() int { return l.inUse() }
