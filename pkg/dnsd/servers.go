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

// upstreamsOf describes the servers of a domain.
func upstreamsOf(domain string, servers []*upstream) []Upstream {
	var all []Upstream
	for _, u := range servers {
		u.mu.Lock()
		all = append(all, Upstream{Addr: u.addr, Domain: domain, Failing: u.failures > 0})
		u.mu.Unlock()
	}
	return all
}
