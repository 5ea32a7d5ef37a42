package dhcpd

import (
	"bytes"
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
type Pool struct{ Bindings }

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
	var known *Binding
	for n, b := 0, pl.groups[c.Group]; b != nil && n < maxGroup; n, b = n+1, b.older {
		if b.Lease.BoundAt(c.Now) && (known == nil || b.Addr == named) {
			known = b
		}
	}
	if known != nil {
		c.Key = known.Key
	}
}

// Holds reports whether what c says of the lease of b, or of what is held for it there, may be
// its client's word: it comes from its card, and from the port at which that was seen, where
// that is known. What ends a lease must.
func (pl *Pool) Holds(c *Client, b *Binding) bool {
	switch v := c.Via; {
	case v.Hidden:
		return false
	case v.HW == (HWAddr{}):
		return true // nobody sees frames here
	default:
		return v.HW == b.sender() && (v.Port == b.via.Port || v.Port == 0 || b.via.Port == 0)
	}
}

// sender is the card whose frames bring the messages of the client of b.
func (b *Binding) sender() (hw HWAddr) {
	if b.via.HW != hw {
		return b.via.HW
	}
	copy(hw[:], b.Lease.MAC)
	if len(b.Lease.From) > 0 {
		copy(hw[:], b.Lease.From)
	}
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
	if b == nil {
		b = pl.LeaseAway(c.Key, c.Now)
	}
	if b != nil {
		return v.Hidden || v.HW != b.sender()
	}
	return pl.scope.byMAC[c.MAC] != nil || pl.scope.dynamics[c.MAC] != nil
}

// known reports whether c has an address, or is offered one, or has one set aside.
func (pl *Pool) known(c *Client) bool {
	return pl.runs(c.Key, c.Now) || pl.byOffer[c.Key] != nil || c.Reserved != nil && c.Reserved.Addr.IsValid()
}

// former returns the address that somebody of the group of c had last and has no more,
// nil when there is none.
func (pl *Pool) former(c *Client) *Binding {
	if b := pl.byClient[c.Group]; b != nil && !b.Lease.live(c.Now) {
		return b
	}
	for n, b := 0, pl.groups[c.Group]; b != nil && n < maxGroup; n, b = n+1, b.older {
		if !b.Lease.live(c.Now) {
			return b
		}
	}
	return nil
}

// free reports whether a is neither leased to nor held for another client, nor
// declined.
func (pl *Pool) free(a netip.Addr, c *Client) bool {
	b := pl.byAddr[a]
	switch {
	case b == nil:
		return len(pl.byAddr) < maxBindings || pl.scope.byAddr[a] != nil
	case b.Lease.live(c.Now) && b.Key != c.Key && !pl.succeeds(c, b):
		return false
	default:
		return b.Offer == "" || b.Offer == c.Key || !c.Now.Before(b.offerUntil)
	}
}

// succeeds reports whether c is the machine that has the lease of b, which is reserved for
// its hardware addresses, under another one of them or another DUID: it uses another card,
// or another system booted there. With one card the key is the same in DHCPv4.
func (pl *Pool) succeeds(c *Client, b *Binding) bool {
	r := c.Reserved
	return r != nil && pl.scope.byAddr[b.Addr] == r && b.Lease.State == StateBound && r.has(b.Lease.MAC) && r.has(c.MAC[:]) &&
		(!bytes.Equal(b.Lease.MAC, c.MAC[:]) || !bytes.Equal(b.Lease.DUID, c.DUID))
}

// Refusal returns why a client may not have a now. Empty when it may.
func (pl *Pool) Refusal(a netip.Addr, c *Client) string {
	if text := pl.scope.refusal(a, c.Reserved); text != "" {
		return text
	}
	if !pl.free(a, c) {
		return nakInUse
	}
	if r := c.Reserved; r != nil && r.Addr.IsValid() && r.Addr != a && pl.free(r.Addr, c) {
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
	var candidates []netip.Addr
	if c.Reserved != nil && c.Reserved.Addr.IsValid() {
		candidates = append(candidates, c.Reserved.Addr)
	}
	if b := pl.byClient[c.Key]; b != nil {
		candidates = append(candidates, b.Addr)
	} else if b := pl.former(c); b != nil {
		candidates = append(candidates, b.Addr)
	}
	if b := pl.byOffer[c.Key]; b != nil {
		candidates = append(candidates, b.Addr)
	}
	if c.Requested.IsValid() {
		candidates = append(candidates, c.Requested)
	}
	for _, a := range candidates {
		if pl.Refusal(a, c) == "" {
			return a, true
		}
	}
	return pl.newAddress(c.Seed)
}

// newAddress returns an address from the pool that nobody had yet, or else the one that was
// given up longest ago.
func (pl *Pool) newAddress(seed []byte) (netip.Addr, bool) {
	if pl.scope.Size == 0 {
		return netip.Addr{}, false
	}
	if len(pl.byAddr) < maxBindings {
		pos, ok := pl.used.nextClear(pl.scope.first(seed))
		if !ok {
			pos, ok = pl.used.nextClear(0)
		}
		if ok {
			return pl.scope.Ranges.at(pos), true
		}
	}
	if e := pl.stale.Front(); e != nil {
		return e.Value.(*Binding).Addr, true
	}
	return netip.Addr{}, false
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
	b := pl.byAddr[a]
	if b == nil || !b.Lease.live(now) || string(b.Lease.MAC) == string(r.MAC) {
		return nil
	}
	if b.Lease.State == StateDeclined {
		return fmt.Errorf("%w: %v was found in use on the link", ErrTaken, a)
	}
	return fmt.Errorf("%w: %v is leased to %v", ErrTaken, a, b.Lease.MAC)
}
