package cluster

import (
	"bytes"
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/vnetd/vnetd/pkg/cluster/record"
)

// How long a lease goes on that is taken on, in seconds, whatever its record says: RFC 2131 has 32
// bits for that.
const (
	leastLease = 120
	mostLease  = 1<<32 - 1
)

// promises are the leases of this host.
type promises struct {
	*state
	*cards
	*pools
	lease   map[Address]record.Lease   // what this host has promised
	ended   map[Address]struct{}       // leases that ended here and whose record is still there
	restore map[netPrefix][]netip.Addr // blocks that are written into a store that lost them, and what they are without
}

// set takes in a promise. Of one that ends as before is not told anew that it has less to run.
func (m *promises) set(a Address, l record.Lease) {
	if old, there := m.lease[a]; there && old.MAC == l.MAC && old.End == l.End {
		l.Seconds = old.Seconds
	}
	m.lease[a] = l
	delete(m.ended, a)
	m.touchAddress(a)
}

// count takes in that an address may be held or free by now.
func (m *promises) count(a Address) {
	_, promised := m.lease[a]
	m.hold(a, promised || len(m.view.leases[a]) > 0)
}

// mostLooks is how many leases are looked at before DHCP may ask something in between.
const mostLooks = 2 * MaxOps

// planLeases writes the leases of this host, the newest state of each, and takes on those
// of guests that moved here.
func (m *promises) planLeases(r *Request, now time.Time) {
	looks := 0
	m.pending.leases.keep(func(a Address) (done, stop bool) {
		if looks++; looks > mostLooks {
			r.more = true
			return false, true
		}
		path := m.path(record.KindLease, a.Network, a.Addr.String())
		mine, there := m.view.leases[a].of(m.cfg.Host)
		local, promised := m.lease[a]
		_, ended := m.ended[a]
		switch {
		case promised:
			covered := m.cover(r, a)
			text := m.wantLease(a, local, mine, there)
			if there && bytes.Equal(text, record.Encode(&mine.v)) {
				return covered, r.full
			}
			r.add(Op{Key: path, Value: text})
		case there && !ended && runs(mine.v, now):
			m.adopt(a, mine.v)
			return true, false
		case there:
			r.add(Op{Key: path})
		default: // what its guest has given back here is not taken on from another host's older record
			delete(m.ended, a)
			return ended || !m.takeOn(r, a, path, now), r.full
		}
		return false, r.full
	})
}

// cover claims the block of an address that this host has promised, where nobody has it: of a network
// that became the cluster's with guests at work. It returns true if there is nothing to claim.
func (m *promises) cover(r *Request, a Address) bool {
	p, lent := m.pool(a)
	if _, host := m.view.owner(a); !lent || host != "" {
		return true
	}
	if !m.view.complete() {
		return false // whose blocks there are is not known
	}
	block := p.base(a.Addr)
	for divided := m.divided(a.Network, p); divided[block]; {
		low, high := record.Halves(block)
		if block = low; high.Contains(a.Addr) {
			block = high
		}
	}
	key := m.path(record.KindBlock, a.Network, record.BlockID(block))
	if !slices.ContainsFunc(r.Txn.Then, func(op Op) bool { return op.Key == key }) {
		r.add(m.putBlock(a.Network, block, m.reservedIn(a.Network, block)), m.unclaimed(a.Network, block, p)...)
	}
	return false
}

// wantLease is the record of a promise of this host.
func (m *promises) wantLease(a Address, l record.Lease, mine kept[record.Lease], there bool) []byte {
	l.Seq = 1
	if there && mine.v.MAC == l.MAC {
		l.Seq, l.Head = mine.v.Seq, mine.v.Head
	} else if _, newest := m.view.newest(a); newest.mod != 0 {
		l.Seq = after(newest.v.Seq)
	}
	return record.Encode(&l)
}

// runs reports whether a lease of this host has not ended.
func runs(l record.Lease, now time.Time) bool { return l.End == 0 || l.End > now.Unix() }

// adopt makes a lease that this host wrote, and does not know, its own: one that it has
// taken on, or that its disk has lost.
func (m *promises) adopt(a Address, l record.Lease) {
	m.lease[a] = l
	m.count(a)
	m.changes.Adopted = append(m.changes.Adopted, a)
}

