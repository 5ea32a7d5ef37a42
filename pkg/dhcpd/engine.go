package dhcpd

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vnetd/vnetd/internal/histogram"
	"github.com/vnetd/vnetd/pkg/dhcpd/internal/iface"
)

// MaxPending is how many changes may wait for the store. More messages are
// dropped; their clients ask again.
const MaxPending = 1024

// How many messages of one client are handled. Real clients wait for seconds
// between them.
const (
	messageEvery      = 50 * time.Millisecond
	messageBurst      = 64
	clientsRemembered = 4096
)

// How many messages of one card are looked at, whoever they say they are from. Many machines
// may be behind a card.
const (
	frameEvery = 5 * time.Millisecond
	frameBurst = 512
)

// How many clients that are not known a port may bring at once, and how often one more.
const (
	newcomerBurst = 64
	newcomerEvery = time.Second
)

// manyLeases are so many that the memory which was taken to read them is given back at once.
const manyLeases = 10000

// Engine is what the servers of both families have in common: the leases, their
// way to the store, and the loops that call the protocol's handler. Its lock guards
// Pool and what the handler keeps.
type Engine struct {
	Log     *iface.Log
	Count   Counters
	handler Handler
	cfg     *Settings
	link    Transport
	close   func() error            // of link, once
	failure func(*Reply, error)     // unsent, made once
	loops   []func(context.Context) // run beside the others
	told    atomic.Int64            // batches that the teller is done with
	wake    chan struct{}           // capacity 1: changes are pending
	failed  chan error              // capacity 1: why the link can't be used any more
	seed    maphash.Seed
	frames  *iface.RateLimits[HWAddr] // for the reader alone
	replies []*Reply                  // to what was received, to be sent at once; for the reader alone
	answers []*Reply                  // to what was stored; for who answers, one at a time

	committing chan struct{} // capacity 1: has one of who stores changes, who may use what follows
	failing    bool          // the last commit failed
	took       time.Duration // by a commit, in the mean of late; slow until seen
	handed     int64         // batches that the teller got
	merged     merger

	sync.Mutex      // guards all below
	alone      bool // who set it will commit what is queued
	Pool       *Pool
	pending    []Change
	spare      [][]Change                // memory of batches that are done, for the next ones
	dynamic    map[HWAddr]*Reservation   // see SetDynamic
	each       *iface.RateLimits[uint64] // by the sum of what tells the client
	newcomers  *iface.RateLimits[seat]
}

// Server is what the DHCP servers of both families offer their owner. Its methods may
// be called concurrently, except where they say otherwise.
type Server struct{ engine *Engine }

// NewServer returns the server on an engine with a transport.
func NewServer(e *Engine) Server { return Server{e} }

// NewEngine makes an engine without a transport, with the leases of sp.
func NewEngine(h Handler, cfg *Settings, sp *Scope, log *iface.Log) (*Engine, error) {
	s := &Engine{
		Count: Counters{latency: histogram.New(latencyBounds())},
		Log:   log, handler: h, cfg: cfg, Pool: newPool(sp),
		wake: make(chan struct{}, 1), committing: make(chan struct{}, 1), took: quickCommit, failed: make(chan error, 1), seed: maphash.MakeSeed(),
		each:      iface.NewRateLimits[uint64](messageEvery, messageBurst, clientsRemembered),
		frames:    iface.NewRateLimits[HWAddr](frameEvery, frameBurst, clientsRemembered),
		newcomers: newcomers(sp.PerPort),
	}
	if err := restore(s.Pool, cfg.Store, time.Now()); err != nil {
		return nil, err
	}
	s.logKept()
	return s, nil
}

// newcomers limits the new clients of each port.
func newcomers(most int) *iface.RateLimits[seat] {
	return iface.NewRateLimits[seat](newcomerEvery, max(newcomerBurst, most), clientsRemembered)
}

// Connect opens the transport. Loops run beside the engine's own: each returns once
// its context ends and the link is interrupted.
func (s *Engine) Connect(link Transport, loops ...func(context.Context)) {
	s.link, s.close, s.failure, s.loops = link, iface.Once(link.Close), s.unsent, loops
}

// restore puts the records of the store into pl and removes those from the store
// that mean nothing any more; a lease that runs is no such record, wherever the
// subnet is now. Records of the other family are another server's.
func restore(pl *Pool, store LeaseStore, now time.Time) error {
	all, err := store.Load()
	if err != nil {
		return fmt.Errorf("loading leases: %w", err)
	}
	many := len(all) > manyLeases
	keep := all[:0]
	var drop []netip.Addr
	for _, l := range all {
		switch {
		case l.Addr.Is4() != pl.scope.Prefix.Addr().Is4():
		case !l.identified(),
			!l.live(now) && (l.State == StateDeclined || !pl.scope.offered(l.Addr)):
			drop = append(drop, l.Addr)
		default:
			keep = append(keep, l)
		}
	}
	pl.load(keep, now)
	pl.expire(now, func(netip.Addr, state) {})
	begin(pl.Bindings)
	if all, keep = nil, nil; many {
		debug.FreeOSMemory() // reading them took more memory than they do, of the other family as well
	}
	if len(drop) == 0 {
		return nil
	}
	if err := store.Commit(nil, drop); err != nil {
		return fmt.Errorf("removing leases that have ended outside the network: %w", err)
	}
	return nil
}

