package dnsd

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/ratelog"
	"github.com/vnetd/vnetd/pkg/dnsd/upstream"
	"github.com/vnetd/vnetd/pkg/dnsd/wire"
	"github.com/vnetd/vnetd/pkg/dnsd/zone"
)

// forwardLimit is the number of queries of one network that may wait for an
// upstream server.
const forwardLimit = 4000

// staleAfter is how long clients wait before they get a stale answer: RFC 8767
// section 5.
const staleAfter = 1800 * time.Millisecond

// forwarder has upstream servers answer what is not ours.
type forwarder struct {
	log        *slog.Logger
	zone       *zone.Zone
	counters   *counters
	selector   *upstream.Selector
	client     *upstream.Client
	queries    *upstream.Queries
	rebind     atomic.Pointer[rebind]
	cache      *cache
	slots      *slots
	now        func() time.Time
	staleAfter time.Duration
	rebinds    ratelog.Limiter

	mu     sync.Mutex
	cfg    Config
	domain string // key of cfg's
}

// request is a client's query that an upstream server is to answer.
type request struct {
	upstream.Request
	sender

	forwarder *forwarder
	client    netip.Addr
	slot      slot
}

// type check
var _ upstream.Asker = (*request)(nil)

// Deliver answers r.
func (r *request) Deliver(answer *wire.Response, kept bool, out upstream.Replies) {
	together, _ := out.(*replies)
	r.forwarder.deliver(r, answer, kept, together)
}

// newForwarder returns a forwarder for cfg, which must be valid, beside z.
func newForwarder(cfg Config, z *zone.Zone, c *counters, log *slog.Logger) *forwarder {
	f := &forwarder{
		log:        log,
		zone:       z,
		counters:   c,
		client:     upstream.NewClient(log),
		cache:      newCache(),
		slots:      newSlots(forwardLimit),
		now:        time.Now,
		staleAfter: staleAfter,
	}
	f.selector = upstream.NewSelector(log, f.cache.flush)
	f.queries = upstream.NewQueries(f.client, f)
	f.configure(cfg)
	return f
}

// configure takes over what concerns upstream servers.
func (f *forwarder) configure(cfg Config) {
	f.mu.Lock()
	old := f.cfg
	f.cfg, f.domain = cfg, ""
	if cfg.Domain != "" {
		f.domain = wire.KeyOf(cfg.Domain)
	}
	f.mu.Unlock()
	f.selector.Configure(upstream.Config{
		Own: cfg.Addrs, OwnPort: uint16(cfg.Port),
		Forwarders: cfg.Forwarders, Host: !cfg.NoForward, ResolvConf: cfg.ResolvConf,
	})
	f.rebind.Store(newRebind(cfg))
	if old.StopRebind != cfg.StopRebind || old.RebindLocalhost != cfg.RebindLocalhost ||
		!slices.Equal(old.RebindDomains, cfg.RebindDomains) || old.NoForward != cfg.NoForward || !slices.Equal(old.Forwarders, cfg.Forwarders) {
		f.cache.flush()
	}
}

// close returns when no query is in waiting, and closes the sockets. No query may
// be forwarded any more, and the contexts of those that were must have ended.
func (f *forwarder) close() {
	f.queries.Wait()
	f.client.Close()
}

// cached packs the answer to q from the cache into buf if that is long enough;
// nil if an upstream server is to be asked. It first finds out whether the host
// has other servers.
func (f *forwarder) cached(q *wire.Query, buf []byte) []byte {
	f.selector.Servers(q.Key, q.Received)
	e, fresh := f.cache.get(q.Question(), q.Received)
	if !fresh {
		return nil
	}
	reply := f.settle(q, e.Answer(q, buf, true))
	f.counters.cached.add(wire.Rcode(reply))
	return reply
}

// settle turns reply, an upstream's answer to q, around where it says that a name does not exist
// of which we know more: it has no record of that type then (RFC 2308 section 2.2).
func (f *forwarder) settle(q *wire.Query, reply []byte) []byte {
	if wire.IsNXDOMAIN(reply) && f.zone.View().Exists(q.Key) {
		wire.SetRcode(reply, dns.RcodeSuccess)
	}
	return reply
}

// forward has r's query answered by an upstream server, which is asked when out is flushed, at
// once where it is nil; or with SERVFAIL when its client has too many queries waiting. It does
// not block.
func (f *forwarder) forward(ctx context.Context, r *request, out *upstream.Outbox) {
	r.forwarder, r.Asker, r.Own = f, r, f.isOwn(r.Query, r.client)
	if !f.slots.acquire(&r.slot, r.client, func() { f.abandon(r) }) {
		f.limited(r)
		return
	}
	stale, joined, looped := f.queries.Join(ctx, &r.Request, out)
	if joined {
		f.counters.coalesced.Add(1)
	}
	switch {
	case looped:
		f.slots.release(&r.slot)
		f.reply(r, &f.counters.upstream, r.Query.Reply(dns.RcodeNameError, true, nil), nil)
	case stale != nil:
		f.deliver(r, stale, true, nil)
	}
}

