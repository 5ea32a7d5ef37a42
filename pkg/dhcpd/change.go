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
	events []Event
	Reply  *Reply     // nil when there is none
	done   chan error // capacity 1, told of the commit; nil when nobody waits
}

// Empty reports whether ch changes nothing.
func (ch *Change) Empty() bool { return len(ch.writes) == 0 }

// Bind makes l the lease of c, and ends a lease of c on another address. It returns
// the host name that the lease has: a client that says none keeps what it had, and
// stays known by what it once told of itself.
// Nobody else may have the address. The engine of bs must be locked.
func (ch *Change) Bind(bs *Bindings, c *Client, l Lease) string {
	bs.Withdraw(c.Key)
	b := bs.Binding(l.Addr)
	b.via = c.Via
	if hw := c.Via.HW; hw != (HWAddr{}) && !bytes.Equal(hw[:], l.MAC) {
		l.From = slices.Clone(hw[:])
	}
	kind := Bound
	if b.Lease.BoundAt(c.Now) && b.Key == c.Key {
		kind = Renewed
		if !c.Named && l.Hostname == "" {
			l.Hostname = b.Lease.Hostname
		}
		l.keepIdentity(c, &b.Lease)
	}
	for _, old := range []*Binding{bs.Lease(c.Key, c.Now), bs.LeaseAway(c.Key, c.Now)} {
		if old != nil && old != b {
			ch.End(bs, old, c.Now)
		}
	}
	ch.Set(bs, kind, b, l)
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

// Set makes l the record of b.
func (ch *Change) Set(bs *Bindings, kind EventKind, b *Binding, l Lease) {
	ch.writes = append(ch.writes, bs.stage(b, l))
	ch.events = append(ch.events, Event{Kind: kind, Lease: l})
}

// End releases the lease of b. The record stays, so that the client gets the address
// again, unless nobody could have it now.
func (ch *Change) End(bs *Bindings, b *Binding, now time.Time) {
	l := b.Lease
	l.State, l.Expiry = StateReleased, now
	if bs.scope.Usable(b.Addr) {
		ch.Set(bs, Released, b, l)
		return
	}
	ch.writes = append(ch.writes, bs.stage(b, Lease{}))
	ch.events = append(ch.events, Event{Kind: Released, Lease: l})
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
