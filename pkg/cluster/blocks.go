package cluster

import (
	"maps"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/vnetd/vnetd/pkg/cluster/record"
)

// A host under load claims up to so many blocks at a time, twice as many each time that
// it needs others within so long.
const (
	mostClaims  = 8
	claimsAgain = time.Second
)

// pools are the addresses of networks that hosts share: the blocks of this host, and how
// much of them is held.
type pools struct {
	*state
	spans    map[string]Span
	reserved map[string]*reserved // by network
	need     map[family]uint64    // guests that wait for an address
	use      map[string]*usage
}

// family is the addresses of a network that are of one family.
type family struct {
	network string
	is4     bool
}

// family is that of a pool.
func (p Pool) family(network string) family { return family{network, p.First.Is4()} }

// usage is what is held of the blocks of this host. Each change costs the same however many blocks
// and addresses there are.
type usage struct {
	held   map[netip.Addr]netip.Prefix // addresses with a lease here, or with a record of anybody: in which block of this host, if in any
	own    map[netip.Prefix]*share     // each block of this host
	shares map[bool]*share             // all of them, of IPv4 and not
	burst  int
	last   time.Time // of the last claim
}

// share is how many addresses of blocks are held, and how many guests may have.
type share struct{ held, all uint64 }

func (m *pools) usage(network string) *usage {
	u := m.use[network]
	if u == nil {
		u = &usage{held: make(map[netip.Addr]netip.Prefix)}
		u.reset()
		m.use[network] = u
	}
	return u
}

// reset forgets all blocks.
func (u *usage) reset() {
	u.own, u.shares = make(map[netip.Prefix]*share), map[bool]*share{true: new(share), false: new(share)}
}

// put counts a held address in a block of this host, an invalid one for none, and no longer where
// it was.
func (u *usage) put(a netip.Addr, block netip.Prefix) {
	was := u.held[a]
	if s := u.own[was]; s != nil {
		s.held--
		u.shares[a.Is4()].held--
	}
	if s := u.own[block]; s != nil {
		s.held++
		u.shares[a.Is4()].held++
	}
	u.held[a] = block
}

// drop counts an address no more.
func (u *usage) drop(a netip.Addr) {
	u.put(a, netip.Prefix{})
	delete(u.held, a)
}

// within lists the held addresses of a block.
func (u *usage) within(block netip.Prefix) (all []netip.Addr) {
	last := record.Last(block)
	if record.Between(block.Addr(), last, 0) >= uint64(len(u.held)) {
		for a := range u.held {
			if block.Contains(a) {
				all = append(all, a)
			}
		}
		return all
	}
	for a := block.Addr(); a.IsValid() && !last.Less(a); a = a.Next() {
		if _, is := u.held[a]; is {
			all = append(all, a)
		}
	}
	return all
}

// ownBlock is the block of this host that has an address, an invalid one for none.
func (m *pools) ownBlock(a Address) netip.Prefix {
	if block, host := m.view.owner(a); host == m.cfg.Host {
		return block
	}
	return netip.Prefix{}
}

// hold takes in whether an address is held.
func (m *pools) hold(a Address, is bool) {
	u := m.usage(a.Network)
	if _, was := u.held[a.Addr]; was == is {
		return
	}
	ours := m.ownBlock(a).IsValid()
	if is {
		u.put(a.Addr, m.ownBlock(a))
	} else {
		u.drop(a.Addr)
	}
	span, there := m.spans[a.Network]
	switch {
	case !ours:
	case !is:
		if !there || m.wanting(family{a.Network, a.Addr.Is4()}) {
			m.pending.nets.push(a.Network)
		}
	default:
		for _, p := range span.Pools {
			if free, all := m.free(a.Network, p); free*4 < all {
				m.pending.nets.push(a.Network)
			}
		}
	}
}

// recount counts anew what is held of all blocks of a network.
func (m *pools) recount(network string) {
	u := m.usage(network)
	u.reset()
	for block, b := range m.view.blocks[network] {
		if b.v.Host == m.cfg.Host {
			m.own(u, network, block)
		}
	}
	for addr := range u.held {
		u.held[addr] = netip.Prefix{}
		u.put(addr, m.ownBlock(Address{network, addr}))
	}
	m.pending.nets.push(network)
	m.pending.cedes.push(network)
}

// own has a block be one of this host's.
func (m *pools) own(u *usage, network string, block netip.Prefix) {
	s := new(share)
	for _, p := range m.spans[network].Pools {
		if p.First.Is4() == block.Addr().Is4() {
			s.all = p.capacity(block)
		}
	}
	u.own[block] = s
	u.shares[block.Addr().Is4()].all += s.all
}

