package dhcpd

import (
	"bytes"
	"net/netip"
	"slices"
	"time"
)

// Change is what one message changes: stored as a whole, and told only then.
type Change struct {
	writes []write
	events []Event    // that none of writes has, told first
	Reply  *Reply     // nil when there is none
	done   chan error // capacity 1, told of the commit; nil when nobody waits
}

// kept is of how many changes at most the memory is kept for the next ones.
const kept = 1024

// Empty reports whether ch changes nothing.
func (ch *Change) Empty() bool { return len(ch.writes) == 0 }

// Bind makes l the lease of c, and ends a lease of c on another address. It returns
// the host name that the lease has: a client that says none keeps what it had, and
// stays known by what it once told of itself.
// Nobody else may have the address. The engine of bs must be locked.
func (ch *Change) Bind(bs *Bindings, c *Client, l Lease) string {
	b := bs.Binding(l.Addr)
	b.via = c.Via.station()
	if hw := c.Via.HW; hw != (HWAddr{}) && !bytes.Equal(hw[:], l.MAC) {
		l.From = slices.Clone(hw[:])
	}
	kind := Bound
	if b.BoundAt(c.Now) && b.Key() == c.Key {
		kind = Renewed
		was := b.Lease()
		if !c.Named && l.Hostname == "" {
			l.Hostname = was.Hostname
		}
		l.keepIdentity(c, &was)
	}
	for _, old := range []Binding{bs.Lease(c.Key, c.Now), bs.LeaseAway(c.Key, c.Now)} {
		if !old.None() && old != b {
			ch.End(bs, old, c.Now)
		}
	}
	ch.Set(bs, kind, b, l)
	bs.Withdraw(c.Key) // not before: a binding of which nothing is known is forgotten
	return l.Hostname
}

// keepIdentity has the record of c tell what a former one of it told and c does not.
func (l *Lease) keepIdentity(c *Client, was *Lease) {
	if len(l.ClientID) == 0 {
		l.ClientID = was.ClientID
	}
	if len(l.MAC) == 0 || c.Guessed && len(was.MAC) > 0 {
		l.MAC = was.MAC
	}
}

// Set makes l the record of b, with memory of its own: who is told of it keeps it.
func (ch *Change) Set(bs *Bindings, kind EventKind, b Binding, l Lease) {
	w := bs.stage(b, l)
	w.kind = kind
	ch.add(bs, w)
}

// add makes w a part of ch, in memory of a change that is done where there is some.
func (ch *Change) add(bs *Bindings, w write) {
	if last := len(bs.room) - 1; ch.writes == nil && last >= 0 {
		ch.writes, bs.room = bs.room[last], bs.room[:last]
	}
	ch.writes = append(ch.writes, w)
}

// recycle leaves the memory of ch to others. Nobody may need it any more. The engine of bs must
// be locked.
func (ch *Change) recycle(bs *Bindings) {
	const usual = 2 // a lease, and the one that it takes the place of
	if n := cap(ch.writes); n > 0 && n <= usual && len(bs.room) < kept {
		clear(ch.writes)
		bs.room = append(bs.room, ch.writes[:0])
	}
	*ch = Change{}
}

// End releases the lease of b. The record stays, so that the client gets the address
// again, unless nobody could have it now.
func (ch *Change) End(bs *Bindings, b Binding, now time.Time) {
	l := b.Lease()
	l.State, l.Expiry = StateReleased, now
	if bs.scope.Usable(b.Addr()) {
		ch.Set(bs, Released, b, l)
		return
	}
	ch.add(bs, bs.stage(b, Lease{}))
	ch.events = append(ch.events, Event{Kind: Released, Lease: l})
}

// merger finds what a batch of changes amounts to, in memory that the next batch takes again.
type merger struct {
	last    map[netip.Addr]uint64 // the number of the last write of each address
	puts    []Lease
	deletes []netip.Addr
}

// merge returns the last write of each address, valid until release.
func (m *merger) merge(batch []Change) (puts []Lease, deletes []netip.Addr) {
	if m.last == nil {
		m.last = make(map[netip.Addr]uint64)
	}
	for i := range batch {
		for j := range batch[i].writes {
			w := &batch[i].writes[j]
			m.last[w.addr] = w.number
		}
	}
	for i := range batch {
		for j := range batch[i].writes {
			switch w := &batch[i].writes[j]; {
			case m.last[w.addr] != w.number:
			case w.lease.State == "":
				m.deletes = append(m.deletes, w.addr)
			default:
				m.puts = append(m.puts, w.lease)
			}
		}
	}
	return m.puts, m.deletes
}

// release forgets the batch, and memory of one that was far larger than those of clients are.
func (m *merger) release() {
	if len(m.last) > kept {
		*m = merger{}
		return
	}
	clear(m.last)
	clear(m.puts)
	m.puts, m.deletes = m.puts[:0], m.deletes[:0]
}
