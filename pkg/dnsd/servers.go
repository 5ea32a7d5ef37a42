package dnsd

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Upstream is a name server that queries are forwarded to.
type Upstream struct {
	Addr netip.AddrPort
	// Domain is the domain whose names it is asked for; empty: of all others.
	Domain string
	// Failing tells that it did not answer when it was asked last.
	Failing bool
}

// Asked is what was asked of one upstream server, for whatever domain, since it is
// one.
type Asked struct {
	Addr     netip.AddrPort
	Queries  uint64        // sent to it
	Failures uint64        // questions that it left unanswered, or had no better answer to than SERVFAIL and its like
	RTT      time.Duration // from question to answer, smoothed; 0: it has not answered yet
}

// Upstreams lists the servers that are asked at present: first those for all
// names, in their order, then by domain. Safe for concurrent use.
func (s *Server) Upstreams() []Upstream {
	f, now := s.forwarder, time.Now()
	all := upstreamsOf("", f.upstreams("", now))
	for domain := range f.routes.Load().domains {
		all = append(all, upstreamsOf(strings.TrimSuffix(domain, "."), f.upstreams(domain, now))...)
	}
	slices.SortStableFunc(all, func(a, b Upstream) int { return strings.Compare(a.Domain, b.Domain) })
	return all
}

// Asked counts what was asked of the servers that are asked at present, in the order
// of their addresses. Safe for concurrent use.
func (s *Server) Asked() []Asked {
	f, now := s.forwarder, time.Now()
	servers := f.routes.Load().all()
	servers = append(servers, f.upstreams("", now)...)
	slices.SortFunc(servers, func(a, b *upstream) int { return a.addr.Compare(b.addr) })
	var all []Asked
	for i, u := range servers {
		if i == 0 || u.addr != servers[i-1].addr {
			all = append(all, Asked{Addr: u.addr})
		}
		if !slices.Contains(servers[:i], u) {
			all[len(all)-1].add(u)
		}
	}
	return all
}

// add counts what was asked of u too.
func (a *Asked) add(u *upstream) {
	a.Queries += u.queries.Load()
	a.Failures += u.failures.Load()
	u.mu.Lock()
	defer u.mu.Unlock()
	a.RTT = max(a.RTT, u.rtt)
}

// upstreamsOf describes the servers of a domain.
func upstreamsOf(domain string, servers []*upstream) []Upstream {
	var all []Upstream
	for _, u := range servers {
		u.mu.Lock()
		all = append(all, Upstream{Addr: u.addr, Domain: domain, Failing: u.row > 0})
		u.mu.Unlock()
	}
	return all
}
