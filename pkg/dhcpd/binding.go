package dhcpd

import (
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
	// via is where the client is to which the address is leased or held, as far as this
	// process has seen it.
	via Sender
	// counted is where the binding is counted, see Bindings.held.
	counted station
	// Probed: nobody answered for the address since it is held for offer.
	Probed bool
	// in is the list that elem belongs to, nil when in none.
	in   *list.List
	elem *list.Element
}

// Bindings are what is known of all addresses of the link. The Server's lock guards
// them.
//
// An address without a binding is free. All look-ups are O(1), but for the
// search of a free address, which skips 64 taken ones per step.
type Bindings struct {
	scope    *Scope
	byAddr   map[netip.Addr]*Binding
	byClient map[ClientKey]*Binding // the client's lease, present or former
	away     map[ClientKey]*Binding // the client's running lease on an address that no client could be given now
	byOffer  map[ClientKey]*Binding
	groups   map[ClientKey]*Binding // the newest binding of each group whose client tells more than that, see Recognise
	used     *bitmap                // positions that have a binding or are not dynamic
	offers   *list.List             // of *binding, soonest to expire first
	stale    *list.List             // of *binding: dynamic, lease over, longest ago first
	next     time.Time              // no lease ends before; zero when none ends
	writes   uint64
	states   map[State]uint64   // how many bindings have a lease of that state
	held     map[station]uint64 // how many addresses are taken or held by those of a station
}

// newBindings returns those of sp with nothing leased.
func newBindings(sp *Scope) Bindings {
	bs := Bindings{
		scope:    sp,
		byAddr:   make(map[netip.Addr]*Binding),
		byClient: make(map[ClientKey]*Binding),
		away:     make(map[ClientKey]*Binding),
		byOffer:  make(map[ClientKey]*Binding),
		groups:   make(map[ClientKey]*Binding),
		used:     newBitmap(sp.Size),
		offers:   list.New(),
		stale:    list.New(),
		states:   make(map[State]uint64),
		held:     make(map[station]uint64),
	}
	for a := range sp.Never {
		bs.mark(a)
	}
	for a := range sp.byAddr {
		bs.mark(a)
	}
	return bs
}

// write is one record on its way to the store: a put, or a delete when the
// lease's State is empty.
type write struct {
	addr   netip.Addr
	lease  Lease
	number uint64
}

