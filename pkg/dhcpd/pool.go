package dhcpd

import (
	"bytes"
	"container/list"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// offerHold is how long an offered address is kept for its client. RFC 2131,
// section 3.1: "the server SHOULD NOT reuse the selected network address before
// the client responds". Clients answer within seconds.
const offerHold = 30 * time.Second

// declineHold is how long nobody gets an address that a client declined.
const declineHold = 10 * time.Minute

// maxBindings is how many addresses of a link may be in use or have had a client.
// Beyond, only those are given that had one before, and reserved ones. It bounds
// the memory for subnets of IPv6.
const maxBindings = 1 << 17

// binding is all that is known about one address.
type binding struct {
	addr netip.Addr
	// lease is the record as decided, State is empty when there is none.
	lease Lease
	// key identifies the lease's client.
	key clientKey
	// durable is the record as the store has it, State is empty when it has none.
	durable Lease
	// latest is the number of the last write of this record; pending counts those
	// that are not settled.
	latest  uint64
	pending int
	// offer is the client for whom the address is held until offerUntil, or empty.
	offer      clientKey
	offerUntil time.Time
	// probed: nobody answered for the address since it is held for offer.
	probed bool
	// in is the list that elem belongs to, nil when in none.
	in   *list.List
	elem *list.Element
}

// pool is the state of all addresses of the link. The Server's lock guards it.
//
// An address without a binding is free. All look-ups are O(1), but for the
// search of a free address, which skips 64 taken ones per step.
type pool struct {
	space    *space
	bindings map[netip.Addr]*binding
	byClient map[clientKey]*binding // the client's lease, present or former
	byOffer  map[clientKey]*binding
	used     *bitmap    // positions that have a binding or are not dynamic
	offers   *list.List // of *binding, soonest to lapse first
	stale    *list.List // of *binding: dynamic, lease over, longest ago first
	next     time.Time  // no lease ends before; zero when none ends
	writes   uint64
	states   map[State]uint64 // how many bindings have a lease of that state
}

// newPool is the pool of p with nothing leased.
func newPool(sp *space) *pool {
	pl := &pool{
		space:    sp,
		bindings: make(map[netip.Addr]*binding),
		byClient: make(map[clientKey]*binding),
		byOffer:  make(map[clientKey]*binding),
		used:     newBitmap(sp.size),
		offers:   list.New(),
		stale:    list.New(),
		states:   make(map[State]uint64),
	}
	for a := range sp.never {
		pl.mark(a)
	}
	for a := range sp.byAddr {
		pl.mark(a)
	}
	return pl
}

// load takes over the records of the store, which are in it already.
func (pl *pool) load(leases []Lease, now time.Time) {
	slices.SortStableFunc(leases, func(a, b Lease) int { return byAge(&a, &b, now) })
	for _, l := range leases {
		b := pl.binding(l.Addr)
		b.durable = l
		pl.setLease(b, l)
	}
}

// byAge orders records: running leases first, then those that ended, longest
// ago first.
func byAge(a, b *Lease, now time.Time) int {
	switch {
	case a.BoundAt(now) && !b.BoundAt(now):
		return -1
	case !a.BoundAt(now) && b.BoundAt(now):
		return 1
	default:
		return a.Expiry.Compare(b.Expiry)
	}
}

// adopt takes over the bindings of old, the pool of a former plan. Those outside
// the new subnet stay behind and are returned.
func (pl *pool) adopt(old *pool, now time.Time) []netip.Addr {
	var left []netip.Addr
	pl.writes = old.writes
	for e := old.offers.Front(); e != nil; e = e.Next() {
		o := e.Value.(*binding)
		if pl.space.dynamic(o.addr) || pl.space.byAddr[o.addr] != nil {
			pl.hold(o.addr, o.offer, o.offerUntil)
		}
	}
	for _, o := range old.byAge(now) {
		if o.lease.State == "" && o.durable.State == "" && o.pending == 0 {
			continue
		}
		if !pl.space.usable(o.addr) {
			left = append(left, o.addr)
			continue
		}
		b := pl.binding(o.addr)
		b.durable, b.latest, b.pending = o.durable, o.latest, o.pending
		pl.setLease(b, o.lease)
	}
	return left
}

// byAge lists the bindings in the order of byAge of their leases.
func (pl *pool) byAge(now time.Time) []*binding {
	return slices.SortedFunc(maps.Values(pl.bindings), func(a, b *binding) int {
		return byAge(&a.lease, &b.lease, now)
	})
}

// binding is that of a, made when there is none.
func (pl *pool) binding(a netip.Addr) *binding {
	b := pl.bindings[a]
	if b == nil {
		b = &binding{addr: a}
		pl.bindings[a] = b
		pl.mark(a)
	}
	return b
}

// mark updates whether a can be found as a free address.
func (pl *pool) mark(a netip.Addr) {
	taken := pl.bindings[a] != nil || !pl.space.dynamic(a)
	pl.space.positions(a, func(pos uint64) { pl.used.set(pos, taken) })
}

// setLease makes l the record of b as far as decisions go.
func (pl *pool) setLease(b *binding, l Lease) {
	if b.key != "" && pl.byClient[b.key] == b {
		delete(pl.byClient, b.key)
	}
	pl.states[b.lease.State]--
	pl.states[l.State]++
	b.lease, b.key = l, ""
	if l.State == StateBound || l.State == StateReleased || l.State == stateExpired {
		b.key = pl.space.keyOf(&l)
		// A client that has two leases, after a failed commit or a new
		// reservation, keeps the one that still runs.
		if have := pl.byClient[b.key]; have == nil || have.lease.State != StateBound {
			pl.byClient[b.key] = b
		}
	}
	pl.noteExpiry(&l)
	pl.arrange(b)
}

// noteExpiry makes sure that expire looks when l ends.
func (pl *pool) noteExpiry(l *Lease) {
	if (l.State == StateBound || l.State == StateDeclined) && !l.Expiry.IsZero() &&
		(pl.next.IsZero() || l.Expiry.Before(pl.next)) {
		pl.next = l.Expiry
	}
}

// arrange puts b into the list of its state, and forgets it when nothing is
// known of it any more.
func (pl *pool) arrange(b *binding) {
	over := b.lease.State == StateReleased || b.lease.State == stateExpired
	switch {
	case b.offer != "":
		pl.move(b, pl.offers)
	case over && pl.space.dynamic(b.addr):
		pl.move(b, pl.stale)
	default:
		pl.move(b, nil)
	}
	if b.offer == "" && b.lease.State == "" && b.durable.State == "" && b.pending == 0 {
		delete(pl.bindings, b.addr)
		pl.mark(b.addr)
	}
}

// move puts b at the end of l, nil for no list. It stays where it is when it is
// in l already.
func (pl *pool) move(b *binding, l *list.List) {
	if b.in == l {
		return
	}
	if b.in != nil {
		b.in.Remove(b.elem)
	}
	b.in, b.elem = l, nil
	if l != nil {
		b.elem = l.PushBack(b)
	}
}

// hold keeps a for a client until a time, instead of what was held for it.
func (pl *pool) hold(a netip.Addr, key clientKey, until time.Time) {
	before := pl.byOffer[key]
	probed := before != nil && before.addr == a && before.probed
	pl.unhold(key)
	b := pl.binding(a)
	if b.offer != "" {
		delete(pl.byOffer, b.offer)
	}
	b.offer, b.offerUntil, b.probed = key, until, probed
	pl.byOffer[key] = b
	pl.arrange(b)
}

// unhold gives up what is held for a client, if anything.
func (pl *pool) unhold(key clientKey) {
	b := pl.byOffer[key]
	if b == nil {
		return
	}
	delete(pl.byOffer, key)
	b.offer, b.offerUntil, b.probed = "", time.Time{}, false
	pl.arrange(b)
}

// lapse gives up the offers that nobody accepted.
func (pl *pool) lapse(now time.Time) {
	for e := pl.offers.Front(); e != nil; e = pl.offers.Front() {
		b := e.Value.(*binding)
		if now.Before(b.offerUntil) {
			return
		}
		pl.unhold(b.offer)
	}
}

// lease is the running lease of a client, nil when it has none.
func (pl *pool) lease(key clientKey, now time.Time) *binding {
	b := pl.byClient[key]
	if b == nil || !b.lease.BoundAt(now) {
		return nil
	}
	return b
}

// free reports whether a is neither leased to nor held for another client, nor
// declined.
func (pl *pool) free(a netip.Addr, c *client) bool {
	b := pl.bindings[a]
	switch {
	case b == nil:
		return len(pl.bindings) < maxBindings || pl.space.byAddr[a] != nil
	case b.lease.live(c.now) && b.key != c.key && !pl.succeeds(c, b):
		return false
	default:
		return b.offer == "" || b.offer == c.key || !c.now.Before(b.offerUntil)
	}
}

// succeeds reports whether c is the machine that has the lease of b, which is
// reserved for its hardware address, under another DUID: another system booted
// there. In DHCPv4 the key is the same then.
func (pl *pool) succeeds(c *client, b *binding) bool {
	return c.reserved != nil && c.reserved.MAC != nil && pl.space.byAddr[b.addr] == c.reserved &&
		b.lease.State == StateBound && !bytes.Equal(b.lease.DUID, c.duid)
}

// refusal is why a client may not have a now. Empty when it may.
func (pl *pool) refusal(a netip.Addr, c *client) string {
	if text := pl.space.refusal(a, c.reserved); text != "" {
		return text
	}
	if !pl.free(a, c) {
		return nakInUse
	}
	if r := c.reserved; r != nil && r.Addr.IsValid() && r.Addr != a && pl.free(r.Addr, c) {
		return nakAddress
	}
	return ""
}

// choose finds an address for a client that has none. It returns false when all
// are taken.
//
// RFC 2131, section 4.3.1: "If an address is available, the new address SHOULD
// be chosen as follows": the client's current address, its previous one, the
// one that it requests, one from the pool. What is reserved for it comes before.
func (pl *pool) choose(c *client) (netip.Addr, bool) {
	var candidates []netip.Addr
	if c.reserved != nil && c.reserved.Addr.IsValid() {
		candidates = append(candidates, c.reserved.Addr)
	}
	if b := pl.byClient[c.key]; b != nil {
		candidates = append(candidates, b.addr)
	}
	if b := pl.byOffer[c.key]; b != nil {
		candidates = append(candidates, b.addr)
	}
	if c.requested.IsValid() {
		candidates = append(candidates, c.requested)
	}
	for _, a := range candidates {
		if pl.refusal(a, c) == "" {
			return a, true
		}
	}
	return pl.newAddress(c.seed)
}

// newAddress is one from the pool that nobody had yet, or else the one that was
// given up longest ago.
func (pl *pool) newAddress(seed []byte) (netip.Addr, bool) {
	if pl.space.size == 0 {
		return netip.Addr{}, false
	}
	if len(pl.bindings) < maxBindings {
		pos, ok := pl.used.nextClear(pl.space.first(seed))
		if !ok {
			pos, ok = pl.used.nextClear(0)
		}
		if ok {
			return pl.space.at(pos), true
		}
	}
	if e := pl.stale.Front(); e != nil {
		return e.Value.(*binding).addr, true
	}
	return netip.Addr{}, false
}

// expire ends what ended by now. It calls ended with each binding whose lease
// or quarantine is over, after the change.
func (pl *pool) expire(now time.Time, ended func(b *binding, was State)) {
	pl.lapse(now)
	if pl.next.IsZero() || now.Before(pl.next) {
		return
	}
	pl.next = time.Time{}
	for _, b := range pl.bindings {
		was := b.lease.State
		if (was != StateBound && was != StateDeclined) || b.lease.live(now) {
			pl.noteExpiry(&b.lease)
			continue
		}
		l := b.lease
		l.State = stateExpired
		if was == StateDeclined {
			l = Lease{}
		}
		pl.setLease(b, l)
		ended(b, was)
	}
}

// leases lists what the store has of running leases, sorted by address.
func (pl *pool) leases(now time.Time) []Lease {
	var all []Lease
	for _, b := range pl.bindings {
		if b.durable.BoundAt(now) {
			all = append(all, b.durable.clone())
		}
	}
	slices.SortFunc(all, func(a, b Lease) int { return a.Addr.Compare(b.Addr) })
	return all
}
