package dnsd

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// forwardLimit is the number of queries of one network that may wait for an
// upstream.
const forwardLimit = 2000

// settleTick is how often settle looks.
const settleTick = 2 * time.Millisecond

// forwarder asks others for what is not ours.
type forwarder struct {
	log      *slog.Logger
	counters *counters
	resolv   resolvConf
	routes   atomic.Pointer[routes]
	rebind   atomic.Pointer[rebind]
	cache    *cache
	limit    *limiter
	now      func() time.Time
	timing   timing
	running  sync.WaitGroup // flights and ports
	ports    ports
	rebinds  pace

	mu      sync.Mutex
	flights map[flightKey]*flight
	cfg     Config
	domain  string       // key of cfg's
	servers []netip.Addr // of the host, when it last had some
}

// flightKey is a question as an upstream sees it, in lower case. Questions with
// one key have answers that response.answer makes into one another.
type flightKey struct {
	name     string
	qtype    uint16
	rd, cd   bool
	edns, do bool
}

// flight is a question on its way, and who waits for its answer.
type flight struct {
	key     flightKey
	cancel  context.CancelFunc // ends it early
	waiters []*waiter
	stale   *entry // nil: there is none, or it was not yet time for it
}

// waiter is a query to be answered by a call of send, which must not block.
type waiter struct {
	q      *query
	client netip.Addr
	send   func([]byte)
	place  *place
	flight *flight // that it is among the waiters of, if any; guarded by forwarder.mu
}

// newForwarder returns a forwarder for cfg, which must be valid.
func newForwarder(cfg Config, c *counters, log *slog.Logger) *forwarder {
	f := &forwarder{
		log:      log,
		counters: c,
		cache:    newCache(),
		limit:    newLimiter(forwardLimit),
		now:      time.Now,
		timing:   defaultTiming(),
		ports:    ports{open: make(map[*port]bool)},
		flights:  make(map[flightKey]*flight),
	}
	f.configure(cfg)
	return f
}

// configure takes over what concerns the upstreams. An address of ours is an
// upstream that must not be asked only if we serve the port it would be asked on.
func (f *forwarder) configure(cfg Config) {
	var own []netip.Addr
	if cfg.Port == defaultPort {
		own = cfg.Addrs
	}
	f.mu.Lock()
	old := f.cfg
	f.cfg, f.domain = cfg, ""
	if cfg.Domain != "" {
		f.domain = keyOf(cfg.Domain)
	}
	f.mu.Unlock()
	if old.ResolvConf != cfg.ResolvConf || !slices.Equal(old.Addrs, cfg.Addrs) {
		f.resolv.configure(cfg.ResolvConf, own)
	}
	f.routes.Store(newRoutes(cfg, f.routes.Load()))
	f.rebind.Store(newRebind(cfg))
	if old.StopRebind != cfg.StopRebind || old.RebindLocalhost != cfg.RebindLocalhost ||
		!slices.Equal(old.RebindDomains, cfg.RebindDomains) || old.NoForward != cfg.NoForward || !slices.Equal(old.Forwarders, cfg.Forwarders) {
		f.cache.flush()
	}
}

// serves tells whether there is anybody to ask for a name.
func (f *forwarder) serves(key string) bool {
	r := f.routes.Load().of(key)
	return r.host || len(r.servers) > 0
}

// upstreams are the servers that a name is asked of.
func (f *forwarder) upstreams(key string, now time.Time) []*upstream {
	r := f.routes.Load().of(key)
	if !r.host {
		return r.servers
	}
	servers, changed := f.resolv.upstreams(now)
	if changed {
		f.hostChanged(addressesOf(servers))
	}
	return servers
}

// hostChanged notes that the host has other servers. Those know other names (a
// VPN's for instance), so that what is kept is forgotten; but not while there
// are none.
func (f *forwarder) hostChanged(servers []netip.Addr) {
	f.log.Info("upstream name servers", keyUpstream, servers)
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(servers) == 0 || slices.Equal(servers, f.servers) {
		return
	}
	f.servers = servers
	f.cache.flush()
}

// settle returns when no flight is left, or ctx ends.
func (f *forwarder) settle(ctx context.Context) {
	tick := time.NewTicker(settleTick)
	defer tick.Stop()
	for f.busy() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// busy tells whether somebody waits for an upstream.
func (f *forwarder) busy() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fl := range f.flights {
		if len(fl.waiters) > 0 {
			return true
		}
	}
	return false
}