// load takes over the records of the store, which are in it already.
func (bs *Bindings) load(leases []Lease, now time.Time) {
	slices.SortStableFunc(leases, func(a, b Lease) int { return byAge(&a, &b, now) })
	for _, l := range leases {
		b := bs.Binding(l.Addr)
		b.Durable = l
		bs.setLease(b, l)
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
func (bs *Bindings) adopt(old *Bindings, now time.Time) []netip.Addr {
	var left []netip.Addr
	bs.writes = old.writes
	for e := old.offers.Front(); e != nil; e = e.Next() {
		o := e.Value.(*Binding)
		if bs.scope.dynamic(o.Addr) || bs.scope.byAddr[o.Addr] != nil {
			bs.Hold(o.Addr, o.Offer, o.offerUntil, o.via)
		}
	}
	for _, o := range old.byAge(now) {
		if o.Lease.State == "" && o.Durable.State == "" && o.pending == 0 {
			continue
		}
		if !bs.scope.Usable(o.Addr) && !o.Lease.live(now) {
			left = append(left, o.Addr)
			continue
		}
		b := bs.Binding(o.Addr)
		b.Durable, b.latest, b.pending, b.via = o.Durable, o.latest, o.pending, o.via
		bs.setLease(b, o.Lease)
	}
	return left
}

// byAge lists the bindings in the order of byAge of their leases.
func (bs *Bindings) byAge(now time.Time) []*Binding {
	return slices.SortedFunc(maps.Values(bs.byAddr), func(a, b *Binding) int {
		return byAge(&a.Lease, &b.Lease, now)
	})
}

// Binding returns the binding of a and makes it when there is none.
func (bs *Bindings) Binding(a netip.Addr) *Binding {
	b := bs.byAddr[a]
	if b == nil {
		b = &Binding{Addr: a}
		bs.byAddr[a] = b
		bs.mark(a)
	}
	return b
}

// Lookup returns the binding of a, nil when there is none.
func (bs *Bindings) Lookup(a netip.Addr) *Binding { return bs.byAddr[a] }

// mark updates whether a can be found as a free address.
func (bs *Bindings) mark(a netip.Addr) {
	taken := bs.byAddr[a] != nil || !bs.scope.dynamic(a)
	bs.scope.Ranges.positions(a, func(pos uint64) { bs.used.set(pos, taken) })
}

// setLease makes l the record of b as far as decisions go.
func (bs *Bindings) setLease(b *Binding, l Lease) {
	for _, index := range []map[ClientKey]*Binding{bs.byClient, bs.away} {
		if index[b.Key] == b {
			delete(index, b.Key)
		}
	}
	bs.states[b.Lease.State]--
	bs.states[l.State]++
	b.Lease, b.Key = l, ""
	var group ClientKey
	if l.State == StateBound || l.State == StateReleased || l.State == stateExpired {
		b.Key, group = bs.scope.keyOf(&l)
		index := bs.byClient
		if !bs.scope.Usable(b.Addr) {
			index = bs.away
		}
		// A client that has two leases, after a failed commit or a new
		// reservation, keeps the one that still runs.
		if have := index[b.Key]; have == nil || have.Lease.State != StateBound {
			index[b.Key] = b
		}
	}
	bs.join(b, group)
	bs.noteExpiry(&l)
	bs.arrange(b)
}

// noteExpiry makes sure that expire looks when l ends.
func (bs *Bindings) noteExpiry(l *Lease) {
	if (l.State == StateBound || l.State == StateDeclined) && !l.Expiry.IsZero() &&
		(bs.next.IsZero() || l.Expiry.Before(bs.next)) {
		bs.next = l.Expiry
	}
}

// arrange puts b into the list of its state, and forgets it when nothing is
// known of it any more.
func (bs *Bindings) arrange(b *Binding) {
	over := b.Lease.State == StateReleased || b.Lease.State == stateExpired
	switch {
	case b.Offer != "":
		bs.move(b, bs.offers)
	case over && bs.scope.dynamic(b.Addr):
		bs.move(b, bs.stale)
	default:
		bs.move(b, nil)
	}
	bs.count(b)
	if b.Offer == "" && b.Lease.State == "" && b.Durable.State == "" && b.pending == 0 {
		delete(bs.byAddr, b.Addr)
		bs.mark(b.Addr)
	}
}

// count counts b for where its client is, as long as it keeps the address from others.
func (bs *Bindings) count(b *Binding) {
	var at station
	if b.Offer != "" || b.Lease.State == StateBound || b.Lease.State == StateDeclined {
		at = b.via.station()
	}
	if b.counted == at {
		return
	}
	if was := b.counted; was != (station{}) {
		if bs.held[was]--; bs.held[was] == 0 {
			delete(bs.held, was)
		}
	}
	if b.counted = at; at != (station{}) {
		bs.held[at]++
	}
}

// move puts b at the end of l, nil for no list. It stays where it is when it is
// in l already.
func (bs *Bindings) move(b *Binding, l *list.List) {
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

// join puts b at the head of a group, of which it may be already, empty for none. One
// whose client is known by nothing but the group needs no place in it.
func (bs *Bindings) join(b *Binding, group ClientKey) {
	if b.Key == group {
		group = ""
	}
	if b.group == group {
		return
	}
	if b.group != "" {
		bs.quit(b)
	}
	if b.group = group; group == "" {
		return
	}
	if b.older = bs.groups[group]; b.older != nil {
		b.older.newer = b
	}
	bs.groups[group] = b
}

// quit takes b out of its group.
func (bs *Bindings) quit(b *Binding) {
	switch {
	case b.newer != nil:
		b.newer.older = b.older
	case b.older != nil:
		bs.groups[b.group] = b.older
	default:
		delete(bs.groups, b.group)
	}
	if b.older != nil {
		b.older.newer = b.newer
	}
	b.older, b.newer = nil, nil
}

// Lease is the running lease of a client on an address that clients are given,
// nil when it has none.
func (bs *Bindings) Lease(key ClientKey, now time.Time) *Binding {
	return running(bs.byClient[key], now)
}

// LeaseAway is the running lease that a client has from before the subnet was moved,
// nil when it has none. It keeps the address for the client until it ends, or the
// client takes another one: the subnet may come back.
func (bs *Bindings) LeaseAway(key ClientKey, now time.Time) *Binding {
	return running(bs.away[key], now)
}

// running is b, which may be nil, if its lease runs.
func running(b *Binding, now time.Time) *Binding {
	if b == nil || !b.Lease.BoundAt(now) {
		return nil
	}
	return b
}

// runs reports whether a client has a lease, wherever the subnet is.
func (bs *Bindings) runs(key ClientKey, now time.Time) bool {
	return bs.Lease(key, now) != nil || bs.LeaseAway(key, now) != nil
}

// leases lists what the store has of running leases, sorted by address.
func (bs *Bindings) leases(now time.Time) []Lease {
	var all []Lease
	for _, b := range bs.byAddr {
		if b.Durable.BoundAt(now) {
			all = append(all, b.Durable.clone())
		}
	}
	slices.SortFunc(all, func(a, b Lease) int { return a.Addr.Compare(b.Addr) })
	return all
}

// leasesOf lists the bindings whose leases are, or were, that machine's.
func (bs *Bindings) leasesOf(mac HWAddr) []*Binding {
	var all []*Binding
	for _, b := range bs.byAddr {
		if string(b.Lease.MAC) == string(mac[:]) {
			all = append(all, b)
		}
	}
	return all
}

// reidentify follows a change of what is reserved for the client of r: who it is
// (see scope.key), and whether its address may be given to others.
func (bs *Bindings) reidentify(r *Reservation) {
	if !r.Addr.IsValid() {
		return
	}
	for _, b := range bs.leasesOf(HWAddr(r.MAC)) {
		bs.setLease(b, b.Lease)
	}
	bs.mark(r.Addr)
}

// stage makes l the record of b in memory, to be stored. The caller hands the
// write to the committer.
func (bs *Bindings) stage(b *Binding, l Lease) write {
	bs.writes++
	b.latest = bs.writes
	b.pending++
	bs.setLease(b, l)
	return write{addr: b.Addr, lease: l, number: bs.writes}
}

// settle notes that w reached the store, or undoes it: the record becomes what
// the store has, unless a later write has changed it since.
func (bs *Bindings) settle(w write, stored bool) {
	b := bs.byAddr[w.addr]
	if b == nil || b.pending == 0 {
		return // the address left the subnet by Reconfigure
	}
	b.pending--
	switch {
	case stored:
		b.Durable = w.lease
		bs.arrange(b)
	case b.latest == w.number:
		bs.setLease(b, b.Durable)
	}
}

// expire ends what ended by now. It calls ended with each binding whose lease
// or quarantine is over, after the change.
func (bs *Bindings) expire(now time.Time, ended func(b *Binding, was State)) {
	bs.expireOffers(now)
	if bs.next.IsZero() || now.Before(bs.next) {
		return
	}
	bs.next = time.Time{}
	for _, b := range bs.byAddr {
		was := b.Lease.State
		if (was != StateBound && was != StateDeclined) || b.Lease.live(now) {
			bs.noteExpiry(&b.Lease)
			continue
		}
		l := b.Lease
		l.State = stateExpired
		if was == StateDeclined {
			l = Lease{}
		}
		bs.setLease(b, l)
		ended(b, was)
	}
}

// Hold keeps a for a client until a time, instead of what was held for it.
func (bs *Bindings) Hold(a netip.Addr, key ClientKey, until time.Time, via Sender) {
	before := bs.byOffer[key]
	probed := before != nil && before.Addr == a && before.Probed
	bs.Withdraw(key)
	b := bs.Binding(a)
	if b.Offer != "" {
		delete(bs.byOffer, b.Offer)
	}
	b.Offer, b.offerUntil, b.Probed = key, until, probed
	if b.Lease.State != StateBound {
		b.via = via
	}
	bs.byOffer[key] = b
	bs.arrange(b)
}

// Withdraw gives up what is held for a client, if anything.
func (bs *Bindings) Withdraw(key ClientKey) {
	b := bs.byOffer[key]
	if b == nil {
		return
	}
	delete(bs.byOffer, key)
	b.Offer, b.offerUntil, b.Probed = "", time.Time{}, false
	bs.arrange(b)
}

// expireOffers gives up the offers that nobody accepted.
func (bs *Bindings) expireOffers(now time.Time) {
	for e := bs.offers.Front(); e != nil; e = bs.offers.Front() {
		b := e.Value.(*Binding)
		if now.Before(b.offerUntil) {
			return
		}
		bs.Withdraw(b.Offer)
	}
}
