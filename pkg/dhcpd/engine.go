package dhcpd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
	"sync"
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

// Engine is what the servers of both families have in common: the leases, their
// way to the store, and the loops that call the protocol's handler. Its lock guards
// Pool and what the handler keeps.
type Engine struct {
	Log     *iface.Log
	Count   Counters
	handler Handler
	cfg     *Settings
	link    Transport
	close   func() error              // of link, once
	loops   []func(context.Context)   // run beside the others
	failing bool                      // the last commit failed; for the committer alone
	wake    chan struct{}             // capacity 1: changes are pending
	failed  chan error                // capacity 1: why the link can't be used any more
	frames  *iface.RateLimits[HWAddr] // for the reader alone

	sync.Mutex // guards all below
	Pool       *Pool
	pending    []Change
	dynamic    map[HWAddr]*Reservation // see SetDynamic
	each       *iface.RateLimits[string]
	newcomers  *iface.RateLimits[station]
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
		wake: make(chan struct{}, 1), failed: make(chan error, 1),
		each:      iface.NewRateLimits[string](messageEvery, messageBurst, clientsRemembered),
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
func newcomers(most int) *iface.RateLimits[station] {
	return iface.NewRateLimits[station](newcomerEvery, max(newcomerBurst, most), clientsRemembered)
}

// Connect opens the transport. Loops run beside the engine's own: each returns once
// its context ends and the link is interrupted.
func (s *Engine) Connect(link Transport, loops ...func(context.Context)) {
	s.link, s.close, s.loops = link, iface.Once(link.Close), loops
}

// restore puts the records of the store into pl and removes those from the store
// that mean nothing any more; a lease that runs is no such record, wherever the
// subnet is now. Records of the other family are another server's.
func restore(pl *Pool, store LeaseStore, now time.Time) error {
	all, err := store.Load()
	if err != nil {
		return fmt.Errorf("loading leases: %w", err)
	}
	var keep []Lease
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
	pl.expire(now, func(*Binding, State) {})
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

// Serve handles one datagram and sends the reply that can leave at once. It is for one
// goroutine.
func (s *Engine) Serve(d Datagram, now time.Time) {
	if d.From != (Sender{}) && !s.frames.Allow(d.From.HW, now) {
		s.Count.limited.Add(1)
		return
	}
	if d.From.HW != (HWAddr{}) {
		d.From.Port = s.link.Port(d.From.HW)
	}
	d.From.most = -1
	if d.From.Port != 0 && s.cfg.OfPort != nil {
		d.From.most = s.cfg.OfPort(d.From.Port)
	}
	s.Send(s.handle(d, now))
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

// Send sends a reply, nil for none.
func (s *Engine) Send(out *Reply) {
	if out == nil {
		return
	}
	if err := s.link.Send(out); err != nil {
		s.Count.SendErrors.Add(1)
		s.Log.Limited("DHCP reply not sent", "ip", out.Dst.Addr(), "error", err)
		if errors.Is(err, iface.ErrGone) {
			s.Fail(err)
		}
		return
	}
	s.Count.Sent[out.Type].Add(1)
}

// Expire ends the leases and quarantines that are over. Records of leases stay
// in the store, so that their clients get the same address again.
func (s *Engine) Expire(now time.Time) {
	s.Lock()
	defer s.Unlock()
	s.Pool.expire(now, func(b *Binding, was State) {
		if was == StateBound {
			l := b.Lease
			l.State = StateBound // as stored
			s.Enqueue(Change{events: []Event{{Kind: Expired, Lease: l}}})
		}
		s.forget(b)
	})
}

// forget removes the record of b from the store when the address can't be given
// to its former client again. the engine must be locked.
func (s *Engine) forget(b *Binding) {
	if b.Lease.State != "" && s.Pool.scope.offered(b.Addr) {
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
	pl := newPool(sp)
	left := pl.adopt(&s.Pool.Bindings, time.Now())
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
func (s *Engine) Allow(client string, now time.Time) bool {
	if s.each.Allow(client, now) {
		return true
	}
	s.Count.limited.Add(1)
	return false
}

// Admits reports whether c may have a further address, if it needs one: a port has so many, and
// brings no more new clients than so many at a time. It counts and tells when not. The
// engine must be locked.
func (s *Engine) Admits(c *Client) bool {
	most, at := c.Via.most, c.Via.station()
	if most < 0 {
		most = s.Pool.scope.PerPort
	}
	if most == 0 || at == (station{}) || s.Pool.known(c) {
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
	select {
	case s.wake <- struct{}{}:
	default:
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
	c := &s.Count
	return Common{
		Pool:    s.poolStats(),
		Commits: c.commits.Load(), Committed: c.committed.Load(), CommitFailures: c.commitFailures.Load(),
		CommitLatency: c.latency.Load(),
		Malformed:     c.Malformed.Load(), Ignored: c.Ignored.Load(), Exhausted: c.Exhausted.Load(),
		Conflicts: c.Conflicts.Load(), Overload: c.Overload.Load(), Limited: c.limited.Load(),
		Panics: c.panics.Load(), SendErrors: c.SendErrors.Load(),
	}
}

// poolStats returns how the addresses are used now.
func (s *Engine) poolStats() PoolStats {
	s.Lock()
	defer s.Unlock()
	pl := s.Pool
	return PoolStats{
		Dynamic: pl.scope.shared(), Reserved: uint64(len(pl.scope.byAddr)),
		Bound: pl.states[StateBound], Offered: uint64(pl.offers.Len()), Declined: pl.states[StateDeclined],
		Former: pl.states[StateReleased] + pl.states[stateExpired],
	}
}
