package dhcpd

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// DeclineHold is how long nobody gets an address that a client declined.
const DeclineHold = 10 * time.Minute

// maxBindings is how many addresses of a link may be in use or have had a client.
// Beyond, only those are given that had one before, and reserved ones. It bounds
// the memory for subnets of IPv6.
const maxBindings = 1 << 17

// maxGroup is how many leases of one group are looked at to recognise a client.
const maxGroup = 64

// Pool chooses addresses: who may have which, and which is best. The Server's lock guards
// it.
type Pool struct{ *Bindings }

// newPool returns the pool of sp with nothing leased.
func newPool(sp *Scope) *Pool { return &Pool{newBindings(sp)} }

// Recognise makes c who it was before, if it tells more or less of itself now: it
// has no lease under its key, and somebody of its group has one who said nothing but
// what they have in common, or c does. So does one machine whose firmware sends no
// identifier and whose system does, or whose system leaves it out when it renews. Of
// several the one is meant that has an address that c names, which may be zero, else
// the newest.
//
// Two of a group that both say more are two, even if what they have in common is one
// card. The engine of pl must be locked.
func (pl *Pool) Recognise(c *Client, named netip.Addr) {
	if pl.runs(c.Key, c.Now) {
		return
	}
	if c.Key != c.Group {
		if pl.runs(c.Group, c.Now) {
			c.Key = c.Group
		}
		return
	}
	var known Binding
	for n, b := 0, pl.at(pl.groups.Get(c.Group)); !b.None() && n < maxGroup; n, b = n+1, pl.at(b.older) {
		if b.BoundAt(c.Now) && (known.None() || b.Addr() == named) {
			known = b
		}
	}
	if !known.None() {
		c.Key = known.Key()
	}
}

// Holds reports whether what c says of the lease of b, or of what is held for it there, may be
// its client's word: it comes from its card, and from the port at which that was seen, where
// that is known. What ends a lease must.
func (pl *Pool) Holds(c *Client, b Binding) bool {
	switch v := c.Via; {
	case v.Hidden:
		return false
	case v.HW == (HWAddr{}):
		return true // nobody sees frames here
	default:
		return v.HW == b.sender() && (int32(v.Port) == b.via.port || v.Port == 0 || b.via.port == 0)
	}
}

// sender is the card whose frames bring the messages of the client of b.
func (b Binding) sender() (hw HWAddr) {
	if b.via.hw != hw {
		return b.via.hw
	}
	copy(hw[:], cmp.Or(b.part(partFrom), b.part(partMAC)))
	return hw
}

// Forged reports whether c speaks for a card that is not its own and somebody else's: one
// with a lease, unless c is who got that, or one with a reservation. Nothing that is hidden
// is anybody's word. The engine of pl must be locked.
func (pl *Pool) Forged(c *Client) bool {
	v := c.Via
	if !v.Hidden && (v.HW == (HWAddr{}) || v.HW == c.MAC) {
		return false
	}
	b := pl.Lease(c.Key, c.Now)
	if b.None() {
		b = pl.LeaseAway(c.Key, c.Now)
	}
	if !b.None() {
		return v.Hidden || v.HW != b.sender()
	}
	return pl.scope.byMAC[c.MAC] != nil || pl.scope.dynamics[c.MAC] != nil
}

// Again returns the lease of a that c may be told of once more, though nobody saw whose card c
// has: its message waited while nobody served, and the acknowledgement may have gone with
// the process that made the lease. The lease is on disk, the settings let the client have it, and
// the card that got it is that of c, as far as c names one. Whoever tells of it believes nothing
// else of what c says, and changes nothing. The engine of pl must be locked.
func (pl *Pool) Again(c *Client, a netip.Addr) (Lease, bool) {
	b := pl.Lease(c.Key, c.Now)
	if !c.Via.Waited || b.None() || b.Addr() != a || b.unsettled != 0 || pl.Refusal(a, c) != "" ||
		c.MAC != (HWAddr{}) && c.MAC != b.sender() {
		return Lease{}, false
	}
	l := b.Lease()
	return l, l.Left(c.Now) >= time.Second
}

// known reports whether c has an address, or is offered one, or has one set aside.
func (pl *Pool) known(c *Client) bool {
	return pl.runs(c.Key, c.Now) || pl.byOffer[c.Key] != 0 || c.Reserved != nil && c.Reserved.Addr.IsValid()
}

// former returns the address that somebody of the group of c had last and has no more,
// if there is one.
func (pl *Pool) former(c *Client) Binding {
	if b := pl.at(pl.byClient.Get(c.Group)); !b.None() && !b.live(c.Now) {
		return b
	}
	for n, b := 0, pl.at(pl.groups.Get(c.Group)); !b.None() && n < maxGroup; n, b = n+1, pl.at(b.older) {
		if !b.live(c.Now) {
			return b
		}
	}
	return Binding{}
}

// free reports whether a is neither leased to nor held for another client, nor
// declined.
func (pl *Pool) free(a netip.Addr, c *Client) bool {
	b := pl.Lookup(a)
	switch {
	case b.None():
		return pl.byAddr.Len() < maxBindings || pl.scope.byAddr[a] != nil
	case b.live(c.Now) && b.Key() != c.Key && !pl.succeeds(c, b):
		return false
	default:
		return b.offer == 0 || b.held().key == c.Key || !c.Now.Before(b.held().until)
	}
}

