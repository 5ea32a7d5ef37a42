package dhcpd

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd/internal/index"
)

// OfferHold is how long an offered address is kept for its client. RFC 2131,
// section 3.1: "the server SHOULD NOT reuse the selected network address before
// the client responds". Clients answer within seconds.
const OfferHold = 30 * time.Second

// Binding is all that is known about one address. There are many: what there is for a while
// alone stands elsewhere.
type Binding struct {
	Addr netip.Addr
	// record is the lease as decided, blank when there is none.
	record
	// Key identifies the lease's client.
	Key ClientKey
	// group is that of the lease's client, if it is in Bindings.groups; older and newer are the neighbours in it.
	group        ClientKey
	older, newer *Binding
	// unsettled is what is on its way to the store, nil while nothing is.
	unsettled *unsettled
	// via is where the client is to which the address is leased or held, as far as this
	// process has seen it.
	via station
	// in is the chain between whose bindings prev and next the binding stands.
	in         link
	prev, next *Binding
	// counted is where the binding is counted, see Bindings.held.
	counted seat
	// offer is for whom the address is held, nil for nobody.
	offer *offer
}

// unsettled is what of a binding is on its way to the store.
type unsettled struct {
	// stored is the record as the store has it.
	stored record
	// latest is the number of the last write of this record; pending counts those
	// that are not settled.
	latest  uint64
	pending int
}

// offer is the client for whom an address is held for a while.
type offer struct {
	key    ClientKey
	until  time.Time
	probed bool // nobody answered for the address since it is held
}

// settled and withdrawn keep the memory of records that were stored and of offers that are over,
// for the next ones: each lease of a new client has both.
var settled, withdrawn sync.Pool

// newOf returns what of keeps, or else makes it.
func newOf[T any](of *sync.Pool) *T {
	if t, ok := of.Get().(*T); ok {
		return t
	}
	return new(T)
}

// Lease is the record as decided, State is empty when there is none. It is made anew.
func (b *Binding) Lease() Lease { return b.lease(b.Addr) }

// Offered is the client for whom the address is held, empty for nobody.
func (b *Binding) Offered() ClientKey {
	if b.offer == nil {
		return ""
	}
	return b.offer.key
}

// Probed reports whether the address is held and nobody answered for it since then.
func (b *Binding) Probed() bool { return b.offer != nil && b.offer.probed }

// SetProbed says so, of an address that is held.
func (b *Binding) SetProbed() { b.offer.probed = true }

// durable is the record as the store has it, blank when it has none.
func (b *Binding) durable() *record {
	if b.unsettled != nil {
		return &b.unsettled.stored
	}
	return &b.record
}

// Blank reports whether there is no record, neither as decided nor in the store.
func (b *Binding) Blank() bool { return b.blank() && b.durable().blank() }

// link is which chain a binding is in.
type link uint8

const (
	unlinked link = iota
	offers        // soonest to expire first
	stale         // dynamic, lease over, longest ago first
	links         // how many there are
)

// chain is bindings in an order. A binding is in one at most.
type chain struct {
	first, last *Binding
	n           int
}

// push puts b at the end, which is in no chain.
func (c *chain) push(b *Binding) {
	b.prev, b.next = c.last, nil
	if c.n++; c.last == nil {
		c.first = b
	} else {
		c.last.next = b
	}
	c.last = b
}

// remove takes b out, which is in it.
func (c *chain) remove(b *Binding) {
	if c.n--; b.prev == nil {
		c.first = b.next
	} else {
		b.prev.next = b.next
	}
	if b.next == nil {
		c.last = b.prev
	} else {
		b.next.prev = b.prev
	}
	b.prev, b.next = nil, nil
}

// Bindings are what is known of all addresses of the link. The Server's lock guards
// them.
//
// An address without a binding is free. All look-ups are O(1), but for the
// search of a free address, which skips 64 taken ones per step.
type Bindings struct {
	scope    *Scope
	byAddr   *index.Index[netip.Addr, Binding]
	byClient byKey // the client's lease, present or former
	away     byKey // the client's running lease on an address that no client could be given now
	byOffer  map[ClientKey]*Binding
	groups   byKey   // the newest binding of each group whose client tells more than that, see Recognise
	used     *bitmap // positions that have a binding or are not dynamic
	chains   [links]chain
	next     time.Time // no lease ends before; zero when none ends
	writes   uint64
	states   [len(states)]uint64 // how many bindings have a lease of that state
	held     map[seat]uint64     // how many addresses are taken or held by those of a seat
	room     [][]write           // memory for writes of changes, empty
}