// takeOn asks for the lease of a guest that moved here, so that this host may renew it:
// only if the record is still the one that was found. It returns false if there is none. By whose
// clock the lease has ended does not count: its host takes the record back once it has. It goes on
// for as long as it was given for at most, which is not less than what the guest knows.
func (m *promises) takeOn(r *Request, a Address, path string, now time.Time) bool {
	host, l := m.view.newest(a)
	g := Guest{a.Network, l.v.MAC}
	if host == "" || host == m.cfg.Host || !m.view.allows(a, l.v.MAC) || !m.sends(g) {
		return false
	}
	theirs := record.Key{Kind: record.KindLease, Host: host, Network: a.Network, ID: a.Addr.String()}.Path(m.cfg.Cluster)
	mine := l.v
	mine.Seq = after(mine.Seq)
	if mine.End != 0 {
		mine.Seconds = min(max(mine.Seconds, leastLease), mostLease)
		mine.End = now.Unix() + mine.Seconds
	}
	r.add(Op{Key: path, Value: record.Encode(&mine)}, Compare{Key: theirs, Mod: l.mod})
	return true
}

// planRestoredLeases writes this host's leases into a store that lost them, where nobody
// else has given the address to another card.
func (m *promises) planRestoredLeases(r *Request, _ time.Time) {
	if !m.restoring {
		return
	}
	m.pending.leases.keep(func(a Address) (done, stop bool) {
		l, promised := m.lease[a]
		mine, there := m.view.leases[a].of(m.cfg.Host)
		if !promised {
			return !there, false // what ended meanwhile goes once this host has joined
		}
		if !m.view.allows(a, l.MAC) {
			m.giveUp(a)
			return true, false
		}
		text := m.wantLease(a, l, mine, there)
		if there && bytes.Equal(text, record.Encode(&mine.v)) {
			return true, false
		}
		r.add(Op{Key: m.path(record.KindLease, a.Network, a.Addr.String()), Value: text})
		return false, r.full
	})
}

// mayLease is MayLease with the lock held.
func (m *promises) mayLease(a Address, mac record.MAC) bool {
	l, promised := m.lease[a]
	if promised {
		return l.MAC == mac
	}
	if m.twin {
		return false
	}
	if other, doubted := m.doubt.leases[a]; doubted && other != mac {
		return false
	}
	if m.before != nil && !m.before.allows(a, mac) {
		return false
	}
	for host, l := range m.view.leases[a].all() {
		if host != m.cfg.Host || l.v.MAC != mac {
			return false // of another host's only once it is taken on
		}
	}
	if right, there := m.view.rights[a]; there {
		_, doubted := m.doubt.keys[m.path(record.KindRight, a.Network, a.Addr.String())]
		return right.v.Host == m.cfg.Host && !doubted
	}
	block, host := m.view.owner(a)
	return host == m.cfg.Host && !m.view.without(a.Network, block, a.Addr) && !m.doubt.gives(a, block)
}

// giveUp ends a promise that this host may not keep.
func (m *promises) giveUp(a Address) {
	delete(m.lease, a)
	m.count(a)
	m.changes.GivenUp = append(m.changes.GivenUp, a)
}

// touchAddress has all looked at that hangs on an address.
func (m *promises) touchAddress(a Address) {
	m.pending.leases.push(a)
	m.pending.rights.push(a)
	if r := m.reserved[a.Network]; r != nil {
		if _, reserved := r.of[a.Addr]; reserved {
			m.pending.cedes.push(a.Network)
		}
	}
	m.count(a)
}

// planRestore writes this host's blocks into a store that lost them, where nobody else
// has them by now.
func (m *promises) planRestore(r *Request, _ time.Time) {
	if !m.restoring {
		return
	}
	m.dropStale(r)
	if len(r.Txn.Then) > 0 {
		return
	}
	for _, b := range m.toRestore() {
		other, host, overlaps := m.view.overlap(b)
		op := m.putBlock(b.network, b.block, m.restore[b])
		switch {
		case overlaps && host == m.cfg.Host && other == b.block:
			if !slices.Equal(m.view.blocks[b.network][b.block].v.Without, m.restore[b]) && !r.add(op) {
				return
			}
		case overlaps && m.view.awaits(host):
			r.wait = true // it has still to say what it has
		case overlaps:
			m.concede(b)
		case !r.add(op, m.unclaimed(b.network, b.block, Pool{})...):
			return
		}
	}
}

// toRestore are the blocks that are written into a store that lost them, in order.
func (m *promises) toRestore() []netPrefix {
	return slices.SortedFunc(maps.Keys(m.restore), func(a, b netPrefix) int {
		return cmp.Or(cmp.Compare(a.network, b.network), a.block.Compare(b.block))
	})
}

// dropStale gives up blocks that the store says are this host's, and that it had given up, and
// all rights: what others have since is not known.
func (m *promises) dropStale(r *Request) {
	for network, blocks := range m.view.blocks {
		for block, b := range blocks {
			if _, has := m.restore[netPrefix{network, block}]; b.v.Host == m.cfg.Host && !has {
				r.add(Op{Key: m.path(record.KindBlock, network, record.BlockID(block))})
			}
		}
	}
	for a, right := range m.view.rights {
		if right.v.Host == m.cfg.Host {
			r.add(Op{Key: m.path(record.KindRight, a.Network, a.Addr.String())})
		}
	}
	slices.SortFunc(r.Txn.Then, func(a, b Op) int { return cmp.Compare(a.Key, b.Key) })
}