// succeeds reports whether c is the machine that has the lease of b, which is reserved for
// its hardware addresses, under another one of them or another DUID: it uses another card,
// or another system booted there. With one card the key is the same in DHCPv4.
func (pl *Pool) succeeds(c *Client, b Binding) bool {
	r, mac := c.Reserved, []byte(b.part(partMAC))
	return r != nil && pl.scope.byAddr[b.Addr()] == r && b.state == bound && r.has(mac) && r.has(c.MAC[:]) &&
		(!bytes.Equal(mac, c.MAC[:]) || b.part(partDUID) != string(c.DUID))
}

// Refusal returns why a client may not have a now. Empty when it may.
func (pl *Pool) Refusal(a netip.Addr, c *Client) string {
	if text := pl.scope.refusal(a, c.Reserved); text != "" {
		return text
	}
	if !pl.free(a, c) || !pl.scope.lent(a, c.MAC) {
		return nakInUse
	}
	if r := c.Reserved; r != nil && r.Addr.IsValid() && r.Addr != a && pl.free(r.Addr, c) && pl.scope.lent(r.Addr, c.MAC) {
		return NakAddress
	}
	return ""
}

// Choose finds an address for a client that has none. It returns false when all
// are taken.
//
// RFC 2131, section 4.3.1: "If an address is available, the new address SHOULD
// be chosen as follows": the client's current address, its previous one, the
// one that it requests, one from the pool. What is reserved for it comes before.
func (pl *Pool) Choose(c *Client) (netip.Addr, bool) {
	candidates := make([]netip.Addr, 0, 4)
	if c.Reserved != nil && c.Reserved.Addr.IsValid() {
		candidates = append(candidates, c.Reserved.Addr)
	}
	had := pl.at(pl.byClient.Get(c.Key))
	if had.None() {
		had = pl.former(c)
	}
	for _, b := range []Binding{had, pl.at(pl.byOffer[c.Key])} {
		if !b.None() {
			candidates = append(candidates, b.Addr())
		}
	}
	if c.Requested.IsValid() {
		candidates = append(candidates, c.Requested)
	}
	for _, a := range candidates {
		if pl.Refusal(a, c) == "" {
			return a, true
		}
	}
	a, ok := pl.newAddress(c)
	if !ok {
		pl.scope.Want(c.MAC)
	}
	return a, ok
}

// newAddress returns an address from the pool that nobody had yet, or else the one that was
// given up longest ago.
func (pl *Pool) newAddress(c *Client) (netip.Addr, bool) {
	if pl.scope.Size == 0 {
		return netip.Addr{}, false
	}
	if pl.byAddr.Len() < maxBindings {
		first := pl.scope.first(c.Group)
		if a, ok := pl.unused(first, c); ok {
			return a, true
		}
		if a, ok := pl.unused(0, c); ok {
			return a, true
		}
	}
	for b := pl.at(pl.chains[stale].first); !b.None(); b = pl.at(b.next) {
		if a := b.Addr(); pl.scope.lent(a, c.MAC) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// unused returns the first address from a position on that nobody had yet and c may have.
func (pl *Pool) unused(pos uint64, c *Client) (netip.Addr, bool) {
	for pos, ok := pl.used.nextClear(pos); ok; pos, ok = pl.used.nextClear(pos + 1) {
		if a := pl.scope.chosen.at(pos); pl.scope.lent(a, c.MAC) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// stats returns how the addresses are used now.
func (pl *Pool) stats() PoolStats {
	return PoolStats{
		Dynamic: pl.scope.shared(), Reserved: uint64(len(pl.scope.byAddr)),
		Bound: pl.states[bound], Offered: uint64(pl.chains[offers].n), Declined: pl.states[declined],
		Former: pl.states[released] + pl.states[expired],
	}
}

// ErrTaken says that an address is somebody else's.
var ErrTaken = errors.New("address is taken")

// admits returns why r can't be given to its client now.
func (pl *Pool) admits(r *Reservation, now time.Time) error {
	a := r.Addr
	if !a.IsValid() {
		return nil
	}
	sp := pl.scope
	if !sp.Usable(a) {
		return fmt.Errorf("%v is no address for a guest of %v", a, sp.Prefix)
	}
	if owner := sp.byAddr[a]; owner != nil && !owner.has(r.MAC) {
		return fmt.Errorf("%w: %v is reserved for %s", ErrTaken, a, owner.client())
	}
	if own := sp.byMAC[HWAddr(r.MAC)]; own != nil && own.Addr.IsValid() && own.Addr != a {
		return fmt.Errorf("%w: the network reserves %v for %v", ErrTaken, own.Addr, r.MAC)
	}
	b := pl.Lookup(a)
	if b.None() || !b.live(now) || b.part(partMAC) == string(r.MAC) {
		if sp.taken(a, hwOf(r)) {
			return fmt.Errorf("%w: %v is for another host to give, or a guest there has it", ErrTaken, a)
		}
		return nil
	}
	if b.state == declined {
		return fmt.Errorf("%w: %v was found in use on the link", ErrTaken, a)
	}
	return fmt.Errorf("%w: %v is leased to %v", ErrTaken, a, b.Lease().MAC)
}