// byKey finds bindings by a key of theirs.
type byKey = *index.Index[ClientKey, Binding]

// newBindings returns those of sp with nothing leased.
func newBindings(sp *Scope) Bindings {
	bs := Bindings{
		scope:    sp,
		byAddr:   index.New(func(b *Binding) netip.Addr { return b.Addr }),
		byClient: index.New(func(b *Binding) ClientKey { return b.Key }),
		away:     index.New(func(b *Binding) ClientKey { return b.Key }),
		byOffer:  make(map[ClientKey]*Binding),
		groups:   index.New(func(b *Binding) ClientKey { return b.group }),
		used:     newBitmap(sp.Size),
		held:     make(map[seat]uint64),
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
	kind   EventKind // of the event that tells of it, 0 for none
}

// load takes over the records of the store, which are in it already.
func (bs *Bindings) load(leases []Lease, now time.Time) {
	all := make([]packed, 0, len(leases))
	for i := range leases {
		all = append(all, packed{leases[i].Addr, leases[i].pack()})
	}
	slices.SortStableFunc(all, func(a, b packed) int { return byAge(&a.record, &b.record, now) })
	for _, l := range all {
		bs.setRecord(bs.Binding(l.addr), l.record)
	}
}

// packed is a record of an address.
type packed struct {
	addr netip.Addr
	record
}

// byAge orders records: running leases first, then those that ended, longest
// ago first.
func byAge(a, b *record, now time.Time) int {
	switch {
	case a.BoundAt(now) && !b.BoundAt(now):
		return -1
	case !a.BoundAt(now) && b.BoundAt(now):
		return 1
	default:
		return a.expiry.Compare(b.expiry)
	}
}

// adopt takes over the bindings of old, the pool of a former plan. Those outside
// the new subnet whose leases are over stay behind and are returned.
func (bs *Bindings) adopt(old *Bindings, now time.Time) []netip.Addr {
	var left []netip.Addr
	bs.writes = old.writes
	for o := old.chains[offers].first; o != nil; o = o.next {
		if bs.scope.dynamic(o.Addr) || bs.scope.byAddr[o.Addr] != nil {
			bs.hold(o.Addr, o.offer.key, o.offer.until, o.via)
		}
	}
	for _, o := range old.byAge(now) {
		if o.Blank() && o.unsettled == nil {
			continue
		}
		if !bs.scope.Usable(o.Addr) && !o.live(now) {
			left = append(left, o.Addr)
			continue
		}
		b := bs.Binding(o.Addr)
		if b.via = o.via; o.unsettled != nil {
			u := *o.unsettled // who reads old still may have that
			b.unsettled = &u
		}
		bs.setRecord(b, o.record)
	}
	return left
}

// grow takes in that ranges came to those of the scope, whose positions have stayed. It returns
// false, having done some of it, where an address of them had a client once: its place among
// those that did is by its age, as adopt has it.
func (bs *Bindings) grow(came []Range) bool {
	bs.used.n = bs.scope.Size
	for _, r := range came {
		for a := range bs.within(r) {
			if b := bs.byAddr.Get(a); b != nil && (b.state == released || b.state == expired) {
				return false
			}
			bs.mark(a)
		}
	}
	return true
}

// within yields the addresses of a range that may be taken: those of all bindings and
// reservations in it, or simply all where it is shorter than these are many.
func (bs *Bindings) within(r Range) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		all := bs.byAddr.Len() + len(bs.scope.byAddr) + len(bs.scope.Never)
		if r.Size() <= uint64(all) {
			for a := r.Start; a.IsValid() && !r.End.Less(a); a = a.Next() {
				if !yield(a) {
					return
				}
			}
			return
		}
		for b := range bs.byAddr.All() {
			if r.Contains(b.Addr) && !yield(b.Addr) {
				return
			}
		}
		for _, some := range []iter.Seq[netip.Addr]{maps.Keys(bs.scope.byAddr), maps.Keys(bs.scope.Never)} {
			for a := range some {
				if r.Contains(a) && !yield(a) {
					return
				}
			}
		}
	}
}

// byAge lists the bindings in the order of byAge of their leases.
func (bs *Bindings) byAge(now time.Time) []*Binding {
	return slices.SortedFunc(bs.byAddr.All(), func(a, b *Binding) int {
		return byAge(&a.record, &b.record, now)
	})
}