// Fail ends Run with err. The first error counts.
func (s *Engine) Fail(err error) {
	select {
	case s.failed <- err:
	default:
	}
}

// Serve handles datagrams, in their order, and sends the replies that can leave at once. It is
// for one goroutine.
func (s *Engine) Serve(all []Datagram, now time.Time) {
	s.replies = s.replies[:0]
	for i := range all {
		if out := s.serve(&all[i], now); out != nil {
			s.replies = append(s.replies, out)
		}
	}
	s.Send(s.replies...)
	clear(s.replies)
}

// serve returns what is answered to a datagram at once, nil for nothing. What one card sends
// is limited, but not what a relay agent sends, which stands for many clients, unless it is
// behind a port of which OfPort knows: the guest there is none.
func (s *Engine) serve(d *Datagram, now time.Time) *Reply {
	many := d.From != (Sender{}) && !s.frames.Allow(d.From.HW, now)
	relayed := s.handler.Relayed(d.Payload)
	if many && !relayed {
		s.Count.limited.Add(1)
		return nil
	}
	d.From.most = -1
	if d.From.Port != 0 && s.cfg.OfPort != nil {
		d.From.most = s.cfg.OfPort(d.From.Port)
	}
	if relayed && d.From.most < 0 {
		d.From.most = 0
	} else if many {
		s.Count.limited.Add(1)
		return nil
	}
	return s.handle(*d, now)
}

// handle returns what the protocol's handler answers to a datagram. A panic ends the
// datagram, not the server.
func (s *Engine) handle(d Datagram, now time.Time) (out *Reply) {
	defer func() {
		if r := recover(); r != nil {
			s.Count.panics.Add(1)
			s.Log.Limited("handling a DHCP message panicked", "panic", r, "stack", string(debug.Stack()))
			out = nil
		}
	}()
	s.Lock()
	defer s.Unlock()
	s.Pool.expireOffers(now)
	out, err := s.handler.Handle(d, now)
	if err != nil {
		s.Count.Malformed.Add(1)
		s.Log.Debug("dropping a datagram", "src", d.Src, "error", err)
	}
	return out
}

// Send sends replies, which are nobody's then.
func (s *Engine) Send(all ...*Reply) {
	if len(all) == 0 {
		return
	}
	s.link.Send(all, s.failure)
	for _, out := range all {
		if !out.unsent {
			s.Count.Sent[out.Type].Add(1)
		}
		out.release()
	}
}

// unsent takes note of a reply that was not sent.
func (s *Engine) unsent(out *Reply, err error) {
	out.unsent = true
	s.Count.SendErrors.Add(1)
	s.Log.Limited("DHCP reply not sent", "ip", out.Dst.Addr(), "error", err)
	if errors.Is(err, iface.ErrGone) {
		s.Fail(err)
	}
}

// Expire ends the leases and quarantines that are over. Records of leases stay
// in the store, so that their clients get the same address again.
func (s *Engine) Expire(now time.Time) {
	s.Lock()
	defer s.Unlock()
	s.Pool.expire(now, func(a netip.Addr, was state) {
		b := s.Pool.Binding(a)
		if was == bound {
			l := b.Lease()
			l.State = StateBound // as stored
			s.Enqueue(Change{events: []Event{{Kind: Expired, Lease: l}}})
			reckon(s.Pool.Bindings, a)
		}
		s.forget(b)
	})
}

// forget removes the record of b from the store when the address can't be given
// to its former client again. the engine must be locked.
func (s *Engine) forget(b Binding) {
	if !b.blank() && s.Pool.scope.offered(b.Addr()) {
		return
	}
	s.Enqueue(Change{writes: []write{s.Pool.stage(b, Lease{})}})
}

// Follow makes the pool one of sp. Ended leases outside of it are removed from the
// store. the engine must be locked.
func (s *Engine) Follow(sp *Scope) {
	s.reserveDynamic(sp)
	if sp.PerPort != s.Pool.scope.PerPort {
		s.newcomers = newcomers(sp.PerPort)
	}
	rebuild(s, sp)
}

// Relend takes in which addresses the lender has given by now. That more came is quickly done,
// however many leases there are. The engine must be locked.
func Relend(s *Engine) {
	sp := s.Pool.scope
	if came, stayed := sp.relend(); !stayed || !s.Pool.grow(came) {
		rebuild(s, sp)
	}
}