// recountBlock counts anew what is held of a block that has changed. It reports whether that is or
// was this host's.
func (m *pools) recountBlock(network string, block netip.Prefix) bool {
	u := m.usage(network)
	s, was := u.own[block]
	is := m.view.blocks[network][block].v.Host == m.cfg.Host
	if is && !was {
		m.own(u, network, block)
	}
	for _, addr := range u.within(block) {
		u.put(addr, m.ownBlock(Address{network, addr}))
	}
	if was && !is {
		delete(u.own, block)
		u.shares[block.Addr().Is4()].all -= s.all
	}
	m.pending.nets.push(network)
	m.pending.cedes.push(network)
	return is || was
}

// ownBlocks are the blocks of this host, in order.
func (m *pools) ownBlocks(network string) []netip.Prefix {
	return slices.SortedFunc(maps.Keys(m.usage(network).own), netip.Prefix.Compare)
}

// free is how many addresses of a pool this host has to give, of how many in its blocks.
func (m *pools) free(network string, p Pool) (free, all uint64) {
	s := m.usage(network).shares[p.First.Is4()]
	return s.all - min(s.held, s.all), s.all
}

// capacity is how many addresses of a block guests may have.
func (p Pool) capacity(block netip.Prefix) uint64 {
	first, last := block.Addr(), record.Last(block)
	if first.Less(p.First) {
		first = p.First
	}
	if p.Last.Less(last) {
		last = p.Last
	}
	if last.Less(first) {
		return 0
	}
	n := record.Between(first, last, 0) + 1
	for _, x := range p.Excluded {
		if !x.Less(first) && !last.Less(x) {
			n--
		}
	}
	return n
}

// pool is the pool that has an address, and whether hosts give it to anybody.
func (m *pools) pool(a Address) (p Pool, lent bool) {
	for _, p := range m.spans[a.Network].Pools {
		if p.First.Is4() == a.Addr.Is4() && !a.Addr.Less(p.First) && !p.Last.Less(a.Addr) {
			return p, !slices.Contains(p.Excluded, a.Addr)
		}
	}
	return Pool{}, false
}

// base is the block of full size that has an address.
func (p Pool) base(a netip.Addr) netip.Prefix {
	block, _ := a.Prefix(p.Bits)
	return block
}

// planBlocks claims blocks of addresses, says what this host wants of others, and gives
// them what they want.
func (m *pools) planBlocks(r *Request, now time.Time) {
	if !m.view.complete() {
		return // whose blocks there are is not known
	}
	m.pending.nets.keep(func(network string) (done, stop bool) {
		before := len(r.Txn.Then)
		span, there := m.spans[network]
		if !there {
			m.giveAllUp(r, network)
		}
		for _, p := range span.Pools {
			m.claim(r, network, p, now)
		}
		if there && len(r.Txn.Then) == before {
			m.ask(r, span)
		}
		for _, p := range span.Pools {
			if len(r.Txn.Then) == before {
				m.give(r, network, p)
			}
			if len(r.Txn.Then) == before {
				m.merge(r, network, p)
			}
		}
		return len(r.Txn.Then) == before, r.full
	})
}

// wanting reports whether another host wants addresses.
func (m *pools) wanting(f family) bool {
	for host, w := range m.view.wants[f.network] {
		if host != m.cfg.Host && of(w.v, f.is4) > 0 {
			return true
		}
	}
	return false
}

// claim claims blocks of a pool where this host needs some: the first, another while less
// than a quarter is free, and as many as guests wait for.
func (m *pools) claim(r *Request, network string, p Pool, now time.Time) {
	f := p.family(network)
	free, all := m.free(network, p)
	if free >= m.need[f] && (free*4 >= all && all > 0 || m.wanting(f) && (free > 0 || all == 0)) {
		return
	}
	u := m.usage(network)
	if now.Sub(u.last) >= claimsAgain {
		u.burst = 0
	}
	found := m.find(network, p, max(1, u.burst))
	for _, block := range found {
		if !r.add(m.putBlock(network, block, m.reservedIn(network, block)),
			m.unclaimed(network, block, p)...) {
			break
		}
	}
	if len(found) > 0 {
		u.last, u.burst = now, min(mostClaims, max(2, 2*u.burst))
	}
}

