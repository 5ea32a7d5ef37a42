package dhcpd

import (
	"net/netip"
	"slices"
	"time"
)

// Contested is an address that its client has by a running lease, and that the
// settings have since given to somebody else. The lease stands: its client keeps
// the address until the lease ends, or until it asks, is refused and moves.
type Contested struct {
	// Lease is the running lease.
	Lease Lease
	// For is whom the settings give the address to, by hardware address, DUID or
	// name. Empty: the network itself, as its own, broadcast or network address.
	For string
}

// Contested lists the contested addresses, in order.
func (s Server) Contested() []Contested {
	s.engine.Lock()
	defer s.engine.Unlock()
	return s.engine.Pool.contested(time.Now())
}

// Unused lists the reservations without effect, in the order of the settings.
func (s Server) Unused() []Unused {
	s.engine.Lock()
	defer s.engine.Unlock()
	return s.engine.Pool.scope.unused
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

// outside is how many leases run on addresses outside the subnet.
func (pl *Pool) outside(now time.Time) (n int) {
	for _, b := range pl.away {
		if b.Lease.BoundAt(now) && !pl.scope.Prefix.Contains(b.Addr) {
			n++
		}
	}
	return n
}

// contested is as Contested.
func (pl *Pool) contested(now time.Time) []Contested {
	var all []Contested
	add := func(a netip.Addr, r *Reservation) {
		b := pl.bindings[a]
		if b == nil || !b.Lease.BoundAt(now) || r != nil && r.fits(pl.scope.clientOf(&b.Lease, now), pl.scope.Domain) {
			return
		}
		c := Contested{Lease: b.Lease.clone()}
		if r != nil {
			c.For = r.client()
		}
		all = append(all, c)
	}
	for a := range pl.scope.Never {
		add(a, nil)
	}
	for a, r := range pl.scope.byAddr {
		add(a, r)
	}
	slices.SortFunc(all, func(a, b Contested) int { return a.Lease.Addr.Compare(b.Lease.Addr) })
	return all
}
