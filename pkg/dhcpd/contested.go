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

// contested is as Contested.
func (bs *Bindings) contested(now time.Time) []Contested {
	var all []Contested
	add := func(a netip.Addr, r *Reservation) {
		b := bs.Lookup(a)
		if b.None() || !b.BoundAt(now) {
			return
		}
		c := Contested{Lease: b.Lease()}
		if r != nil && r.fits(bs.scope.clientOf(&c.Lease, now), bs.scope.Domain) {
			return
		}
		if r != nil {
			c.For = r.client()
		}
		all = append(all, c)
	}
	for a := range bs.scope.Never {
		add(a, nil)
	}
	for a, r := range bs.scope.byAddr {
		add(a, r)
	}
	slices.SortFunc(all, func(a, b Contested) int { return a.Lease.Addr.Compare(b.Lease.Addr) })
	return all
}

// outside is how many leases run on addresses outside the subnet.
func (bs *Bindings) outside(now time.Time) (n int) {
	for at := range bs.away.All() {
		if b := bs.at(at); b.BoundAt(now) && !bs.scope.Prefix.Contains(b.Addr()) {
			n++
		}
	}
	return n
}