// concede leaves a block to who has it by now, and with it what this host promised of it.
func (m *promises) concede(b netPrefix) {
	delete(m.restore, b)
	m.changes.Conceded = append(m.changes.Conceded, Block{b.network, b.block})
	for _, a := range sortedAddresses(m.lease) {
		if a.Network == b.network && b.block.Contains(a.Addr) {
			m.giveUp(a)
		}
	}
}

// distrust has this host give nothing by what the store says it has and it had given up.
func (m *promises) distrust(next *view) {
	for network, blocks := range next.blocks {
		for block, b := range blocks {
			if _, has := m.restore[netPrefix{network, block}]; b.v.Host == m.cfg.Host && !has {
				m.doubt.gone = append(m.doubt.gone, netPrefix{network, block})
			}
		}
	}
	for a, right := range next.rights {
		if right.v.Host == m.cfg.Host {
			m.doubt.keys[m.path(record.KindRight, a.Network, a.Addr.String())] = struct{}{}
		}
	}
}

// wishFor is how long the right to give an address is held for a client that has asked for it,
// unless its port ends before.
const wishFor = time.Minute

// rights are those to give addresses that are no host's by its blocks: reserved ones, since the
// client for which one is reserved may be on any host, and those that ports ask for. Definitions
// reach hosts at different times, and a host that is cut off not at all. So a host gives a
// reserved address only with the Right to it, which one host has at a time, and nobody has while
// a block with the address is not without it.
type rights struct {
	*promises
	wishes map[Address]wish
}

// wish is that of a client of this host for an address.
type wish struct {
	mac   record.MAC
	until time.Time
}

// reserve makes known which addresses of a network are reserved.
func (m *rights) reserve(network string, all []Reservation) {
	old := m.reserved[network]
	now := &reserved{open: make(map[netip.Addr]bool), cards: make(map[record.MAC][]netip.Addr), of: make(map[netip.Addr][]record.MAC, len(all))}
	for _, r := range all {
		now.of[r.Addr] = append(now.of[r.Addr], r.Cards...)
		now.open[r.Addr] = now.open[r.Addr] || r.Open
		for _, mac := range r.Cards {
			now.cards[mac] = append(now.cards[mac], r.Addr)
		}
	}
	now.addrs = slices.SortedFunc(maps.Keys(now.of), netip.Addr.Compare)
	if m.reserved[network] = now; len(all) == 0 {
		delete(m.reserved, network)
	}
	for _, r := range []*reserved{old, now} {
		if r == nil {
			continue
		}
		for _, addr := range r.addrs {
			m.pending.rights.push(Address{network, addr})
		}
	}
	for a, right := range m.view.rights {
		if a.Network == network && right.v.Host == m.cfg.Host {
			m.pending.rights.push(a)
		}
	}
	m.pending.cedes.push(network)
}

// asks takes in that a port of this host came, 1, or went, -1, by which a card may ask for
// addresses.
func (m *rights) asks(g Guest, p Port, came int) {
	m.touchReserved(g)
	for _, addr := range p.Addresses {
		a := Address{g.Network, addr}
		if m.asked[a] += came; m.asked[a] == 0 {
			delete(m.asked, a)
		}
		m.pending.rights.push(a)
	}
}

// touchReserved has the rights looked at to addresses that are reserved for a card, or that it
// has asked for. One that does not send from here wishes for nothing.
func (m *rights) touchReserved(g Guest) {
	if p := m.ports[g]; p == nil || p.lost {
		for _, a := range sortedAddresses(m.wishes) {
			if a.Network == g.Network && m.wishes[a].mac == g.MAC {
				delete(m.wishes, a)
				m.pending.rights.push(a)
			}
		}
	}
	if r := m.reserved[g.Network]; r != nil {
		for _, addr := range r.cards[g.MAC] {
			m.pending.rights.push(Address{g.Network, addr})
		}
	}
}

// touchRights has the rights looked at to addresses of a block that has changed.
func (m *rights) touchRights(network string, block netip.Prefix) {
	for _, addr := range m.reservedIn(network, block) {
		m.pending.rights.push(Address{network, addr})
	}
	for _, all := range [][]Address{sortedAddresses(m.wishes), sortedAddresses(m.asked)} {
		for _, a := range all {
			if a.Network == network && block.Contains(a.Addr) {
				m.pending.rights.push(a)
			}
		}
	}
}

// wants reports whether a client of this host may ask for an address that is reserved for it.
func (m *rights) wants(a Address) bool {
	if m.asked[a] > 0 {
		return true
	}
	r := m.reserved[a.Network]
	if r == nil {
		return false
	}
	if w, asked := m.wishes[a]; asked && (r.open[a.Addr] || slices.Contains(r.of[a.Addr], w.mac)) {
		return true
	}
	return slices.ContainsFunc(r.of[a.Addr], func(mac record.MAC) bool {
		p := m.ports[Guest{a.Network, mac}]
		return p != nil && !p.lost
	})
}

