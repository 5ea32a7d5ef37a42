package dhcpd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Import gives clients the leases that they had from another server, as far as
// nobody here has the address. Those that have ended are remembered, so that their
// clients get the address again. It returns when all are on disk, and how many that
// are; refused are the others, each with its address and why. With an error none is
// taken. The server must be running, and leases be of its family.
func (s Server) Import(ctx context.Context, leases []Lease) (taken int, refused []error, err error) {
	taken, refused, done := s.engine.startImport(leases)
	if taken == 0 {
		return 0, refused, nil
	}
	select {
	case err := <-done:
		return imported(taken, refused, err)
	case <-ctx.Done():
		return imported(0, nil, ctx.Err())
	}
}

// ErrNoneFree says that there is no address to give now.
var ErrNoneFree = errors.New("no address is free")

// Lend gives a card an address for ever without its asking: the one that it has, if any, or had, or another of
// those that clients are given. It returns when that is on disk. The error is ErrNoneFree where there is none now.
// The server must be running, and be one of DHCPv4.
func (s Server) Lend(ctx context.Context, mac HWAddr) (netip.Addr, error) {
	a, done, err := lend(s.engine, mac)
	if err != nil || done == nil {
		return a, err
	}
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return netip.Addr{}, fmt.Errorf("lending an address: %w", err)
	}
	return a, nil
}

// lend is Lend until the address is queued; done is nil where it is the card's already.
func lend(s *Engine, mac HWAddr) (a netip.Addr, done <-chan error, err error) {
	s.Lock()
	defer s.Unlock()
	now, l := time.Now(), Lease{Addr: s.Pool.scope.Prefix.Addr(), MAC: mac[:], State: StateBound} // the address says of which family the client is
	c := s.Pool.scope.clientOf(&l, now)
	if b := s.Pool.Lease(c.Key, now); !b.None() && b.expiry.IsZero() && s.Pool.Refusal(b.Addr(), c) == "" {
		return b.Addr(), nil, nil
	}
	a, free := s.Pool.Choose(c)
	if !free {
		return netip.Addr{}, nil, ErrNoneFree
	}
	l.Addr = a
	if !s.Pool.scope.Promise(&l) {
		return netip.Addr{}, nil, fmt.Errorf("%w: %v is not this host's to give", ErrNoneFree, a)
	}
	ch := Change{done: make(chan error, 1)}
	ch.Bind(s.Pool.Bindings, c, l)
	s.Enqueue(ch)
	return a, ch.done, nil
}

// Import does what Server.Import does, on an engine that does not run and has no
// transport.
func (s *Engine) Import(leases []Lease) (taken int, refused []error, err error) {
	taken, refused, done := s.startImport(leases)
	s.Commit()
	return imported(taken, refused, <-done)
}

// imported returns what Import returns once it knows whether the leases are stored.
func imported(taken int, refused []error, err error) (int, []error, error) {
	if err != nil {
		return 0, nil, fmt.Errorf("importing leases: %w", err)
	}
	return taken, refused, nil
}

// startImport queues what can be taken of leases. done is told of their commit.
func (s *Engine) startImport(leases []Lease) (taken int, refused []error, done <-chan error) {
	s.Lock()
	defer s.Unlock()
	ch, refused := s.admitAll(leases)
	ch.done = make(chan error, 1)
	s.Enqueue(ch)
	return len(ch.writes), refused, ch.done
}

// admitAll makes the leases a change, as far as nothing is in their way. s.mu must
// be locked.
func (s *Engine) admitAll(leases []Lease) (ch Change, refused []error) {
	now := time.Now()
	for i := range leases {
		if err := s.admit(&ch, &leases[i], now); err != nil {
			refused = append(refused, fmt.Errorf("%v: %w", leases[i].Addr, err))
		}
	}
	return ch, refused
}

// admit makes one lease a part of ch, or says why not. the engine must be locked.
func (s *Engine) admit(ch *Change, l *Lease, now time.Time) error {
	pl := s.Pool
	c := pl.scope.clientOf(l, now)
	pl.Recognise(c, l.Addr)
	if text := pl.Refusal(l.Addr, c); text != "" {
		return errors.New(text)
	}
	if b := pl.Lease(c.Key, now); !b.None() && b.Addr() != l.Addr {
		return fmt.Errorf("its client has %v", b.Addr())
	}
	b := pl.Binding(l.Addr)
	rec := l.clone()
	rec.Hostname = pl.scope.Hostname(l.Addr, c.Reserved, c.Name)
	if !l.live(now) {
		if !b.blank() {
			return errors.New("it has ended, and another client had the address since")
		}
		rec.State = StateReleased
		ch.writes = append(ch.writes, pl.stage(b, rec))
		return nil
	}
	if b.BoundAt(now) && !b.expiry.IsZero() && (rec.Expiry.IsZero() || b.expiry.due().After(rec.Expiry)) {
		return errors.New("its client has renewed it here")
	}
	if !pl.scope.Promise(&rec) {
		return errors.New(nakInUse)
	}
	ch.Set(pl.Bindings, Bound, b, rec)
	return nil
}
