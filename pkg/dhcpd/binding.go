package dhcpd

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd/internal/index"
)

// OfferHold is how long an offered address is kept for its client. RFC 2131,
// section 3.1: "the server SHOULD NOT reuse the selected network address before
// the client responds". Clients answer within seconds.
const OfferHold = 30 * time.Second

// Binding is all that is known about one address, or nothing: the zero value. It may be kept only
// as long as the Server's lock is.
type Binding struct {
	*binding
	all *Bindings
}

// binding is what a Binding has. There are many: they have no pointers, so that the collector need
// not look at them, and what there is for a while alone stands elsewhere.
type binding struct {
	addr [16]byte
	// record is the lease as decided, blank when there is none.
	record
	number index.Number
	// client is the place of what identifies the lease's client: its key, and its group if it
	// is in Bindings.groups. older and newer are the neighbours there.
	client       index.Place
	older, newer index.Number
	// unsettled is what is on its way to the store, 0 while nothing is.
	unsettled index.Number
	// offer is for whom the address is held, 0 for nobody.
	offer index.Number
	// in is the chain between whose bindings prev and next the binding stands.
	prev, next index.Number
	in         link
	// via is where the client is to which the address is leased or held, as far as this
	// process has seen it.
	via station
	// counted is where the binding is counted, see Bindings.held.
	counted seat
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

// None reports whether there is no binding.
func (b Binding) None() bool { return b.binding == nil }

// Addr is the address.
func (b Binding) Addr() netip.Addr { return netip.AddrFrom16(b.addr).Unmap() }

// Lease is the record as decided, State is empty when there is none. It is made anew.
func (b Binding) Lease() Lease { return b.lease(&b.all.texts, b.Addr()) }

// part is one of the parts of the record, empty where it has none.
func (b Binding) part(n int) string { return index.Part(b.all.texts.At(b.text), n) }

// Key identifies the lease's client.
func (b Binding) Key() ClientKey { return ClientKey(index.Part(b.all.texts.At(b.client), 0)) }

// group is that of the lease's client, if the binding is in Bindings.groups.
func (b Binding) group() ClientKey { return ClientKey(index.Part(b.all.texts.At(b.client), 1)) }

// held is the offer of the address, which somebody has.
func (b Binding) held() *offer { return b.all.offers.At(b.offer) }

// Offered is the client for whom the address is held, empty for nobody.
func (b Binding) Offered() ClientKey {
	if b.offer == 0 {
		return ""
	}
	return b.held().key
}

// Probed reports whether the address is held and nobody answered for it since then.
func (b Binding) Probed() bool { return b.offer != 0 && b.held().probed }

// SetProbed says so, of an address that is held.
func (b Binding) SetProbed() { b.held().probed = true }

// durable is the record as the store has it, blank when it has none.
func (b Binding) durable() *record {
	if b.unsettled != 0 {
		return &b.all.unsettled.At(b.unsettled).stored
	}
	return &b.record
}

// Blank reports whether there is no record, neither as decided nor in the store.
func (b Binding) Blank() bool { return b.blank() && b.durable().blank() }

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
	first, last index.Number
	n           int
}

// push puts b at the end, which is in no chain.
func (c *chain) push(b Binding) {
	b.prev, b.next = c.last, 0
	if c.n++; c.last == 0 {
		c.first = b.number
	} else {
		b.all.bindings.At(c.last).next = b.number
	}
	c.last = b.number
}

// remove takes b out, which is in it.
func (c *chain) remove(b Binding) {
	if c.n--; b.prev == 0 {
		c.first = b.next
	} else {
		b.all.bindings.At(b.prev).next = b.next
	}
	if b.next == 0 {
		c.last = b.prev
	} else {
		b.all.bindings.At(b.next).prev = b.prev
	}
	b.prev, b.next = 0, 0
}

// Bindings are what is known of all addresses of the link. The Server's lock guards
// them.
//
// An address without a binding is free. All look-ups are O(1), but for the
// search of a free address, which skips 64 taken ones per step.
type Bindings struct {
	scope     *Scope
	bindings  index.Slab[binding]
	unsettled index.Slab[unsettled] // of bindings
	offers    index.Slab[offer]     // of bindings
	texts     index.Texts           // of records, and what identifies their clients
	byAddr    *index.Index[[16]byte]
	byClient  byKey // the client's lease, present or former
	away      byKey // the client's running lease on an address that no client could be given now
	byOffer   map[ClientKey]index.Number
	groups    byKey   // the newest binding of each group whose client tells more than that, see Recognise
	used      *bitmap // positions that have a binding or are not dynamic
	chains    [links]chain
	next      time.Time // no lease ends before; zero when none ends
	writes    uint64
	states    [len(states)]uint64 // how many bindings have a lease of that state
	held      map[seat]uint64     // how many addresses are taken or held by those of a seat
	room      [][]write           // memory for writes of changes, empty
}