// waiting are the reserved addresses that no client of this host is given before another one that is
// silent gives them up, and that host.
func (m *rights) waiting() map[Address]string {
	all := make(map[Address]string)
	for network, r := range m.reserved {
		for _, addr := range r.addrs {
			a := Address{network, addr}
			host := m.holder(a)
			if _, alive := m.view.alive[host]; host != "" && host != m.cfg.Host && !alive {
				all[a] = host
			}
		}
	}
	return all
}

// holder is the host that a reserved address is to come from: it has a block with the address, or
// the right to give it, which a client of this host wants. It is "" for none.
func (m *rights) holder(a Address) string {
	block, host := m.view.owner(a)
	if host != "" && !m.view.without(a.Network, block, a.Addr) {
		return host
	}
	if m.wants(a) {
		return m.view.rights[a].v.Host
	}
	return ""
}

// planRights has this host's blocks be without the addresses that are reserved, and claims and
// gives up the rights to such.
func (m *rights) planRights(r *Request, now time.Time) {
	for _, a := range sortedAddresses(m.wishes) {
		if now.After(m.wishes[a].until) {
			delete(m.wishes, a)
			m.pending.rights.push(a)
		}
	}
	if !m.view.complete() {
		return // whose rights there are is not known
	}
	m.pending.cedes.keep(func(network string) (done, stop bool) {
		before := len(r.Txn.Then)
		m.cede(r, network)
		return len(r.Txn.Then) == before, r.full
	})
	if len(r.Txn.Then) > 0 {
		return
	}
	m.pending.rights.keep(func(a Address) (done, stop bool) {
		before := len(r.Txn.Then)
		m.planRight(r, a)
		return len(r.Txn.Then) == before, r.full
	})
}

// planRight claims the right to an address, or gives it up.
func (m *rights) planRight(r *Request, a Address) {
	key := m.path(record.KindRight, a.Network, a.Addr.String())
	right, there := m.view.rights[a]
	wanted := m.wants(a)
	switch {
	case there && right.v.Host == m.cfg.Host && !wanted:
		_, promised := m.lease[a]
		if _, told := m.view.leases[a].of(m.cfg.Host); !promised && !told {
			r.add(Op{Key: key})
		}
	case !there && wanted:
		compares, ok := m.withoutOwner(a)
		if ok {
			r.add(Op{Key: key, Value: record.Encode(&record.Right{Host: m.cfg.Host})}, append(compares, Compare{Key: key})...)
		}
	}
}

// withoutOwner are the comparisons that hold if no host may give an address as one of its
// blocks; false where one may.
func (m *rights) withoutOwner(a Address) (compares []Compare, ok bool) {
	block, host := m.view.owner(a)
	if host != "" && !m.view.without(a.Network, block, a.Addr) {
		return nil, false
	}
	for bits := minPool(a.Addr); bits <= a.Addr.BitLen(); bits++ {
		p, _ := a.Addr.Prefix(bits)
		key := m.path(record.KindBlock, a.Network, record.BlockID(p))
		compares = append(compares, Compare{Key: key, Mod: m.view.keys[key].mod})
	}
	return compares, true
}

// cede writes what the blocks of this host are without. An address that this host has
// promised, and whose record is not written yet, stays in: without that nobody would know.
func (m *rights) cede(r *Request, network string) {
	for _, block := range m.ownBlocks(network) {
		have := m.view.blocks[network][block].v
		all := m.reservedIn(network, block)
		var want []netip.Addr
		for _, addr := range all {
			a := Address{network, addr}
			_, promised := m.lease[a]
			_, told := m.view.leases[a].of(m.cfg.Host)
			if !promised || told || slices.Contains(have.Without, addr) {
				want = append(want, addr)
			}
		}
		switch {
		case len(all) > record.MaxWithout && block.Bits() < block.Addr().BitLen():
			low, high := record.Halves(block)
			m.exchange(r, network, block, []netip.Prefix{low, high})
		case !slices.Equal(want, have.Without):
			r.add(m.putBlock(network, block, want))
		}
		if r.full {
			return
		}
	}
}

// Want says that a client of this host asks for an address that is reserved for it, and that
// this host may not give: it asks the store for the right to.
func (m *rights) Want(a Address, mac record.MAC, now time.Time) {
	m.mu.Lock()
	defer func() { m.mu.Unlock(); ring(m.wakes) }()
	if _, asked := m.wishes[a]; !asked {
		m.pending.rights.push(a)
	}
	m.wishes[a] = wish{mac, now.Add(wishFor)}
}
