package dhcpd

import (
	"net/netip"
	"time"
)

// write is one record on its way to the store: a put, or a delete when the
// lease's State is empty.
type write struct {
	addr   netip.Addr
	lease  Lease
	number uint64
}

// Change is what one message changes: stored as a whole, and told only then.
type Change struct {
	writes []write
	events []Event
	Reply  *Reply     // nil when there is none
	done   chan error // capacity 1, told of the commit; nil when nobody waits
}

// Empty reports whether ch changes nothing.
func (ch *Change) Empty() bool { return len(ch.writes) == 0 }

// Bind makes l the lease of c, and ends a lease of c on another address. It returns
// the host name that the lease has: a client that says none keeps what it had, and
// stays known by what it once told of itself.
// Nobody else may have the address. The engine of pl must be locked.
func (ch *Change) Bind(pl *Pool, c *Client, l Lease) string {
	pl.Withdraw(c.Key)
	b := pl.Binding(l.Addr)
	kind := Bound
	if b.Lease.BoundAt(c.Now) && b.Key == c.Key {
		kind = Renewed
		if !c.Named && l.Hostname == "" {
			l.Hostname = b.Lease.Hostname
		}
		l.keepIdentity(c, &b.Lease)
	}
	for _, old := range []*Binding{pl.Lease(c.Key, c.Now), pl.LeaseAway(c.Key, c.Now)} {
		if old != nil && old != b {
			ch.End(pl, old, c.Now)
		}
	}
	ch.Set(pl, kind, b, l)
	return l.Hostname
}

// Set makes l the record of b.
func (ch *Change) Set(pl *Pool, kind EventKind, b *Binding, l Lease) {
	ch.writes = append(ch.writes, pl.stage(b, l))
	ch.events = append(ch.events, Event{Kind: kind, Lease: l})
}

// End releases the lease of b. The record stays, so that the client gets the address
// again, unless nobody could have it now.
func (ch *Change) End(pl *Pool, b *Binding, now time.Time) {
	l := b.Lease
	l.State, l.Expiry = StateReleased, now
	if pl.scope.Usable(b.Addr) {
		ch.Set(pl, Released, b, l)
		return
	}
	ch.writes = append(ch.writes, pl.stage(b, Lease{}))
	ch.events = append(ch.events, Event{Kind: Released, Lease: l})
}

// stage makes l the record of b in memory, to be stored. The caller hands the
// write to the committer.
func (pl *Pool) stage(b *Binding, l Lease) write {
	pl.writes++
	b.latest = pl.writes
	b.pending++
	pl.setLease(b, l)
	return write{addr: b.Addr, lease: l, number: pl.writes}
}

// settle notes that w reached the store, or undoes it: the record becomes what
// the store has, unless a later write has changed it since.
func (pl *Pool) settle(w write, stored bool) {
	b := pl.bindings[w.addr]
	if b == nil || b.pending == 0 {
		return // the address left the subnet by Reconfigure
	}
	b.pending--
	switch {
	case stored:
		b.Durable = w.lease
		pl.arrange(b)
	case b.latest == w.number:
		pl.setLease(b, b.Durable)
	}
}

// merge returns what a batch of changes amounts to: the last write of each address.
func merge(batch []Change) (puts []Lease, deletes []netip.Addr) {
	last := make(map[netip.Addr]uint64)
	for _, c := range batch {
		for _, w := range c.writes {
			last[w.addr] = w.number
		}
	}
	for _, c := range batch {
		for _, w := range c.writes {
			switch {
			case last[w.addr] != w.number:
			case w.lease.State == "":
				deletes = append(deletes, w.addr)
			default:
				puts = append(puts, w.lease)
			}
		}
	}
	return puts, deletes
}