// byKey finds bindings by a key of theirs.
type byKey = *index.Index[ClientKey]

// newBindings returns those of sp with nothing leased.
func newBindings(sp *Scope) *Bindings {
	bs := &Bindings{
		scope: sp, byOffer: make(map[ClientKey]index.Number), used: newBitmap(sp.Size), held: make(map[seat]uint64),
	}
	key := func(n index.Number) ClientKey { return bs.at(n).Key() }
	bs.byClient, bs.away = index.New(key), index.New(key)
	bs.groups = index.New(func(n index.Number) ClientKey { return bs.at(n).group() })
	bs.byAddr = index.New(func(n index.Number) [16]byte { return bs.bindings.At(n).addr })
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

// at returns the binding with a number, none for 0.
func (bs *Bindings) at(n index.Number) Binding {
	if n == 0 {
		return Binding{}
	}
	return Binding{bs.bindings.At(n), bs}
}

// each yields the bindings there are when it is called, in any order. They may come and go
// meanwhile.
func (bs *Bindings) each() iter.Seq[Binding] {
	return func(yield func(Binding) bool) {
		for n := range bs.byAddr.All() {
			if b := bs.at(n); b.number == n && !yield(b) {
				return
			}
		}
	}
}

// load takes over the records of the store, which are in it already.
func (bs *Bindings) load(leases []Lease, now time.Time) {
	all := make([]packed, 0, len(leases))
	for i := range leases {
		all = append(all, packed{leases[i].Addr, leases[i].pack(&bs.texts, 0)})
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
		return a.expiry.due().Compare(b.expiry.due())
	}
}

// adopt takes over the bindings of old, the pool of a former plan. Those outside
// the new subnet whose leases are over stay behind and are returned.
func (bs *Bindings) adopt(old *Bindings, now time.Time) []netip.Addr {
	var left []netip.Addr
	bs.writes = old.writes
	for o := old.at(old.chains[offers].first); !o.None(); o = old.at(o.next) {
		if a := o.Addr(); bs.scope.dynamic(a) || bs.scope.byAddr[a] != nil {
			bs.hold(a, o.held().key, o.held().until, o.via)
		}
	}
	for _, o := range old.byAge(now) {
		if o.Blank() && o.unsettled == 0 {
			continue
		}
		if !bs.scope.Usable(o.Addr()) && !o.live(now) {
			left = append(left, o.Addr())
			continue
		}
		b := bs.Binding(o.Addr())
		if b.via = o.via; o.unsettled != 0 {
			n, u := bs.unsettled.Add()
			*u = *old.unsettled.At(o.unsettled)
			u.stored.text = bs.texts.Keep([]byte(old.texts.At(u.stored.text)), 0)
			b.unsettled = n
		}
		r := o.record
		r.text = bs.texts.Keep([]byte(old.texts.At(r.text)), 0)
		bs.setRecord(b, r)
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
			if b := bs.Lookup(a); !b.None() && (b.state == released || b.state == expired) {
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
		for b := range bs.each() {
			if a := b.Addr(); r.Contains(a) && !yield(a) {
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
func (bs *Bindings) byAge(now time.Time) []Binding {
	return slices.SortedFunc(bs.each(), func(a, b Binding) int {
		return byAge(&a.record, &b.record, now)
	})
}

// Binding returns the binding of a and makes it when there is none.
func (bs *Bindings) Binding(a netip.Addr) Binding {
	if b := bs.Lookup(a); !b.None() {
		return b
	}
	n, b := bs.bindings.Add()
	b.addr, b.number = a.As16(), n
	bs.byAddr.Put(n)
	bs.mark(a)
	return Binding{b, bs}
}

// Lookup returns the binding of a, if there is one.
func (bs *Bindings) Lookup(a netip.Addr) Binding { return bs.at(bs.byAddr.Get(a.As16())) }

// mark updates whether a can be found as a free address.
func (bs *Bindings) mark(a netip.Addr) {
	taken := !bs.Lookup(a).None() || !bs.scope.dynamic(a)
	bs.scope.chosen.positions(a, func(pos uint64) { bs.used.set(pos, taken) })
}

// setRecord makes r the record of b as far as decisions go.
func (bs *Bindings) setRecord(b Binding, r record) {
	for _, clients := range []byKey{bs.byClient, bs.away} {
		if clients.Get(b.Key()) == b.number {
			clients.Delete(b.Key())
		}
	}
	bs.states[b.state]--
	bs.states[r.state]++
	b.record = r
	var key, group ClientKey
	if r.state == bound || r.state == released || r.state == expired {
		key, group = bs.scope.keyOf(b.Addr(), b.part(partMAC), b.part(partClientID), b.part(partDUID), r.iaid)
	}
	b.identify(key, group)
	if key != "" {
		clients := bs.byClient
		if !bs.scope.Usable(b.Addr()) {
			clients = bs.away
		}
		// A client that has two leases, after a failed commit or a new
		// reservation, keeps the one that still runs.
		if have := bs.at(clients.Get(key)); have.None() || have.state != bound {
			clients.Put(b.number)
		}
	}
	bs.noteExpiry(&r)
	bs.arrange(b)
}

// noteExpiry makes sure that expire looks when r ends.
func (bs *Bindings) noteExpiry(r *record) {
	if (r.state != bound && r.state != declined) || r.expiry.IsZero() {
		return
	}
	if due := r.expiry.due(); bs.next.IsZero() || due.Before(bs.next) {
		bs.next = due
	}
}

// arrange puts b into the list of its state, and forgets it when nothing is
// known of it any more.
func (bs *Bindings) arrange(b Binding) {
	over := b.state == released || b.state == expired
	switch {
	case b.offer != 0:
		b.move(offers)
	case over && bs.scope.dynamic(b.Addr()):
		b.move(stale)
	default:
		b.move(unlinked)
	}
	b.count()
	if b.offer == 0 && b.Blank() && b.unsettled == 0 {
		a := b.Addr()
		bs.byAddr.Delete(b.addr)
		bs.bindings.Free(b.number)
		bs.mark(a)
	}
}

// count counts b for where its client is, as long as it keeps the address from others.
func (b Binding) count() {
	var at seat
	if b.offer != 0 || b.state == bound || b.state == declined {
		at = b.via.seat()
	}
	if b.counted == at {
		return
	}
	if was := b.counted; was != 0 {
		if b.all.held[was]--; b.all.held[was] == 0 {
			delete(b.all.held, was)
		}
	}
	if b.counted = at; at != 0 {
		b.all.held[at]++
	}
}

// move puts b at the end of a chain. It stays where it is when it is in that already.
func (b Binding) move(to link) {
	if b.in == to {
		return
	}
	if b.in != unlinked {
		b.all.chains[b.in].remove(b)
	}
	if b.in = to; to != unlinked {
		b.all.chains[to].push(b)
	}
}

// identify makes a client that of b, empty for none, and puts b at the head of the client's group
// unless it is in that already. A client that is known by nothing but the group needs no place
// in it.
func (b Binding) identify(key, group ClientKey) {
	if key == group {
		group = ""
	}
	stays := b.group() == group
	if !stays {
		b.quit()
	}
	var room [128]byte
	text := room[:0]
	if key != "" {
		text = index.AppendPart(index.AppendPart(text, key), group)
	}
	b.client = b.all.texts.Keep(text, b.client)
	if stays || group == "" {
		return
	}
	if b.older = b.all.groups.Get(group); b.older != 0 {
		b.all.at(b.older).newer = b.number
	}
	b.all.groups.Put(b.number)
}

// quit takes b out of its group, if it is in one.
func (b Binding) quit() {
	group := b.group()
	switch {
	case group == "":
		return
	case b.newer != 0:
		b.all.at(b.newer).older = b.older
	case b.older != 0:
		b.all.groups.Put(b.older)
	default:
		b.all.groups.Delete(group)
	}
	if b.older != 0 {
		b.all.at(b.older).newer = b.newer
	}
	b.older, b.newer = 0, 0
}

// Lease is the running lease of a client on an address that clients are given, if it has one.
func (bs *Bindings) Lease(key ClientKey, now time.Time) Binding {
	return bs.running(bs.byClient, key, now)
}

// LeaseAway is the running lease that a client has from before the subnet was moved, if it has
// one. It keeps the address for the client until it ends, or the client takes another one: the
// subnet may come back.
func (bs *Bindings) LeaseAway(key ClientKey, now time.Time) Binding {
	return bs.running(bs.away, key, now)
}

// running is the running lease of a client among some, if it has one.
func (bs *Bindings) running(clients byKey, key ClientKey, now time.Time) Binding {
	if b := bs.at(clients.Get(key)); !b.None() && b.BoundAt(now) {
		return b
	}
	return Binding{}
}

// runs reports whether a client has a lease, wherever the subnet is.
func (bs *Bindings) runs(key ClientKey, now time.Time) bool {
	return !bs.Lease(key, now).None() || !bs.LeaseAway(key, now).None()
}

// leases lists what the store has of running leases, sorted by address.
func (bs *Bindings) leases(now time.Time) []Lease {
	all := make([]Lease, 0, bs.states[bound])
	for b := range bs.each() {
		if r := b.durable(); r.BoundAt(now) {
			all = append(all, r.lease(&bs.texts, b.Addr()))
		}
	}
	slices.SortFunc(all, func(a, b Lease) int { return a.Addr.Compare(b.Addr) })
	return all
}

// leasesOf lists the bindings whose leases are, or were, that machine's.
func (bs *Bindings) leasesOf(mac HWAddr) []Binding {
	var all []Binding
	for b := range bs.each() {
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
func (bs *Bindings) stage(b Binding, l Lease) write {
	bs.tidy()
	bs.writes++
	if b.unsettled == 0 {
		n, u := bs.unsettled.Add()
		b.unsettled, u.stored = n, b.record
	}
	u := bs.unsettled.At(b.unsettled)
	u.latest = bs.writes
	u.pending++
	bs.setRecord(b, l.pack(&bs.texts, b.text))
	return write{addr: b.Addr(), lease: l, number: bs.writes}
}

// leastTexts is how many texts that nobody needs may be kept.
const leastTexts = 4096

// tidy gives back the memory of texts that nobody needs, where they may be most: each binding has
// two. No record may be anywhere but in its binding and on its way to the store.
func (bs *Bindings) tidy() {
	if bs.texts.Len() < leastTexts+4*bs.byAddr.Len() {
		return
	}
	var fresh index.Texts
	keep := func(at *index.Place) { *at = fresh.Keep([]byte(bs.texts.At(*at)), 0) }
	for b := range bs.each() {
		keep(&b.text)
		keep(&b.client)
		if b.unsettled != 0 {
			keep(&bs.unsettled.At(b.unsettled).stored.text)
		}
	}
	bs.texts = fresh
}

// settle notes that w reached the store, or undoes it: the record becomes what
// the store has, unless a later write has changed it since.
func (bs *Bindings) settle(w *write, stored bool) {
	b := bs.Lookup(w.addr)
	if b.None() || b.unsettled == 0 {
		return // the address left the subnet by Reconfigure
	}
	n := b.unsettled
	u := bs.unsettled.At(n)
	if u.pending--; u.pending == 0 {
		b.unsettled = 0
	} else if stored {
		u.stored = w.lease.pack(&bs.texts, u.stored.text)
	}
	switch {
	case stored:
		bs.arrange(b)
	case u.latest == w.number:
		bs.setRecord(b, u.stored)
	}
	if u.pending == 0 {
		bs.unsettled.Free(n)
	}
}

// expire ends what ended by now. It calls ended with each address whose lease
// or quarantine is over, after the change: there may be no binding any more.
func (bs *Bindings) expire(now time.Time, ended func(a netip.Addr, was state)) {
	bs.expireOffers(now)
	if bs.next.IsZero() || now.Before(bs.next) {
		return
	}
	bs.next = time.Time{}
	for b := range bs.each() {
		was := b.state
		if (was != bound && was != declined) || b.live(now) {
			bs.noteExpiry(&b.record)
			continue
		}
		a, r := b.Addr(), b.record
		r.state = expired
		if was == declined {
			r = record{}
		}
		bs.setRecord(b, r)
		ended(a, was)
	}
}

// Hold keeps a for a client until a time, instead of what was held for it.
func (bs *Bindings) Hold(a netip.Addr, key ClientKey, until time.Time, via Sender) {
	bs.hold(a, key, until, via.station())
}

func (bs *Bindings) hold(a netip.Addr, key ClientKey, until time.Time, via station) {
	before := bs.at(bs.byOffer[key])
	probed := !before.None() && before.Addr() == a && before.Probed()
	bs.Withdraw(key)
	b := bs.Binding(a)
	if b.offer == 0 {
		b.offer, _ = bs.offers.Add()
	} else {
		delete(bs.byOffer, b.Offered())
	}
	*b.held() = offer{key, until, probed}
	if b.state != bound {
		b.via = via
	}
	bs.byOffer[key] = b.number
	bs.arrange(b)
}

// Withdraw gives up what is held for a client, if anything.
func (bs *Bindings) Withdraw(key ClientKey) {
	b := bs.at(bs.byOffer[key])
	if b.None() {
		return
	}
	delete(bs.byOffer, key)
	bs.offers.Free(b.offer)
	b.offer = 0
	bs.arrange(b)
}

// expireOffers gives up the offers that nobody accepted.
func (bs *Bindings) expireOffers(now time.Time) {
	for b := bs.at(bs.chains[offers].first); !b.None() && !now.Before(b.held().until); b = bs.at(bs.chains[offers].first) {
		bs.Withdraw(b.held().key)
	}
}

// reckon tells the lender what became of an address. The engine must be locked.
func reckon(bs *Bindings, a netip.Addr) {
	lender := bs.scope.lender
	if lender == nil {
		return
	}
	if b := bs.Lookup(a); !b.None() && b.state == bound {
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
	for b := range bs.each() {
		if b.state == bound {
			all = append(all, b.Lease())
		}
	}
	slices.SortFunc(all, func(a, b Lease) int { return a.Addr.Compare(b.Addr) })
	bs.scope.lender.Begin(all)
}
