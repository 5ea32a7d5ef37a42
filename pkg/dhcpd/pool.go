package dhcpd

import (
	"bytes"
	"container/list"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// OfferHold is how long an offered address is kept for its client. RFC 2131,
// section 3.1: "the server SHOULD NOT reuse the selected network address before
// the client responds". Clients answer within seconds.
const OfferHold = 30 * time.Second

// DeclineHold is how long nobody gets an address that a client declined.
const DeclineHold = 10 * time.Minute

// maxBindings is how many addresses of a link may be in use or have had a client.
// Beyond, only those are given that had one before, and reserved ones. It bounds
// the memory for subnets of IPv6.
const maxBindings = 1 << 17

// Binding is all that is known about one address.
type Binding struct {
	Addr netip.Addr
	// Lease is the record as decided, State is empty when there is none.
	Lease Lease
	// Key identifies the lease's client.
	Key ClientKey
	// group is that of the lease's client, if it is in pool.groups; older and newer are the neighbours in it.
	group        ClientKey
	older, newer *Binding
	// Durable is the record as the store has it, State is empty when it has none.
	Durable Lease
	// latest is the number of the last write of this record; pending counts those
	// that are not settled.
	latest  uint64
	pending int
	// Offer is the client for whom the address is held until offerUntil, or empty.
	Offer      ClientKey
	offerUntil time.Time
	// Probed: nobody answered for the address since it is held for offer.
	Probed bool
	// in is the list that elem belongs to, nil when in none.
	in   *list.List
	elem *list.Element
}

// Pool is the state of all addresses of the link. The Server's lock guards it.
//
// An address without a binding is free. All look-ups are O(1), but for the
// search of a free address, which skips 64 taken ones per step.
type Pool struct {
	scope    *Scope
	bindings map[netip.Addr]*Binding
	byClient map[ClientKey]*Binding // the client's lease, present or former
	away     map[ClientKey]*Binding // the client's running lease on an address that no client could be given now
	byOffer  map[ClientKey]*Binding
	groups   map[ClientKey]*Binding // the newest binding of each group whose client tells more than that, see Recognise
	used     *bitmap                // positions that have a binding or are not dynamic
	offers   *list.List             // of *binding, soonest to expire first
	stale    *list.List             // of *binding: dynamic, lease over, longest ago first
	next     time.Time              // no lease ends before; zero when none ends
	writes   uint64
	states   map[State]uint64 // how many bindings have a lease of that state
}

// newPool returns the pool of sp with nothing leased.
func newPool(sp *Scope) *Pool {
	pl := &Pool{
		scope:    sp,
		bindings: make(map[netip.Addr]*Binding),
		byClient: make(map[ClientKey]*Binding),
		away:     make(map[ClientKey]*Binding),
		byOffer:  make(map[ClientKey]*Binding),
		groups:   make(map[ClientKey]*Binding),
		used:     newBitmap(sp.Size),
		offers:   list.New(),
		stale:    list.New(),
		states:   make(map[State]uint64),
	}
	for a := range sp.Never {
		pl.mark(a)
	}
	for a := range sp.byAddr {
		pl.mark(a)
	}
	return pl
}

// load takes over the records of the store, which are in it already.
func (pl *Pool) load(leases []Lease, now time.Time) {
	slices.SortStableFunc(leases, func(a, b Lease) int { return byAge(&a, &b, now) })
	for _, l := range leases {
		b := pl.Binding(l.Addr)
		b.Durable = l
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
// the new subnet whose leases are over stay behind and are returned.
func (pl *Pool) adopt(old *Pool, now time.Time) []netip.Addr {
	var left []netip.Addr
	pl.writes = old.writes
	for e := old.offers.Front(); e != nil; e = e.Next() {
		o := e.Value.(*Binding)
		if pl.scope.dynamic(o.Addr) || pl.scope.byAddr[o.Addr] != nil {
			pl.Hold(o.Addr, o.Offer, o.offerUntil)
		}
	}
	for _, o := range old.byAge(now) {
		if o.Lease.State == "" && o.Durable.State == "" && o.pending == 0 {
			continue
		}
		if !pl.scope.Usable(o.Addr) && !o.Lease.live(now) {
			left = append(left, o.Addr)
			continue
		}
		b := pl.Binding(o.Addr)
		b.Durable, b.latest, b.pending = o.Durable, o.latest, o.pending
		pl.setLease(b, o.Lease)
	}
	return left
}

// byAge lists the bindings in the order of byAge of their leases.
func (pl *Pool) byAge(now time.Time) []*Binding {
	return slices.SortedFunc(maps.Values(pl.bindings), func(a, b *Binding) int {
		return byAge(&a.Lease, &b.Lease, now)
	})
}

// Binding returns the binding of a and makes it when there is none.
func (pl *Pool) Binding(a netip.Addr) *Binding {
	b := pl.bindings[a]
	if b == nil {
		b = &Binding{Addr: a}
		pl.bindings[a] = b
		pl.mark(a)
	}
	return b
}

// Lookup returns the binding of a, nil when there is none.
func (pl *Pool) Lookup(a netip.Addr) *Binding { return pl.bindings[a] }

// mark updates whether a can be found as a free address.
func (pl *Pool) mark(a netip.Addr) {
	taken := pl.bindings[a] != nil || !pl.scope.dynamic(a)
	pl.scope.positions(a, func(pos uint64) { pl.used.set(pos, taken) })
}

// setLease makes l the record of b as far as decisions go.
func (pl *Pool) setLease(b *Binding, l Lease) {
	for _, index := range []map[ClientKey]*Binding{pl.byClient, pl.away} {
		if index[b.Key] == b {
			delete(index, b.Key)
		}
	}
	pl.states[b.Lease.State]--
	pl.states[l.State]++
	b.Lease, b.Key = l, ""
	var group ClientKey
	if l.State == StateBound || l.State == StateReleased || l.State == stateExpired {
		b.Key, group = pl.scope.keyOf(&l)
		index := pl.byClient
		if !pl.scope.Usable(b.Addr) {
			index = pl.away
		}
		// A client that has two leases, after a failed commit or a new
		// reservation, keeps the one that still runs.
		if have := index[b.Key]; have == nil || have.Lease.State != StateBound {
			index[b.Key] = b
		}
	}
	pl.join(b, group)
	pl.noteExpiry(&l)
	pl.arrange(b)
}

// noteExpiry makes sure that expire looks when l ends.
func (pl *Pool) noteExpiry(l *Lease) {
	if (l.State == StateBound || l.State == StateDeclined) && !l.Expiry.IsZero() &&
		(pl.next.IsZero() || l.Expiry.Before(pl.next)) {
		pl.next = l.Expiry
	}
}

// arrange puts b into the list of its state, and forgets it when nothing is
// known of it any more.
func (pl *Pool) arrange(b *Binding) {
	over := b.Lease.State == StateReleased || b.Lease.State == stateExpired
	switch {
	case b.Offer != "":
		pl.move(b, pl.offers)
	case over && pl.scope.dynamic(b.Addr):
		pl.move(b, pl.stale)
	default:
		pl.move(b, nil)
	}
	if b.Offer == "" && b.Lease.State == "" && b.Durable.State == "" && b.pending == 0 {
		delete(pl.bindings, b.Addr)
		pl.mark(b.Addr)
	}
}

// move puts b at the end of l, nil for no list. It stays where it is when it is
// in l already.
func (pl *Pool) move(b *Binding, l *list.List) {
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

// Hold keeps a for a client until a time, instead of what was held for it.
func (pl *Pool) Hold(a netip.Addr, key ClientKey, until time.Time) {
	before := pl.byOffer[key]
	probed := before != nil && before.Addr == a && before.Probed
	pl.Withdraw(key)
	b := pl.Binding(a)
	if b.Offer != "" {
		delete(pl.byOffer, b.Offer)
	}
	b.Offer, b.offerUntil, b.Probed = key, until, probed
	pl.byOffer[key] = b
	pl.arrange(b)
}

// Withdraw gives up what is held for a client, if anything.
func (pl *Pool) Withdraw(key ClientKey) {
	b := pl.byOffer[key]
	if b == nil {
		return
	}
	delete(pl.byOffer, key)
	b.Offer, b.offerUntil, b.Probed = "", time.Time{}, false
	pl.arrange(b)
}

// expireOffers gives up the offers that nobody accepted.
func (pl *Pool) expireOffers(now time.Time) {
	for e := pl.offers.Front(); e != nil; e = pl.offers.Front() {
		b := e.Value.(*Binding)
		if now.Before(b.offerUntil) {
			return
		}
		pl.Withdraw(b.Offer)
	}
}

// Lease is the running lease of a client on an address that clients are given,
// nil when it has none.
func (pl *Pool) Lease(key ClientKey, now time.Time) *Binding { return running(pl.byClient[key], now) }

// LeaseAway is the running lease that a client has from before the subnet was moved,
// nil when it has none. It keeps the address for the client until it ends, or the
// client takes another one: the subnet may come back.
func (pl *Pool) LeaseAway(key ClientKey, now time.Time) *Binding { return running(pl.away[key], now) }

// running is b, which may be nil, if its lease runs.
func running(b *Binding, now time.Time) *Binding {
	if b == nil || !b.Lease.BoundAt(now) {
		return nil
	}
	return b
}

// free reports whether a is neither leased to nor held for another client, nor
// declined.
func (pl *Pool) free(a netip.Addr, c *Client) bool {
	b := pl.bindings[a]
	switch {
	case b == nil:
		return len(pl.bindings) < maxBindings || pl.scope.byAddr[a] != nil
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
	if len(pl.bindings) < maxBindings {
		pos, ok := pl.used.nextClear(pl.scope.first(seed))
		if !ok {
			pos, ok = pl.used.nextClear(0)
		}
		if ok {
			return pl.scope.at(pos), true
		}
	}
	if e := pl.stale.Front(); e != nil {
		return e.Value.(*Binding).Addr, true
	}
	return netip.Addr{}, false
}

// expire ends what ended by now. It calls ended with each binding whose lease
// or quarantine is over, after the change.
func (pl *Pool) expire(now time.Time, ended func(b *Binding, was State)) {
	pl.expireOffers(now)
	if pl.next.IsZero() || now.Before(pl.next) {
		return
	}
	pl.next = time.Time{}
	for _, b := range pl.bindings {
		was := b.Lease.State
		if (was != StateBound && was != StateDeclined) || b.Lease.live(now) {
			pl.noteExpiry(&b.Lease)
			continue
		}
		l := b.Lease
		l.State = stateExpired
		if was == StateDeclined {
			l = Lease{}
		}
		pl.setLease(b, l)
		ended(b, was)
	}
}

// leases lists what the store has of running leases, sorted by address.
func (pl *Pool) leases(now time.Time) []Lease {
	var all []Lease
	for _, b := range pl.bindings {
		if b.Durable.BoundAt(now) {
			all = append(all, b.Durable.clone())
		}
	}
	slices.SortFunc(all, func(a, b Lease) int { return a.Addr.Compare(b.Addr) })
	return all
}

// remembered returns how many entries the indexes of the pool have.
func (pl *Pool) remembered() int {
	return len(pl.bindings) + len(pl.byClient) + len(pl.byOffer) + len(pl.groups) + len(pl.used.chunks) + pl.offers.Len() + pl.stale.Len()
}