// Binding returns the binding of a and makes it when there is none.
func (bs *Bindings) Binding(a netip.Addr) *Binding {
	b := bs.byAddr.Get(a)
	if b == nil {
		b = &Binding{Addr: a}
		bs.byAddr.Put(b)
		bs.mark(a)
	}
	return b
}

// Lookup returns the binding of a, nil when there is none.
func (bs *Bindings) Lookup(a netip.Addr) *Binding { return bs.byAddr.Get(a) }

// mark updates whether a can be found as a free address.
func (bs *Bindings) mark(a netip.Addr) {
	taken := bs.byAddr.Get(a) != nil || !bs.scope.dynamic(a)
	bs.scope.chosen.positions(a, func(pos uint64) { bs.used.set(pos, taken) })
}

// setRecord makes r the record of b as far as decisions go.
func (bs *Bindings) setRecord(b *Binding, r record) {
	for _, clients := range []byKey{bs.byClient, bs.away} {
		if clients.Get(b.Key) == b {
			clients.Delete(b.Key)
		}
	}
	bs.states[b.state]--
	bs.states[r.state]++
	b.record, b.Key = r, ""
	var group ClientKey
	if r.state == bound || r.state == released || r.state == expired {
		b.Key, group = bs.scope.keyOf(b.Addr, &r)
		clients := bs.byClient
		if !bs.scope.Usable(b.Addr) {
			clients = bs.away
		}
		// A client that has two leases, after a failed commit or a new
		// reservation, keeps the one that still runs.
		if have := clients.Get(b.Key); have == nil || have.state != bound {
			clients.Put(b)
		}
	}
	bs.join(b, group)
	bs.noteExpiry(&r)
	bs.arrange(b)
}

// noteExpiry makes sure that expire looks when r ends.
func (bs *Bindings) noteExpiry(r *record) {
	if (r.state == bound || r.state == declined) && !r.expiry.IsZero() &&
		(bs.next.IsZero() || r.expiry.Before(bs.next)) {
		bs.next = r.expiry
	}
}

// arrange puts b into the list of its state, and forgets it when nothing is
// known of it any more.
func (bs *Bindings) arrange(b *Binding) {
	over := b.state == released || b.state == expired
	switch {
	case b.offer != nil:
		bs.move(b, offers)
	case over && bs.scope.dynamic(b.Addr):
		bs.move(b, stale)
	default:
		bs.move(b, unlinked)
	}
	bs.count(b)
	if b.offer == nil && b.Blank() && b.unsettled == nil {
		bs.byAddr.Delete(b.Addr)
		bs.mark(b.Addr)
	}
}

// count counts b for where its client is, as long as it keeps the address from others.
func (bs *Bindings) count(b *Binding) {
	var at seat
	if b.offer != nil || b.state == bound || b.state == declined {
		at = b.via.seat()
	}
	if b.counted == at {
		return
	}
	if was := b.counted; was != 0 {
		if bs.held[was]--; bs.held[was] == 0 {
			delete(bs.held, was)
		}
	}
	if b.counted = at; at != 0 {
		bs.held[at]++
	}
}

