package dnsd

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// forwardLimit is the number of queries of one network that may wait for an
// upstream.
const forwardLimit = 1000

// forwarder asks the host's resolvers for what is not ours. A cache would stand
// between forward and a flight: it would keep what a flight brought under the
// flight's key, and give it to adapt.
type forwarder struct {
	log      *slog.Logger
	counters *counters
	resolv   resolvConf
	routes   atomic.Pointer[routes]
	limit    *limiter
	timing   timing
	running  sync.WaitGroup

	mu      sync.Mutex
	flights map[flightKey]*flight
}

// flightKey is a question as an upstream sees it, in lower case. Questions with
// one key have answers that adapt makes into one another.
type flightKey struct {
	name     string
	qtype    uint16
	rd, cd   bool
	edns, do bool
}

// flight is a question on its way, and who waits for its answer.
type flight struct {
	waiters []waiter
}

// waiter is a query to be answered by a call of send, which must not block.
type waiter struct {
	q      *query
	client netip.Addr
	send   func([]byte)
}

// newForwarder returns a forwarder for cfg, which must be valid.
func newForwarder(cfg Config, c *counters, log *slog.Logger) *forwarder {
	f := &forwarder{
		log:      log,
		counters: c,
		limit:    newLimiter(forwardLimit),
		timing:   defaultTiming(),
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
	f.resolv.configure(cfg.ResolvConf, own)
	f.routes.Store(newRoutes(cfg, f.routes.Load()))
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
		f.log.Info("upstream name servers", keyUpstream, addressesOf(servers))
	}
	return servers
}

// wait returns when no flight is left. No query may be forwarded any more.
func (f *forwarder) wait() { f.running.Wait() }

// forward has w answered by an upstream, or at once with SERVFAIL when its
// client has too many queries waiting. It does not block.
func (f *forwarder) forward(ctx context.Context, w waiter) {
	f.counters.forwarded.Add(1)
	if !f.limit.acquire(w.client) {
		f.counters.limited.Add(1)
		w.send(w.q.reply(dns.RcodeServerFailure, true, nil))
		return
	}
	q := w.q
	key := flightKey{name: q.key, qtype: q.qtype, rd: q.rd, cd: q.cd, edns: q.edns, do: q.do}
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl := f.flights[key]; fl != nil {
		f.counters.coalesced.Add(1)
		fl.waiters = append(fl.waiters, w)
		return
	}
	f.flights[key] = &flight{waiters: []waiter{w}}
	f.running.Go(func() { f.fly(ctx, key, q) })
}

// fly brings the answer to q to all who wait for it.
func (f *forwarder) fly(ctx context.Context, key flightKey, q *query) {
	msg := f.resolve(ctx, q)
	f.mu.Lock()
	waiters := f.flights[key].waiters
	delete(f.flights, key)
	f.mu.Unlock()
	for _, w := range waiters {
		f.limit.release(w.client)
		f.land(w, msg)
	}
}

// land answers one query with msg, an upstream's answer to its question, nil if
// there is none. It never leaves the client without an answer.
func (f *forwarder) land(w waiter, msg []byte) {
	reply := f.adapt(w.q, msg)
	if reply == nil {
		f.counters.failed.Add(1)
		reply = w.q.reply(dns.RcodeServerFailure, true, nil)
	}
	w.send(reply)
}

// adapt makes msg the answer to q, nil if it can't be.
func (f *forwarder) adapt(q *query, msg []byte) []byte {
	defer f.counters.catch(f.log)
	switch {
	case msg == nil:
		return nil
	case !hasQuestion(msg):
		return q.reply(rcodeOf(msg), true, nil)
	}
	return q.adapt(msg)
}

// resolve asks the upstreams for q. It returns nil when none answered or there
// is none.
func (f *forwarder) resolve(ctx context.Context, q *query) []byte {
	defer f.counters.catch(f.log)
	now := time.Now()
	servers := f.upstreams(q.key, now)
	if len(servers) == 0 {
		return nil
	}
	return f.exchange(ctx, upstreamQuery(q), inOrder(servers, now))
}

// addressesOf are the addresses of servers.
func addressesOf(servers []*upstream) []netip.Addr {
	addrs := make([]netip.Addr, len(servers))
	for i, u := range servers {
		addrs[i] = u.addr.Addr()
	}
	return addrs
}