// wait returns when no flight and no socket is left. No query may be forwarded any
// more, and the context of those that were must have ended.
func (f *forwarder) wait() {
	f.ports.close()
	f.running.Wait()
}

// flightKey is the key of q's flight.
func (q *query) flightKey() flightKey {
	return flightKey{name: q.key, qtype: q.qtype, rd: q.rd, cd: q.cd, edns: q.edns, do: q.do}
}

// kept is the answer to q from the cache, in buf if that is long enough; nil if
// an upstream is to be asked. It looks whether the servers have changed first.
func (f *forwarder) kept(q *query, buf []byte) []byte {
	f.upstreams(q.key, q.now)
	e, fresh := f.cache.get(q.flightKey(), q.now)
	if !fresh {
		return nil
	}
	f.counters.cached.add(rcodeOf(e.msg))
	return e.answer(q, buf, true)
}

// forward has w answered by an upstream, or at once with SERVFAIL when its
// client has too many queries waiting. It does not block.
func (f *forwarder) forward(ctx context.Context, w *waiter) {
	w.place = f.limit.acquire(w.client, func() { f.giveUp(w) })
	if w.place == nil {
		f.counters.limited.Add(1)
		f.reply(w, &f.counters.upstream, w.q.reply(dns.RcodeServerFailure, true, nil))
		return
	}
	switch stale, looped := f.join(ctx, w); {
	case looped:
		f.limit.release(w.place)
		f.reply(w, &f.counters.upstream, w.q.reply(dns.RcodeNameError, true, nil))
	case stale != nil:
		f.land(w, stale.response, true)
	}
}

// join has w wait for a flight, which starts if there is none to w's question.
// stale is what w is to be given instead. looped tells that the question is
// one that has come back to us: the name does not exist.
func (f *forwarder) join(ctx context.Context, w *waiter) (stale *entry, looped bool) {
	key := w.q.flightKey()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.isLoop(w) {
		return nil, true
	}
	fl := f.flights[key]
	if fl == nil {
		fl = f.start(ctx, key, w.q)
	} else {
		f.counters.coalesced.Add(1)
	}
	if fl.stale == nil {
		fl.waiters = append(fl.waiters, w)
		w.flight = fl
	}
	return fl.stale, false
}

// start begins a flight. f.mu must be held.
func (f *forwarder) start(ctx context.Context, key flightKey, q *query) *flight {
	ctx, cancel := context.WithCancel(ctx)
	fl := &flight{key: key, cancel: cancel}
	f.flights[key] = fl
	f.running.Go(func() {
		defer cancel()
		f.fly(ctx, fl, q)
	})
	return fl
}

// giveUp answers w, which another needs the place of, with SERVFAIL, unless its answer is
// there by now. A flight that nobody waits for any more ends.
func (f *forwarder) giveUp(w *waiter) {
	f.mu.Lock()
	fl := w.flight
	if fl == nil {
		f.mu.Unlock()
		return
	}
	w.flight = nil
	fl.waiters = slices.DeleteFunc(fl.waiters, func(one *waiter) bool { return one == w })
	if len(fl.waiters) == 0 {
		f.remove(fl)
		fl.cancel()
	}
	f.mu.Unlock()
	f.counters.limited.Add(1)
	f.reply(w, &f.counters.upstream, w.q.reply(dns.RcodeServerFailure, true, nil))
}

// remove has nobody join fl any more. f.mu must be held.
func (f *forwarder) remove(fl *flight) {
	if f.flights[fl.key] == fl {
		delete(f.flights, fl.key)
	}
}

// isLoop tells whether w is what we are asking others: the host's resolver was
// told to ask us for our domain and our reverse zones (Resolved), and it asks us
// what we have just asked it. f.mu must be held.
func (f *forwarder) isLoop(w *waiter) bool {
	_, ours := inDomain(w.q.key, f.domain)
	if !ours && !strings.HasSuffix(w.q.key, ".arpa.") || !slices.Contains(f.cfg.Addrs, w.client) {
		return false
	}
	for flags := range 16 {
		key := flightKey{
			name: w.q.key, qtype: w.q.qtype,
			rd: flags&1 > 0, cd: flags&2 > 0, edns: flags&4 > 0, do: flags&8 > 0,
		}
		if f.flights[key] != nil {
			return true
		}
	}
	return false
}