// unclaimed are the comparisons that hold if no address of a block is claimed.
func (m *pools) unclaimed(network string, block netip.Prefix, p Pool) []Compare {
	from, to := record.Within(block)
	compares := []Compare{{Key: m.path(record.KindBlock, network, from), To: m.path(record.KindBlock, network, to)}}
	for bits := block.Bits() - 1; bits >= minPool(block.Addr()); bits-- {
		larger, _ := block.Addr().Prefix(bits)
		if larger.Addr() != block.Addr() { // one that begins with it is within
			compares = append(compares, Compare{Key: m.path(record.KindBlock, network, record.BlockID(larger))})
		}
		if larger.Contains(p.First) && larger.Contains(p.Last) {
			break
		}
	}
	return compares
}

// find looks for up to n blocks of a pool that nobody has, from a random one on; where
// none of full size is left, for the largest part of one.
func (m *pools) find(network string, p Pool, n int) (found []netip.Prefix) {
	divided := m.divided(network, p)
	host := p.First.BitLen() - p.Bits
	first := p.base(p.First)
	count := min(record.Between(first.Addr(), p.base(p.Last).Addr(), host)+1, 1<<20)
	start := m.cfg.Rand.Uint64N(count)
	var part netip.Prefix
	for i := range count {
		block := netip.PrefixFrom(record.Add(first.Addr(), (start+i)%count, host), p.Bits)
		if p.capacity(block) == 0 || m.covered(network, block) {
			continue
		}
		if _, whole := m.view.blocks[network][block]; !whole && !divided[block] {
			if found = append(found, block); len(found) == n {
				return found
			}
		} else if largest := m.unownedPart(network, block, p, divided); largest.IsValid() && (!part.IsValid() || largest.Bits() < part.Bits()) {
			part = largest
		}
	}
	if len(found) == 0 && part.IsValid() {
		found = append(found, part)
	}
	return found
}

// covered reports whether a block is part of a larger one that somebody has.
func (m *pools) covered(network string, block netip.Prefix) bool {
	for bits := minPool(block.Addr()); bits < block.Bits(); bits++ {
		larger, _ := block.Addr().Prefix(bits)
		if _, there := m.view.blocks[network][larger]; there {
			return true
		}
	}
	return false
}

// unownedPart is the largest part of a block that nobody has, invalid for none. divided are the
// blocks of which somebody has a part.
func (m *pools) unownedPart(network string, block netip.Prefix, p Pool, divided map[netip.Prefix]bool) netip.Prefix {
	if _, there := m.view.blocks[network][block]; there || p.capacity(block) == 0 {
		return netip.Prefix{}
	}
	if !divided[block] {
		return block
	}
	low, high := record.Halves(block)
	a, b := m.unownedPart(network, low, p, divided), m.unownedPart(network, high, p, divided)
	if !a.IsValid() || b.IsValid() && b.Bits() < a.Bits() {
		return b
	}
	return a
}

// divided are the blocks of a pool, and their parts, of which somebody has a part.
func (m *pools) divided(network string, p Pool) map[netip.Prefix]bool {
	all := make(map[netip.Prefix]bool)
	for block := range m.view.blocks[network] {
		for bits := block.Bits() - 1; bits >= p.Bits && block.Addr().Is4() == p.First.Is4(); bits-- {
			larger, _ := block.Addr().Prefix(bits)
			if all[larger] {
				break
			}
			all[larger] = true
		}
	}
	return all
}

// ask says, or no longer says, that this host wants addresses and finds none.
func (m *pools) ask(r *Request, span Span) {
	key := m.path(record.KindWant, span.Network, "")
	has, said := m.view.wants[span.Network][m.cfg.Host]
	var want record.Want
	for _, p := range span.Pools {
		free, _ := m.free(span.Network, p)
		switch n := int(m.need[p.family(span.Network)]) - int(min(free, math.MaxInt32)); {
		case n <= 0:
		case p.First.Is4():
			want.Addresses = n
		default:
			want.Addresses6 = n
		}
	}
	switch none := want.Addresses+want.Addresses6 == 0; {
	case none && said:
		r.add(Op{Key: key})
	case !none && (!said || (of(want, true) > 0) != (of(has.v, true) > 0) || (of(want, false) > 0) != (of(has.v, false) > 0)):
		r.add(Op{Key: key, Value: record.Encode(&want)})
	}
}

// of is how many addresses of a family are wanted.
func of(w record.Want, is4 bool) int {
	if is4 {
		return w.Addresses
	}
	return w.Addresses6
}

