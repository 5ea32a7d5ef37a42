package dnsd

import (
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/pkg/dnsd/wire"
	"github.com/vnetd/vnetd/pkg/dnsd/zone"
)

// gateLimit is how many answers of one network may wait for its gate, and gateAddrs of how
// many addresses of one answer that is told.
const (
	gateLimit = 256
	gateAddrs = 64
)

// surroundings are what a server asks beside its own zone and upstream servers.
type surroundings struct {
	peers func() []Peer
	gate  Gate
}

// gating has the answers that wait for a gate.
type gating struct {
	places  chan struct{}
	opening sync.WaitGroup
}

// askPeers answers q by what a peer's zone says of its own hosts; found is false where it says
// nothing of them. A peer's other records are nobody else's matter.
func (s *Server) askPeers(q *wire.Query) (a zone.Answer, found bool) {
	peers := s.surroundings.Load().peers
	if peers == nil {
		return a, false
	}
	for _, p := range peers() {
		if !p.has(q) {
			continue
		}
		if there := p.Zone(); there != nil {
			if a, ok := zone.AskHost(there.View(), q); ok {
				return a, true
			}
		}
	}
	return a, false
}

// has reports whether q may be for a host of the peer.
func (p *Peer) has(q *wire.Query) bool {
	if p.Domain == "" {
		return false
	}
	if label, ok := wire.InDomain(q.Key, wire.KeyOf(p.Domain)); ok {
		return label != ""
	}
	if q.Type != dns.TypePTR {
		return false
	}
	r, ok := wire.ParseReverse(q.Key)
	return ok && r.Prefix.IsSingleIP() && !r.Below && slices.ContainsFunc(p.Prefixes, func(own netip.Prefix) bool { return own.Contains(r.Prefix.Addr()) })
}

// watched returns the first of the names with those keys of which the gate is to be told, ""
// for none.
func (s *Server) watched(keys ...string) string {
	gate := s.surroundings.Load().gate
	if gate == nil {
		return ""
	}
	for _, key := range keys {
		if name := strings.TrimSuffix(key, "."); gate.Watches(name) {
			return name
		}
	}
	return ""
}

// pass returns reply, an answer to q that is kept, or what is to be done before it leaves.
func (s *Server) pass(q *wire.Query, reply []byte) ([]byte, *inquiry) {
	if s.watched(q.Key) == "" {
		return reply, nil
	}
	in := newInquiry(q)
	in.ready = slices.Clone(reply)
	return nil, in
}

// gate returns what sends an answer to q once the gate was told which addresses the name has.
// It does not block. Where too many wait the client is told to ask again.
func (s *Server) gate(name string, q *wire.Query, send sender) sender {
	gate := s.surroundings.Load().gate
	return sendFunc(func(reply []byte, together *replies) {
		var addrs []Lifetime
		for a, ttl := range wire.Lifetimes(reply) {
			if addrs = append(addrs, Lifetime{a, ttl}); len(addrs) == gateAddrs {
				break
			}
		}
		if len(addrs) == 0 {
			send.send(reply, together)
			return
		}
		select {
		case s.gating.places <- struct{}{}:
		default:
			s.counters.limited.Add(1)
			send.send(q.Reply(dns.RcodeServerFailure, true, nil), together)
			return
		}
		reply = slices.Clone(reply)
		s.gating.opening.Go(func() {
			defer func() { <-s.gating.places }()
			gate.Open(name, addrs)
			send.send(reply, nil)
		})
	})
}
