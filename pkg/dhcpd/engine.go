package dhcpd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"time"
)

// tick is how often the server looks for leases that ended.
const tick = time.Second

// maxMessage bounds a message that is read; what is longer is malformed.
const maxMessage = 4096

// How many messages of one client are handled. Real clients wait for seconds
// between them.
const (
	messageEvery      = 50 * time.Millisecond
	messageBurst      = 64
	clientsRemembered = 4096
)

// datagram is one UDP datagram as it arrived.
type datagram struct {
	payload []byte
	src     netip.AddrPort
	dst     netip.Addr // our address, broadcast or a group
}

// outgoing is a reply on its way.
type outgoing struct {
	typ     uint8 // message type, of the protocol's numbers
	payload []byte
	dst     netip.AddrPort
	// framed: the receiver can't be found by ARP, since its address is new to it.
	// The reply is a frame to hw; otherwise the kernel routes it.
	framed bool
	hw     hwAddr
}

// transport carries datagrams between the server and one link. Send may be
// called at any time, the others by one goroutine.
type transport interface {
	// Receive waits for a datagram, whose payload it puts into buf.
	Receive(buf []byte) (datagram, error)
	// Send sends a reply. An error that wraps errLinkGone is final.
	Send(out *outgoing) error
	// Interrupt makes Receive return an error, now and from now on. It may be
	// called at any time.
	Interrupt()
	// Copy is another descriptor of what Receive reads. It may be called at any
	// time.
	Copy() (*os.File, error)
	// Close gives the resources back. No other method may be in use.
	Close() error
}

// errLinkGone says that the interface does not exist any more.
var errLinkGone = errors.New("the interface is gone")

// engine is what the servers of both families have in common: the loops, the
// leases and their way to the store.
type engine struct {
	log     *slog.Logger
	leases  LeaseStore
	onLease func(Event)
	onStore func(error)
	loops   []func(context.Context) // run beside the others; each returns once ctx ends and the link is interrupted
	failing bool                    // the last commit failed; for the committer alone
	link    transport
	close   func() error // of link, once
	// handle understands a datagram and acts on it. It returns the reply that can
	// leave at once, nil for none, and an error when it is no message of a client
	// on this link. mu is locked.
	handle func(d datagram, now time.Time) (*outgoing, error)
	count  counters
	limit  limiter
	wake   chan struct{} // capacity 1: changes are pending
	failed chan error    // capacity 1: why the link can't be used any more

	mu      sync.Mutex // guards all below
	pool    *pool
	pending []change
	live    map[hwAddr]*Reservation // see SetLive
	each    *throttle[string]
}

// load loads the leases of sp.
func (s *engine) load(sp *space) error {
	s.pool = newPool(sp)
	s.wake, s.failed = make(chan struct{}, 1), make(chan error, 1)
	return restore(s.pool, s.leases, time.Now())
}

// connect opens the transport.
func (s *engine) connect(dial func() (transport, error)) error {
	link, err := dial()
	if err != nil {
		return err
	}
	s.link, s.close = link, once(link.Close)
	s.each = newThrottle[string](messageEvery, messageBurst, clientsRemembered)
	return nil
}

// restore puts the records of the store into pl and removes those from the store
// that mean nothing any more. Records of the other family are another server's.
func restore(pl *pool, store LeaseStore, now time.Time) error {
	all, err := store.Load()
	if err != nil {
		return fmt.Errorf("loading leases: %w", err)
	}
	var keep []Lease
	var drop []netip.Addr
	for _, l := range all {
		switch {
		case l.Addr.Is4() != pl.space.prefix.Addr().Is4():
		case !l.identified() || !pl.space.usable(l.Addr),
			!l.live(now) && !pl.space.dynamic(l.Addr) && pl.space.byAddr[l.Addr] == nil,
			!l.live(now) && l.State == StateDeclined:
			drop = append(drop, l.Addr)
		default:
			keep = append(keep, l)
		}
	}
	pl.load(keep, now)
	pl.expire(now, func(*binding, State) {})
	if len(drop) == 0 {
		return nil
	}
	if err := store.Commit(nil, drop); err != nil {
		return fmt.Errorf("removing leases outside the network: %w", err)
	}
	return nil
}

// Close gives up a server that does not run. After Run, or a second time, it does
// nothing.
func (s *engine) Close() error { return s.close() }

// Run serves until ctx ends, which is no error, or the link fails. It returns
// when all that it started has ended: pending changes are stored, their replies
// sent and the sockets closed. It may be called once.
func (s *engine) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stopped := make(chan struct{})
	var readers, committer sync.WaitGroup
	committer.Go(func() { s.commitLoop(stopped) })
	readers.Go(func() { s.expireLoop(ctx) })
	for _, loop := range s.loops {
		readers.Go(func() { loop(ctx) })
	}
	readers.Go(func() { defer cancel(); s.readLoop(ctx) })
	select {
	case <-ctx.Done():
	case err := <-s.failed:
		s.fail(err) // kept for the end
		cancel()
	}
	s.link.Interrupt()
	readers.Wait()
	close(stopped)
	committer.Wait()
	closeErr := s.close()
	select {
	case err := <-s.failed:
		return fmt.Errorf("serving DHCP: %w", errors.Join(err, closeErr))
	default:
		return closeErr
	}
}