// give gives up a part of this host's blocks that is free, if another host wants addresses and
// finds none: half of what this host can do without, down to a single address. Guests that wait
// here go before.
func (m *pools) give(r *Request, network string, p Pool) {
	f := p.family(network)
	free, _ := m.free(network, p)
	if !m.wanting(f) || free <= m.need[f] || len(m.find(network, p, 1)) > 0 {
		return
	}
	most := (free - m.need[f] + 1) / 2
	var block, part netip.Prefix
	for _, b := range m.ownBlocks(network) {
		if b.Addr().Is4() != f.is4 {
			continue
		}
		largest := m.unusedPart(network, b, p, most)
		if largest.IsValid() && (!part.IsValid() || p.capacity(largest) > p.capacity(part)) {
			block, part = b, largest
		}
	}
	if part.IsValid() {
		m.exchange(r, network, block, record.Around(block, part))
	}
}

// merge has two halves of a block that are this host's be one again, if nobody wants addresses.
func (m *pools) merge(r *Request, network string, p Pool) {
	if m.wanting(p.family(network)) {
		return
	}
	own := m.usage(network).own
	for _, low := range m.ownBlocks(network) {
		if low.Bits() <= p.Bits || low.Addr().Is4() != p.First.Is4() {
			continue
		}
		whole, _ := low.Addr().Prefix(low.Bits() - 1)
		first, high := record.Halves(whole)
		if _, both := own[high]; first != low || !both || len(r.Txn.Then)+3 > MaxOps {
			continue
		}
		if len(m.reservedIn(network, whole)) > record.MaxWithout {
			continue
		}
		without := slices.Concat(m.view.blocks[network][low].v.Without, m.view.blocks[network][high].v.Without)
		for _, half := range []netip.Prefix{low, high} {
			r.add(Op{Key: m.path(record.KindBlock, network, record.BlockID(half))})
		}
		r.add(m.putBlock(network, whole, without))
	}
}

// unusedPart is the largest part of a block of which no address is held and that has at most so
// many.
func (m *pools) unusedPart(network string, block netip.Prefix, p Pool, most uint64) netip.Prefix {
	return unheld(block, m.usage(network).within(block), p, most)
}

func unheld(block netip.Prefix, held []netip.Addr, p Pool, most uint64) netip.Prefix {
	size := p.capacity(block)
	var within []netip.Addr
	for _, a := range held {
		if block.Contains(a) {
			within = append(within, a)
		}
	}
	switch {
	case size == 0:
		return netip.Prefix{}
	case len(within) == 0 && size <= most:
		return block
	case block.IsSingleIP():
		return netip.Prefix{}
	}
	low, high := record.Halves(block)
	a := unheld(low, within, p, most)
	if a.IsValid() && len(within) == 0 {
		return a // the other half has no more than this one had
	}
	if b := unheld(high, within, p, most); !a.IsValid() || b.IsValid() && p.capacity(b) > p.capacity(a) {
		return b
	}
	return a
}

// giveAllUp gives up blocks of a network that this host has no more.
func (m *pools) giveAllUp(r *Request, network string) {
	for _, block := range m.ownBlocks(network) {
		if m.usage(network).own[block].held == 0 && !r.add(Op{Key: m.path(record.KindBlock, network, record.BlockID(block))}) {
			return
		}
	}
}

// reserved are the addresses of a network that are reserved.
type reserved struct {
	addrs []netip.Addr // in order
	of    map[netip.Addr][]record.MAC
	open  map[netip.Addr]bool
	cards map[record.MAC][]netip.Addr
}

// reservedIn lists the addresses of a block that are reserved, in order.
func (m *pools) reservedIn(network string, block netip.Prefix) []netip.Addr {
	r := m.reserved[network]
	if r == nil {
		return nil
	}
	from, _ := slices.BinarySearchFunc(r.addrs, block.Addr(), netip.Addr.Compare)
	to := from
	for to < len(r.addrs) && block.Contains(r.addrs[to]) {
		to++
	}
	return r.addrs[from:to]
}

// putBlock makes a block this host's, without some of its addresses.
func (m *pools) putBlock(network string, block netip.Prefix, without []netip.Addr) Op {
	without = without[:min(len(without), record.MaxWithout)]
	return Op{Key: m.path(record.KindBlock, network, record.BlockID(block)), Value: record.Encode(&record.Block{Host: m.cfg.Host, Without: without})}
}

// exchange has this host have parts of a block in its place.
func (m *pools) exchange(r *Request, network string, block netip.Prefix, parts []netip.Prefix) {
	if len(r.Txn.Then)+1+len(parts) > MaxOps {
		r.full = true
		return
	}
	without := m.view.blocks[network][block].v.Without
	r.add(Op{Key: m.path(record.KindBlock, network, record.BlockID(block))})
	for _, part := range parts {
		r.add(m.putBlock(network, part, slices.DeleteFunc(slices.Clone(without), func(a netip.Addr) bool { return !part.Contains(a) })))
	}
}