// move puts b at the end of a chain. It stays where it is when it is in that already.
func (bs *Bindings) move(b *Binding, to link) {
	if b.in == to {
		return
	}
	if b.in != unlinked {
		bs.chains[b.in].remove(b)
	}
	if b.in = to; to != unlinked {
		bs.chains[to].push(b)
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
	if b.older = bs.groups.Get(group); b.older != nil {
		b.older.newer = b
	}
	bs.groups.Put(b)
}

// quit takes b out of its group.
func (bs *Bindings) quit(b *Binding) {
	switch {
	case b.newer != nil:
		b.newer.older = b.older
	case b.older != nil:
		bs.groups.Put(b.older)
	default:
		bs.groups.Delete(b.group)
	}
	if b.older != nil {
		b.older.newer = b.newer
	}
	b.older, b.newer = nil, nil
}

// Lease is the running lease of a client on an address that clients are given,
// nil when it has none.
func (bs *Bindings) Lease(key ClientKey, now time.Time) *Binding {
	return running(bs.byClient.Get(key), now)
}

// LeaseAway is the running lease that a client has from before the subnet was moved,
// nil when it has none. It keeps the address for the client until it ends, or the
// client takes another one: the subnet may come back.
func (bs *Bindings) LeaseAway(key ClientKey, now time.Time) *Binding {
	return running(bs.away.Get(key), now)
}

// running is b, which may be nil, if its lease runs.
func running(b *Binding, now time.Time) *Binding {
	if b == nil || !b.BoundAt(now) {
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
	all := make([]Lease, 0, bs.states[bound])
	for b := range bs.byAddr.All() {
		if r := b.durable(); r.BoundAt(now) {
			all = append(all, r.lease(b.Addr))
		}
	}
	slices.SortFunc(all, func(a, b Lease) int { return a.Addr.Compare(b.Addr) })
	return all
}

// leasesOf lists the bindings whose leases are, or were, that machine's.
func (bs *Bindings) leasesOf(mac HWAddr) []*Binding {
	var all []*Binding
	for b := range bs.byAddr.All() {
		if b.part(partMAC) == string(mac[:]) {
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
		bs.setRecord(b, b.record)
	}
	bs.mark(r.Addr)
}

// stage makes l the record of b in memory, to be stored. The caller hands the
// write to the committer.
func (bs *Bindings) stage(b *Binding, l Lease) write {
	bs.writes++
	if b.unsettled == nil {
		b.unsettled = newOf[unsettled](&settled)
		b.unsettled.stored = b.record
	}
	b.unsettled.latest = bs.writes
	b.unsettled.pending++
	bs.setRecord(b, l.pack())
	return write{addr: b.Addr, lease: l, number: bs.writes}
}

// settle notes that w reached the store, or undoes it: the record becomes what
// the store has, unless a later write has changed it since.
func (bs *Bindings) settle(w *write, stored bool) {
	b := bs.byAddr.Get(w.addr)
	if b == nil || b.unsettled == nil {
		return // the address left the subnet by Reconfigure
	}
	u := b.unsettled
	if u.pending--; u.pending == 0 {
		b.unsettled = nil
	} else if stored {
		u.stored = w.lease.pack()
	}
	switch {
	case stored:
		bs.arrange(b)
	case u.latest == w.number:
		bs.setRecord(b, u.stored)
	}
	if u.pending == 0 {
		*u = unsettled{}
		settled.Put(u)
	}
}

// expire ends what ended by now. It calls ended with each binding whose lease
// or quarantine is over, after the change.
func (bs *Bindings) expire(now time.Time, ended func(b *Binding, was state)) {
	bs.expireOffers(now)
	if bs.next.IsZero() || now.Before(bs.next) {
		return
	}
	bs.next = time.Time{}
	for b := range bs.byAddr.All() {
		was := b.state
		if (was != bound && was != declined) || b.live(now) {
			bs.noteExpiry(&b.record)
			continue
		}
		r := b.record
		r.state = expired
		if was == declined {
			r = record{}
		}
		bs.setRecord(b, r)
		ended(b, was)
	}
}

// Hold keeps a for a client until a time, instead of what was held for it.
func (bs *Bindings) Hold(a netip.Addr, key ClientKey, until time.Time, via Sender) {
	bs.hold(a, key, until, via.station())
}

func (bs *Bindings) hold(a netip.Addr, key ClientKey, until time.Time, via station) {
	before := bs.byOffer[key]
	probed := before != nil && before.Addr == a && before.offer.probed
	bs.Withdraw(key)
	b := bs.Binding(a)
	if b.offer == nil {
		b.offer = newOf[offer](&withdrawn)
	} else {
		delete(bs.byOffer, b.offer.key)
	}
	*b.offer = offer{key, until, probed}
	if b.state != bound {
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
	*b.offer = offer{}
	withdrawn.Put(b.offer)
	b.offer = nil
	bs.arrange(b)
}

// expireOffers gives up the offers that nobody accepted.
func (bs *Bindings) expireOffers(now time.Time) {
	for b := bs.chains[offers].first; b != nil; b = bs.chains[offers].first {
		if now.Before(b.offer.until) {
			return
		}
		bs.Withdraw(b.offer.key)
	}
}

// reckon tells the lender what became of an address. The engine must be locked.
func reckon(bs *Bindings, a netip.Addr) {
	lender := bs.scope.lender
	if lender == nil {
		return
	}
	if b := bs.byAddr.Get(a); b != nil && b.state == bound {
		l := b.Lease()
		lender.Keep(&l)
		return
	}
	lender.End(a)
}

// begin tells the lender of all leases.
func begin(bs *Bindings) {
	if bs.scope.lender == nil {
		return
	}
	var all []Lease
	for b := range bs.byAddr.All() {
		if b.state == bound {
			all = append(all, b.Lease())
		}
	}
	slices.SortFunc(all, func(a, b Lease) int { return a.Addr.Compare(b.Addr) })
	bs.scope.lender.Begin(all)
}
