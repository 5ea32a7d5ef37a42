package dnsd

import (
	"log/slog"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/histogram"
	"github.com/vnetd/vnetd/internal/ratelog"
)

// Stats are counts since Open, but for those that say "now".
type Stats struct {
	Queries uint64 // messages read, UDP and TCP
	Answers []Answers

	AtOnce    histogram.Counts // from reading a query to having sent what answers it without an upstream
	Forwarded histogram.Counts // likewise, of queries that wait for an upstream

	Coalesced uint64 // forwarded queries that joined a question that was already asked
	Refused   uint64 // REFUSED, BADVERS
	Malformed uint64 // FORMERR, NOTIMP
	Dropped   uint64 // not answered at all
	Limited   uint64 // SERVFAIL since the client had its share of the forwarder
	Failed    uint64 // SERVFAIL since no upstream gave an answer, or there is none
	Panics    uint64 // queries that ended in a panic

	UpstreamIgnored   uint64 // messages that did not answer what was asked
	UpstreamRebinds   uint64 // answers with a private address that were kept from guests
	UpstreamDemotions uint64 // times an upstream was put behind the others

	Forwarding int // queries that wait for an upstream, now
	TCPClients int // TCP connections, now

	CacheEntries int // answers kept, now
	CacheBytes   int // their size, now
}

// LatencyBounds returns the bounds of the histograms in Stats.
func LatencyBounds() []time.Duration {
	return []time.Duration{
		50 * time.Microsecond, 100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
		time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond,
		25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond,
		500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 10 * time.Second,
	}
}

// Answers are the queries of one kind of answer.
type Answers struct {
	Source string // see the Source constants
	Rcode  string // as in RFC 6895 section 2.3; "OTHER" for what has no name there
	Count  uint64
}

// Where answers come from.
const (
	SourceLocal    = "local"    // what the server knows itself, or refuses
	SourceCache    = "cache"    // an answer from before
	SourceStale    = "stale"    // likewise, which no upstream could make new
	SourceUpstream = "upstream" // asked for this query, or a failure to
)

// answered counts the answers from one source, by rcode.
type answered [dns.RcodeBadVers + 1]atomic.Uint64

// add counts an answer.
func (a *answered) add(rcode int) { a[min(rcode, len(a)-1)].Add(1) }

// load lists the counts, that of NOERROR in any case.
func (a *answered) load(source string) []Answers {
	var all []Answers
	for rcode := range a {
		if n := a[rcode].Load(); n > 0 || rcode == dns.RcodeSuccess {
			all = append(all, Answers{Source: source, Rcode: rcodeName(rcode), Count: n})
		}
	}
	return all
}

// rcodeName returns the name of an rcode.
func rcodeName(rcode int) string {
	if rcode == dns.RcodeBadVers {
		return "BADVERS" // in package dns it is BADSIG, which has the same number
	}
	if name, ok := dns.RcodeToString[rcode]; ok {
		return name
	}
	return "RCODE" + strconv.Itoa(rcode)
}

// counters are the Stats in the making.
type counters struct {
	queries, coalesced             atomic.Uint64
	local, cached, stale, upstream answered
	atOnce, forwarded              *histogram.Histogram
	refused, malformed, dropped    atomic.Uint64
	limited, failed, panics        atomic.Uint64
	rebound                        atomic.Uint64

	panicked ratelog.Limiter
}

// newCounters returns counters that are zero.
func newCounters() *counters {
	bounds := LatencyBounds()
	return &counters{atOnce: histogram.New(bounds), forwarded: histogram.New(bounds)}
}

// catch, deferred, ends a panic, so that it costs one query and not the server.
// The function that defers it returns zero values.
func (c *counters) catch(log *slog.Logger) {
	if r := recover(); r != nil {
		c.panics.Add(1)
		c.panicked.Log(log, slog.LevelError, "answering a query panicked", keyError, r, "stack", string(debug.Stack()))
	}
}

// answers lists the answers from all sources.
func (c *counters) answers() []Answers {
	var all []Answers
	for _, from := range []struct {
		source string
		counts *answered
	}{{SourceLocal, &c.local}, {SourceCache, &c.cached}, {SourceStale, &c.stale}, {SourceUpstream, &c.upstream}} {
		all = append(all, from.counts.load(from.source)...)
	}
	return all
}

// Stats returns the server's counts. Safe for concurrent use.
func (s *Server) Stats() Stats {
	c := s.counters
	entries, octets := s.forwarder.cache.size()
	return Stats{
		Queries:           c.queries.Load(),
		Answers:           c.answers(),
		AtOnce:            c.atOnce.Load(),
		Forwarded:         c.forwarded.Load(),
		Coalesced:         c.coalesced.Load(),
		Refused:           c.refused.Load(),
		Malformed:         c.malformed.Load(),
		Dropped:           c.dropped.Load(),
		Limited:           c.limited.Load(),
		Failed:            c.failed.Load(),
		Panics:            c.panics.Load(),
		UpstreamIgnored:   s.forwarder.client.Ignored.Load(),
		UpstreamRebinds:   c.rebound.Load(),
		UpstreamDemotions: s.forwarder.client.Demoted.Load(),
		Forwarding:        s.forwarder.slots.inUse(),
		TCPClients:        s.tcpClients.inUse(),
		CacheEntries:      entries,
		CacheBytes:        octets,
	}
}

// Upstreams lists the servers that are asked at present: first those for all
// names, in their order, then by domain. Safe for concurrent use.
func (s *Server) Upstreams() []Upstream { return s.forwarder.selector.Status(time.Now()) }

// Asked counts what the servers that are asked at present were asked, in the order
// of their addresses. Safe for concurrent use.
func (s *Server) Asked() []Asked { return s.forwarder.selector.Asked(time.Now()) }
