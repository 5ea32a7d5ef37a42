package dhcpd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// tick is how often the server looks for leases that ended.
const tick = time.Second

// maxMessage bounds a message that is read; what is longer is malformed.
const maxMessage = 4096

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
	// Close gives the resources back. No other method may be in use.
	Close() error
}

// errLinkGone says that the interface does not exist any more.
var errLinkGone = errors.New("the interface is gone")

// Server answers DHCP on one link. Its methods may be called concurrently,
// except where they say otherwise.
type Server struct {
	log     *slog.Logger
	leases  LeaseStore
	onLease func(Event)
	link    transport
	close   func() error // of link, once
	count   counters
	limit   limiter
	wake    chan struct{} // capacity 1: changes are pending
	failed  chan error    // capacity 1: why the link can't be used any more

	mu      sync.Mutex // guards all below
	pool    *pool
	pending []change
}

// Open checks cfg, loads the leases and binds the sockets, in the network
// namespace of the calling thread. The caller must call either Run or Close. An
// error that wraps syscall.EADDRINUSE means that another DHCP server serves the
// interface.
func Open(cfg Config) (*Server, error) {
	return open(cfg, func() (transport, error) { return listen(&cfg) })
}

// open makes a Server on the transport that dial returns.
func open(cfg Config, dial func() (transport, error)) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("checking DHCP settings of network %q: %w", cfg.Network, err)
	}
	log := cfg.Logger
	if log == nil {
		log = slog.Default()
	}
	log = log.With("network", cfg.Network, "bridge", cfg.Interface)
	pl := newPool(newPlan(&cfg, log))
	if err := restore(pl, cfg.Store, time.Now()); err != nil {
		return nil, err
	}
	link, err := dial()
	if err != nil {
		return nil, fmt.Errorf("serving DHCP on %q: %w", cfg.Interface, err)
	}
	return &Server{
		log:     log,
		leases:  cfg.Store,
		onLease: cfg.OnLease,
		link:    link,
		close:   once(link.Close),
		wake:    make(chan struct{}, 1),
		failed:  make(chan error, 1),
		pool:    pl,
	}, nil
}

// restore puts the records of the store into pl and removes those from the store
// that mean nothing any more.
func restore(pl *pool, store LeaseStore, now time.Time) error {
	all, err := store.Load()
	if err != nil {
		return fmt.Errorf("loading leases: %w", err)
	}
	var keep []Lease
	var drop []netip.Addr
	for _, l := range all {
		switch {
		case len(l.MAC) != hwAddrLen || !pl.plan.usable(l.Addr),
			!l.live(now) && !pl.plan.dynamic(l.Addr) && pl.plan.byAddr[l.Addr] == nil,
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
func (s *Server) Close() error { return s.close() }

// Run serves until ctx ends, which is no error, or the link fails. It returns
// when all that it started has ended: pending changes are stored, their replies
// sent and the sockets closed. It may be called once.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stopped := make(chan struct{})
	var readers, committer sync.WaitGroup
	committer.Go(func() { s.commitLoop(stopped) })
	readers.Go(func() { s.expireLoop(ctx) })
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

// fail ends Run with err. The first error counts.
func (s *Server) fail(err error) {
	select {
	case s.failed <- err:
	default:
	}
}

// readLoop handles one datagram after the other until ctx ends or the link fails.
func (s *Server) readLoop(ctx context.Context) {
	buf := make([]byte, maxMessage)
	for {
		d, err := s.link.Receive(buf)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.fail(err)
			return
		}
		s.send(s.serve(d, time.Now()))
	}
}

// expireLoop ends leases by time until ctx ends.
func (s *Server) expireLoop(ctx context.Context) {
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
func (s *Server) serve(d datagram, now time.Time) (out *outgoing) {
	defer func() {
		if r := recover(); r != nil {
			s.count.panics.Add(1)
			s.warn("panic", "handling a DHCP message panicked", "panic", r, "stack", string(debug.Stack()))
			out = nil
		}
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := parse4(d, s.pool.plan, now)
	if err != nil {
		s.count.malformed.Add(1)
		s.log.Debug("dropping a datagram", "src", d.src, "error", err)
		return nil
	}
	s.pool.lapse(now)
	return s.handle4(c)
}

// send sends a reply, nil for none.
func (s *Server) send(out *outgoing) {
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
	switch out.typ {
	case dhcpv4.MessageTypeOffer:
		s.count.offer.Add(1)
	case dhcpv4.MessageTypeNak:
		s.count.nak.Add(1)
	default:
		s.count.ack.Add(1)
	}
}

// expire ends the leases and quarantines that are over. Records of leases stay
// in the store, so that their clients get the same address again.
func (s *Server) expire(now time.Time) {
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
func (s *Server) forget(b *binding) {
	p := s.pool.plan
	if b.lease.State != "" && (p.dynamic(b.addr) || p.byAddr[b.addr] != nil) {
		return
	}
	s.enqueue(change{writes: []write{s.pool.stage(b, Lease{})}})
}

// Reconfigure makes the server follow cfg from now on: ranges, reservations and
// options. Interface must stay; MAC, Store, OnLease and Logger are ignored.
// Running leases stay until their clients ask again, which are then refused what
// cfg does not allow them.
func (s *Server) Reconfigure(cfg Config) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := &s.pool.plan.cfg
	cfg.MAC, cfg.Store = old.MAC, old.Store
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("checking DHCP settings of network %q: %w", cfg.Network, err)
	}
	if cfg.Interface != old.Interface {
		return fmt.Errorf("changing the interface of a running DHCP server from %q to %q", old.Interface, cfg.Interface)
	}
	if cfg.Server != old.Server {
		return fmt.Errorf("changing the address of a running DHCP server from %v to %v", old.Server, cfg.Server)
	}
	pl := newPool(newPlan(&cfg, s.log))
	left := pl.adopt(s.pool, time.Now())
	s.pool = pl
	if len(left) > 0 {
		var ch change
		for _, a := range left {
			pl.writes++
			ch.writes = append(ch.writes, write{addr: a, number: pl.writes})
		}
		s.enqueue(ch)
	}
	return nil
}

// Leases returns the leases that are on disk, bound and not expired, sorted by
// address.
func (s *Server) Leases() []Lease {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pool.leases(now)
}

// warn logs, but not often for one kind of trouble: guests can cause it.
func (s *Server) warn(kind, msg string, args ...any) {
	if left, ok := s.limit.allow(kind, time.Now()); ok {
		s.log.Warn(msg, append(args, "suppressed", left)...)
	}
}