// fly brings the answer to q to all who wait for it. RFC 8767 section 5: if it
// takes longer than clients wait they get a stale one, and so they do if it is a
// failure.
func (f *forwarder) fly(ctx context.Context, fl *flight, q *query) {
	generation := f.cache.generation.Load()
	stale, _ := f.cache.get(fl.key, q.now)
	if stale != nil {
		var waiting sync.WaitGroup
		defer waiting.Wait()
		arrived := make(chan struct{})
		defer close(arrived)
		waiting.Go(func() { f.giveStale(fl, stale, arrived) })
	}
	r := f.resolve(ctx, q)
	failed := r == nil || isFailure(r.msg)
	switch {
	case !failed:
		f.cache.put(fl.key, r, generation)
	case stale != nil && ctx.Err() == nil:
		stale.retry.Store(f.now().Add(staleRetry).UnixNano())
		r = stale.response
	}
	f.landAll(fl, nil, r, failed && stale != nil)
}

// giveStale gives those who wait for too long what is stale.
func (f *forwarder) giveStale(fl *flight, stale *entry, arrived <-chan struct{}) {
	t := time.NewTimer(f.timing.stale)
	defer t.Stop()
	select {
	case <-t.C:
		f.landAll(fl, stale, stale.response, true)
	case <-arrived:
	}
}

// landAll answers all who wait for fl with r. With stale the flight goes on, and
// who comes later gets that.
func (f *forwarder) landAll(fl *flight, stale *entry, r *response, kept bool) {
	f.mu.Lock()
	waiters := fl.waiters
	fl.waiters, fl.stale = nil, stale
	for _, w := range waiters {
		w.flight = nil
	}
	if stale == nil {
		f.remove(fl)
	}
	f.mu.Unlock()
	for _, w := range waiters {
		f.land(w, r, kept)
	}
}

// land answers one query with r, nil if there is no answer. It never leaves the
// client without one, and gives back its place.
func (f *forwarder) land(w *waiter, r *response, kept bool) {
	f.limit.release(w.place)
	reply := f.adapt(w.q, r, kept)
	if reply == nil {
		f.counters.failed.Add(1)
		reply = w.q.reply(dns.RcodeServerFailure, true, nil)
	}
	source := &f.counters.upstream
	if kept {
		source = &f.counters.stale
	}
	f.reply(w, source, reply)
}

// reply sends an answer and counts it.
func (f *forwarder) reply(w *waiter, source *answered, reply []byte) {
	source.add(rcodeOf(reply))
	f.counters.forwarded.add(f.now().Sub(w.q.now), 1)
	w.send(reply)
}

// adapt makes r the answer to q, nil if it can't be.
func (f *forwarder) adapt(q *query, r *response, kept bool) []byte {
	defer f.counters.catch(f.log)
	switch {
	case r == nil:
		return nil
	case !hasQuestion(r.msg):
		return q.reply(rcodeOf(r.msg), true, nil)
	}
	return r.answer(q, nil, kept)
}

// resolve asks the upstreams for q. It returns nil when none answered or there
// is none.
func (f *forwarder) resolve(ctx context.Context, q *query) *response {
	defer f.counters.catch(f.log)
	servers := f.upstreams(q.key, q.now)
	if len(servers) == 0 {
		return nil
	}
	return f.accept(q, f.exchange(ctx, upstreamQuery(q), inOrder(servers, time.Now())))
}

// accept makes what upstreams say to q, nil for nothing, what clients get.
func (f *forwarder) accept(q *query, msg []byte) *response {
	switch {
	case msg == nil:
		return nil
	case !hasQuestion(msg):
		return &response{msg: msg}
	case f.rebind.Load().stops(q.key, msg):
		f.counters.rebound.Add(1)
		f.rebinds.log(f.log, slog.LevelInfo, "an upstream's answer has a private address: it is kept from guests", "name", q.key)
		return &response{msg: emptied(msg)}
	}
	return newResponse(msg, f.now())
}

// addressesOf are the addresses of servers.
func addressesOf(servers []*upstream) []netip.Addr {
	addrs := make([]netip.Addr, len(servers))
	for i, u := range servers {
		addrs[i] = u.addr.Addr()
	}
	return addrs
}