// isOwn reports whether a query may be one of ours that has come back: the host's
// resolver was told to ask us for our domain and our reverse zones, and it asks
// us what we have just asked it.
func (f *forwarder) isOwn(q *wire.Query, client netip.Addr) bool {
	f.mu.Lock()
	addrs, domain := f.cfg.Addrs, f.domain
	f.mu.Unlock()
	if !slices.Contains(addrs, client) {
		return false
	}
	_, ours := wire.InDomain(q.Key, domain)
	return (ours || zone.IsReverse(f.zone.View(), q.Key)) && f.selector.IsLocal(q.Key, q.Received)
}

// abandon answers r, whose slot another client needs, with SERVFAIL, unless its
// answer is there by now.
func (f *forwarder) abandon(r *request) {
	if f.queries.Abandon(&r.Request) {
		f.limited(r)
	}
}

// limited answers r, which has no slot, with SERVFAIL.
func (f *forwarder) limited(r *request) {
	f.counters.limited.Add(1)
	f.reply(r, &f.counters.upstream, r.Query.Reply(dns.RcodeServerFailure, true, nil), nil)
}

// deliver answers r with answer, nil if there is none, and gives back its slot. It
// never leaves the client without an answer.
func (f *forwarder) deliver(r *request, answer *wire.Response, kept bool, together *replies) {
	f.slots.release(&r.slot)
	var buf []byte
	if together != nil {
		buf = together.reply[:0]
	}
	reply := f.pack(r.Query, answer, buf, kept)
	if reply == nil {
		f.counters.failed.Add(1)
		reply = r.Query.Reply(dns.RcodeServerFailure, true, nil)
	}
	source := &f.counters.upstream
	if kept {
		source = &f.counters.stale
	}
	f.reply(r, source, reply, together)
}

// reply sends an answer and counts it.
func (f *forwarder) reply(r *request, source *answered, reply []byte, together *replies) {
	source.add(wire.Rcode(f.settle(r.Query, reply)))
	f.counters.forwarded.Add(f.now().Sub(r.Query.Received), 1)
	r.send(reply, together)
}

// pack packs answer for q, into buf if that is long enough; nil if there is none or it can't be
// packed.
func (f *forwarder) pack(q *wire.Query, answer *wire.Response, buf []byte, kept bool) []byte {
	defer f.counters.catch(f.log)
	if answer == nil {
		return nil
	}
	return answer.Answer(q, buf, kept)
}

// Servers is whom a question is asked of.
func (f *forwarder) Servers(waiting *upstream.InFlight) []*upstream.Server {
	waiting.Generation = f.cache.generation.Load()
	return f.selector.Servers(waiting.Query.Key, waiting.Query.Received)
}

// Replies are answers to clients that come together.
func (f *forwarder) Replies() upstream.Replies { return f.counters.replies() }

// Answered brings msg to all requests that wait for it.
func (f *forwarder) Answered(waiting *upstream.InFlight, msg []byte, out upstream.Replies) {
	r := f.accept(waiting.Query, msg, &out.(*replies).response)
	if r != nil {
		f.cache.put(waiting.Question, r, waiting.Generation, f.now())
	}
	waiting.Deliver(r, false, out)
}

// Resolve brings the answer to all requests that wait for it. RFC 8767 section 5: if it
// takes longer than clients wait they get a stale one, and so they do if it is a failure.
func (f *forwarder) Resolve(ctx context.Context, waiting *upstream.InFlight) {
	stale, _ := f.cache.get(waiting.Question, waiting.Query.Received)
	if stale != nil {
		var timer sync.WaitGroup
		defer timer.Wait()
		arrived := make(chan struct{})
		defer close(arrived)
		timer.Go(func() { f.deliverStale(waiting, stale, arrived) })
	}
	r := f.exchange(ctx, waiting)
	failed := r == nil || wire.IsFailure(r.Msg)
	switch {
	case !failed:
		f.cache.put(waiting.Question, r, waiting.Generation, f.now())
	case stale != nil && ctx.Err() == nil:
		stale.retry.Store(f.now().Add(staleRetry).UnixNano())
		r = &stale.Response
	}
	waiting.Deliver(r, failed && stale != nil, nil)
}

// deliverStale gives the stale answer to requests that wait for too long.
func (f *forwarder) deliverStale(waiting *upstream.InFlight, stale *entry, arrived <-chan struct{}) {
	t := time.NewTimer(f.staleAfter - time.Since(waiting.Started))
	defer t.Stop()
	select {
	case <-t.C:
		waiting.DeliverStale(&stale.Response)
	case <-arrived:
	}
}

// exchange goes on with asking the upstream servers. It returns nil when none answered or
// there is none.
func (f *forwarder) exchange(ctx context.Context, waiting *upstream.InFlight) *wire.Response {
	defer f.counters.catch(f.log)
	msg := waiting.Exchange(ctx)
	if msg == nil {
		return nil
	}
	return f.accept(waiting.Query, msg, new(wire.Response))
}

// accept returns what clients get of msg, which is what upstream servers answer
// to q, read into r; nil if it can't be read.
func (f *forwarder) accept(q *wire.Query, msg []byte, r *wire.Response) *wire.Response {
	defer f.counters.catch(f.log)
	if f.rebind.Load().stops(q.Key, msg) {
		f.counters.rebound.Add(1)
		f.rebinds.Log(f.log, slog.LevelInfo, "an upstream's answer has a private address: it is kept from guests", "name", q.Key)
		return wire.EmptyResponse(msg)
	}
	if !r.Read(msg, f.now()) {
		return nil
	}
	return r
}