// Leave returns a copy of the socket that clients send to, for Open in the next
// process: what comes in after Run has ended waits there. The caller closes it.
func (s *engine) Leave(context.Context) ([]*os.File, error) {
	f, err := s.link.Copy()
	if err != nil {
		return nil, fmt.Errorf("copying the socket of DHCP: %w", err)
	}
	return []*os.File{f}, nil
}

// fail ends Run with err. The first error counts.
func (s *engine) fail(err error) {
	select {
	case s.failed <- err:
	default:
	}
}

// readLoop handles one datagram after the other until it is interrupted because
// ctx has ended, or the link fails. What was received is handled in any case:
// nobody else gets it.
func (s *engine) readLoop(ctx context.Context) {
	buf := make([]byte, maxMessage)
	for {
		d, err := s.link.Receive(buf)
		if err != nil {
			if ctx.Err() == nil {
				s.fail(err)
			}
			return
		}
		s.send(s.serve(d, time.Now()))
	}
}

// expireLoop ends leases by time until ctx ends.
func (s *engine) expireLoop(ctx context.Context) {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			s.expire(time.Now())
		}
	}
}

// serve handles one datagram and returns the reply that can leave at once, or
// nil. A panic ends the datagram, not the server.
func (s *engine) serve(d datagram, now time.Time) (out *outgoing) {
	defer func() {
		if r := recover(); r != nil {
			s.count.panics.Add(1)
			s.warn("panic", "handling a DHCP message panicked", "panic", r, "stack", string(debug.Stack()))
			out = nil
		}
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pool.lapse(now)
	out, err := s.handle(d, now)
	if err != nil {
		s.count.malformed.Add(1)
		s.log.Debug("dropping a datagram", "src", d.src, "error", err)
	}
	return out
}

// send sends a reply, nil for none.
func (s *engine) send(out *outgoing) {
	if out == nil {
		return
	}
	if err := s.link.Send(out); err != nil {
		s.count.sendErrors.Add(1)
		s.warn("send", "DHCP reply not sent", "ip", out.dst.Addr(), "error", err)
		if errors.Is(err, errLinkGone) {
			s.fail(err)
		}
		return
	}
	s.count.sent[out.typ].Add(1)
}

// expire ends the leases and quarantines that are over. Records of leases stay
// in the store, so that their clients get the same address again.
func (s *engine) expire(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pool.expire(now, func(b *binding, was State) {
		if was == StateBound {
			l := b.lease
			l.State = StateBound // as stored
			s.enqueue(change{events: []Event{{Kind: Expired, Lease: l}}})
		}
		s.forget(b)
	})
}

// forget removes the record of b from the store when the address can't be given
// to its former client again. s.mu must be locked.
func (s *engine) forget(b *binding) {
	p := s.pool.space
	if b.lease.State != "" && (p.dynamic(b.addr) || p.byAddr[b.addr] != nil) {
		return
	}
	s.enqueue(change{writes: []write{s.pool.stage(b, Lease{})}})
}

// move makes sp what the pool follows. Leases outside of it are removed from the
// store. s.mu must be locked.
func (s *engine) move(sp *space) {
	s.reserveLive(sp)
	pl := newPool(sp)
	left := pl.adopt(s.pool, time.Now())
	s.pool = pl
	if len(left) == 0 {
		return
	}
	var ch change
	for _, a := range left {
		pl.writes++
		ch.writes = append(ch.writes, write{addr: a, number: pl.writes})
	}
	s.enqueue(ch)
}

// bind makes l the lease of c as a part of ch, and ends a lease of c on another
// address. It returns the host name that the lease has: a client that says none
// keeps what it had. Nobody else may have the address. s.mu must be locked.
func (s *engine) bind(ch *change, c *client, l Lease) string {
	s.pool.unhold(c.key)
	b := s.pool.binding(l.Addr)
	kind := Bound
	if b.lease.BoundAt(c.now) && b.key == c.key {
		kind = Renewed
		if !c.named && l.Hostname == "" {
			l.Hostname = b.lease.Hostname
		}
	}
	if old := s.pool.lease(c.key, c.now); old != nil && old != b {
		s.end(ch, old, c.now)
	}
	s.set(ch, kind, b, l)
	return l.Hostname
}

// expiry is when a lease of that length ends: the zero Time when never.
func expiry(now time.Time, length time.Duration) time.Time {
	if length >= Infinite {
		return time.Time{}
	}
	return now.Add(length)
}

// fair reports whether one more message of a client is to be handled now, and
// counts when it is not. s.mu must be locked.
func (s *engine) fair(client string, now time.Time) bool {
	if s.each.allow(client, now) {
		return true
	}
	s.count.limited.Add(1)
	return false
}

// set makes l the record of b as a part of ch.
func (s *engine) set(ch *change, kind EventKind, b *binding, l Lease) {
	ch.writes = append(ch.writes, s.pool.stage(b, l))
	ch.events = append(ch.events, Event{Kind: kind, Lease: l})
}

// end releases the lease of b as a part of ch. The record stays, so that the
// client gets the address again.
func (s *engine) end(ch *change, b *binding, now time.Time) {
	l := b.lease
	l.State, l.Expiry = StateReleased, now
	s.set(ch, Released, b, l)
}

// Leases returns the leases that are on disk, bound and not expired, sorted by
// address.
func (s *engine) Leases() []Lease {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pool.leases(now)
}

// warn logs, but not often for one kind of trouble: guests can cause it.
func (s *engine) warn(kind, msg string, args ...any) {
	if left, ok := s.limit.allow(kind, time.Now()); ok {
		s.log.Warn(msg, append(args, "suppressed", left)...)
	}
}