// rebuild makes the pool anew by a scope.
func rebuild(s *Engine, sp *Scope) {
	pl := newPool(sp)
	left := pl.adopt(s.Pool.Bindings, time.Now())
	s.Pool = pl
	s.logKept()
	if len(left) == 0 {
		return
	}
	var ch Change
	for _, a := range left {
		pl.writes++
		ch.writes = append(ch.writes, write{addr: a, number: pl.writes})
	}
	s.Enqueue(ch)
}

// logKept tells of the leases that run on although the settings have no room for
// them. The engine must be locked, or the server not be known to anybody yet.
func (s *Engine) logKept() {
	now := time.Now()
	if n := s.Pool.outside(now); n > 0 {
		s.Log.Info("leases outside the subnet are kept until they end", "leases", n, "subnet", s.Pool.scope.Prefix)
	}
	for _, c := range s.Pool.contested(now) {
		args := []any{"ip", c.Lease.Addr, "mac", c.Lease.MAC.String(), "until", untilText(c.Lease.Expiry)}
		if c.For == "" {
			s.Log.Warn("an address that the network has for itself is leased to a client", args...)
			continue
		}
		s.Log.Warn("a reserved address is leased to another client: it is free for its own when that lease ends", append(args, "reserved_for", c.For)...)
	}
}

// untilText is an Expiry for a log.
func untilText(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format(time.RFC3339)
}

// Expiry returns when a lease of that length ends: the zero Time when never.
func Expiry(now time.Time, length time.Duration) time.Time {
	if length >= Infinite {
		return time.Time{}
	}
	return now.Add(length)
}

// Allow reports whether one more message of a client is to be handled now, and
// counts when it is not. the engine must be locked.
func (s *Engine) Allow(client []byte, now time.Time) bool {
	if s.each.Allow(maphash.Bytes(s.seed, client), now) {
		return true
	}
	s.Count.limited.Add(1)
	return false
}

// Admits reports whether c may have a further address, if it needs one: a port has so many, and
// brings no more new clients than so many at a time. It counts and tells when not. The
// engine must be locked.
func (s *Engine) Admits(c *Client) bool {
	most, at := c.Via.most, c.Via.station().seat()
	if most < 0 {
		most = s.Pool.scope.PerPort
	}
	if most == 0 || at == 0 || s.Pool.known(c) {
		return true
	}
	switch {
	case s.Pool.held[at] >= uint64(most):
		s.Log.Limited("a port has as many addresses as it may have", "most", most, "hw", c.Via.HW, "ifindex", c.Via.Port)
	case s.newcomers.Allow(at, c.Now):
		return true
	}
	s.Count.limited.Add(1)
	return false
}

// addDynamic and dropDynamic change who has what, here and in the scope. s.mu must be
// locked.
func (s *Engine) addDynamic(r *Reservation) {
	if s.dynamic == nil {
		s.dynamic = make(map[HWAddr]*Reservation)
	}
	s.dynamic[HWAddr(r.MAC)] = r
	s.Pool.scope.addDynamic(r)
	s.Pool.reidentify(r)
}

func (s *Engine) dropDynamic(mac HWAddr) {
	r := s.dynamic[mac]
	delete(s.dynamic, mac)
	s.Pool.scope.dropDynamic(r)
	s.Pool.reidentify(r)
}

// reserveDynamic adds to a new scope what guests have now; those who would take
// what the scope gives to others go without. the engine must be locked.
func (s *Engine) reserveDynamic(sp *Scope) {
	for _, r := range s.dynamic {
		if r.Addr.IsValid() && sp.byAddr[r.Addr] != nil {
			s.Log.Warn("the address of a port is now reserved for another client", "ip", r.Addr, "mac", r.MAC.String())
			continue
		}
		sp.addDynamic(r)
	}
}

// Enqueue hands ch to the committer. the engine must be locked.
func (s *Engine) Enqueue(ch Change) {
	s.pending = append(s.pending, ch)
	if !s.alone {
		committer{s}.rouse()
	}
}

// Overloaded reports, and counts, that no further change may be queued. s.mu
// must be locked.
func (s *Engine) Overloaded() bool {
	if len(s.pending) < MaxPending {
		return false
	}
	s.Count.Overload.Add(1)
	s.Log.Limited("dropping DHCP messages: the lease store is too slow")
	return true
}

// Common returns the counters of both families.
func (s *Engine) Common() Common {
	s.Lock()
	pool := s.Pool.stats()
	s.Unlock()
	c := &s.Count
	return Common{
		Pool:    pool,
		Commits: c.commits.Load(), Committed: c.committed.Load(), CommitFailures: c.commitFailures.Load(),
		CommitLatency: c.latency.Load(),
		Malformed:     c.Malformed.Load(), Ignored: c.Ignored.Load(), Exhausted: c.Exhausted.Load(),
		Conflicts: c.Conflicts.Load(), Overload: c.Overload.Load(), Limited: c.limited.Load(),
		Panics: c.panics.Load(), SendErrors: c.SendErrors.Load(),
	}
}
