package dhcpd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Import gives clients the leases that they had from another server, as far as
// nobody here has the address. Those that have ended are remembered, so that their
// clients get the address again. It returns when all are on disk, and how many that
// are; refused are the others, each with its address and why. With an error none is
// taken. The server must be running, and leases be of its family.
func (s *engine) Import(ctx context.Context, leases []Lease) (taken int, refused []error, err error) {
	s.mu.Lock()
	ch, refused := s.admitAll(leases)
	ch.done = make(chan error, 1)
	taken = len(ch.writes)
	if taken > 0 {
		s.enqueue(ch)
	}
	s.mu.Unlock()
	if taken == 0 {
		return 0, refused, nil
	}
	select {
	case err := <-ch.done:
		if err != nil {
			return 0, nil, fmt.Errorf("importing leases: %w", err)
		}
	case <-ctx.Done():
		return 0, nil, fmt.Errorf("importing leases: %w", ctx.Err())
	}
	return taken, refused, nil
}

// Import is Server.Import into the store of a network that no server serves.
func Import(cfg Config, leases []Lease) (taken int, refused []error, err error) {
	s, err := newServer(&cfg)
	if err != nil {
		return 0, nil, err
	}
	return s.importIdle(leases)
}

// Import6 is Import for DHCPv6.
func Import6(cfg Config6, leases []Lease) (taken int, refused []error, err error) {
	s, err := newServer6(&cfg)
	if err != nil {
		return 0, nil, err
	}
	return s.importIdle(leases)
}

// importIdle is Import of a server that does not run.
func (s *engine) importIdle(leases []Lease) (taken int, refused []error, err error) {
	s.mu.Lock()
	ch, refused := s.admitAll(leases)
	s.mu.Unlock()
	if err := s.store([]change{ch}); err != nil {
		return 0, nil, fmt.Errorf("importing leases: %w", err)
	}
	return len(ch.writes), refused, nil
}

// admitAll makes the leases a change, as far as nothing is in their way. s.mu must
// be locked.
func (s *engine) admitAll(leases []Lease) (ch change, refused []error) {
	now := time.Now()
	for i := range leases {
		if err := s.admit(&ch, &leases[i], now); err != nil {
			refused = append(refused, fmt.Errorf("%v: %w", leases[i].Addr, err))
		}
	}
	return ch, refused
}

// admit makes one lease a part of ch, or says why not. s.mu must be locked.
func (s *engine) admit(ch *change, l *Lease, now time.Time) error {
	pl := s.pool
	c := pl.space.clientOf(l, now)
	if text := pl.refusal(l.Addr, c); text != "" {
		return errors.New(text)
	}
	if b := pl.lease(c.key, now); b != nil && b.addr != l.Addr {
		return fmt.Errorf("its client has %v", b.addr)
	}
	b := pl.binding(l.Addr)
	rec := l.clone()
	rec.Hostname = pl.space.hostname(l.Addr, c.reserved, c.name)
	if !l.live(now) {
		if b.lease.State != "" {
			return errors.New("it has ended, and another client had the address since")
		}
		rec.State = StateReleased
		ch.writes = append(ch.writes, pl.stage(b, rec))
		return nil
	}
	if b.lease.BoundAt(now) && !b.lease.Expiry.IsZero() && (rec.Expiry.IsZero() || b.lease.Expiry.After(rec.Expiry)) {
		return errors.New("its client has renewed it here")
	}
	s.set(ch, Bound, b, rec)
	return nil
}

// clientOf is the client of a record, as it would show itself.
func (p *space) clientOf(l *Lease, now time.Time) *client {
	c := &client{now: now, key: p.keyOf(l), duid: slices.Clone(l.DUID), name: clientName{label: l.Hostname}, named: true}
	if len(l.MAC) == hwAddrLen {
		c.mac = hwAddr(l.MAC)
	}
	c.reserved = p.reservation(c)
	return c
}
