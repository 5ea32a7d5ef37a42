package dnsd

import (
	"log/slog"
	"runtime/debug"
	"sync/atomic"
)

// Stats are counts since Open, but for those that say "now".
type Stats struct {
	Queries   uint64 // messages read, UDP and TCP
	Local     uint64 // answered from the zone
	Cached    uint64 // answered from the cache at once
	Stale     uint64 // answered from the cache since no upstream did in time
	Forwarded uint64 // handed to the forwarder
	Coalesced uint64 // of those: joined a question that was already asked
	Refused   uint64 // REFUSED, BADVERS
	Malformed uint64 // FORMERR, NOTIMP
	Dropped   uint64 // not answered at all
	Limited   uint64 // SERVFAIL since the client had its share of the forwarder
	Failed    uint64 // SERVFAIL since no upstream gave an answer, or there is none
	Panics    uint64 // queries that ended in a panic

	UpstreamQueries   uint64 // questions sent to an upstream
	UpstreamIgnored   uint64 // messages that did not answer what was asked
	UpstreamRebinds   uint64 // answers with a private address that were kept from guests
	UpstreamDemotions uint64 // times an upstream was put behind the others

	Forwarding int // queries that wait for an upstream, now
	TCPClients int // TCP connections, now

	CacheEntries int // answers kept, now
	CacheBytes   int // their size, now
}

// counters are the Stats in the making.
type counters struct {
	queries, local, forwarded, coalesced atomic.Uint64
	refused, malformed, dropped          atomic.Uint64
	limited, failed, panics              atomic.Uint64
	cached, stale                        atomic.Uint64
	upstreamQueries, ignored, demoted    atomic.Uint64
	rebound                              atomic.Uint64
}

// catch, deferred, ends a panic, so that it costs one query and not the server.
// The function that defers it returns zero values.
func (c *counters) catch(log *slog.Logger) {
	if r := recover(); r != nil {
		c.panics.Add(1)
		log.Error("answering a query panicked", keyError, r, "stack", string(debug.Stack()))
	}
}

// Stats returns the server's counts. Safe for concurrent use.
func (s *Server) Stats() Stats {
	c := s.counters
	entries, octets := s.forwarder.cache.size()
	return Stats{
		Queries:           c.queries.Load(),
		Local:             c.local.Load(),
		Cached:            c.cached.Load(),
		Stale:             c.stale.Load(),
		Forwarded:         c.forwarded.Load(),
		Coalesced:         c.coalesced.Load(),
		Refused:           c.refused.Load(),
		Malformed:         c.malformed.Load(),
		Dropped:           c.dropped.Load(),
		Limited:           c.limited.Load(),
		Failed:            c.failed.Load(),
		Panics:            c.panics.Load(),
		UpstreamQueries:   c.upstreamQueries.Load(),
		UpstreamIgnored:   c.ignored.Load(),
		UpstreamRebinds:   c.rebound.Load(),
		UpstreamDemotions: c.demoted.Load(),
		Forwarding:        s.forwarder.limit.inUse(),
		TCPClients:        s.tcpClients.inUse(),
		CacheEntries:      entries,
		CacheBytes:        octets,
	}
}
