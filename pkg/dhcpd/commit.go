package dhcpd

import (
	"net/netip"
	"sync"
	"time"
)

// MaxPending is how many changes may wait for the store. More messages are
// dropped; their clients ask again.
const MaxPending = 1024

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
// the host name that the lease has: a client that says none keeps what it had.
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
	}
	if old := pl.Lease(c.Key, c.Now); old != nil && old != b {
		ch.End(pl, old, c.Now)
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
// again.
func (ch *Change) End(pl *Pool, b *Binding, now time.Time) {
	l := b.Lease
	l.State, l.Expiry = StateReleased, now
	ch.Set(pl, Released, b, l)
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

// merge is what a batch of changes amounts to: the last write of each address.
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

// Enqueue hands ch to the committer. the engine must be locked.
func (s *Engine) Enqueue(ch Change) {
	s.pending = append(s.pending, ch)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Overloaded reports, and counts, that no further change may be queued. s.mu
// must be locked.
func (s *Engine) Overloaded() bool {
	if len(s.pending) < MaxPending {
		return false
	}
	s.Count.Overload.Add(1)
	s.Log.Limited("overload", "dropping DHCP messages: the lease store is too slow")
	return true
}

// commitLoop stores what is queued until stop is closed, and then the rest. Of one
// batch it is told while the next one is on its way to the disk.
func (s *Engine) commitLoop(stop <-chan struct{}) {
	stored := make(chan commit, 1)
	var teller sync.WaitGroup
	teller.Go(func() {
		for c := range stored {
			s.answer(c)
		}
	})
	for stopping := false; !stopping; {
		select {
		case <-s.wake:
		case <-stop:
			stopping = true
		}
		stored <- s.commitPending()
	}
	close(stored)
	teller.Wait()
}

// commit is a batch of changes, and whether they are in the store.
type commit struct {
	batch []Change
	err   error
}

// commitPending stores all that is queued now as one batch.
func (s *Engine) commitPending() commit {
	s.Lock()
	batch := s.pending
	s.pending = nil
	s.Unlock()
	return commit{batch, s.store(batch)}
}

// Commit stores all that is queued now and then sends its replies. It is for an
// engine that does not run.
func (s *Engine) Commit() { s.answer(s.commitPending()) }

// answer tells of what was stored and sends the replies.
func (s *Engine) answer(c commit) {
	for _, ch := range c.batch {
		if c.err == nil || len(ch.writes) == 0 {
			s.tell(ch.events)
			s.Send(ch.Reply)
		}
		if ch.done != nil {
			ch.done <- c.err
		}
	}
}

// store commits the batch and settles it in memory.
func (s *Engine) store(batch []Change) error {
	puts, deletes := merge(batch)
	if len(puts)+len(deletes) == 0 {
		return nil
	}
	began := time.Now()
	err := s.cfg.Store.Commit(puts, deletes)
	s.Count.latency.add(time.Since(began))
	if err != nil {
		s.Count.commitFailures.Add(1)
		s.Log.Limited("commit", "leases not stored: their clients get no reply", "error", err)
	} else {
		s.Count.commits.Add(1)
		s.Count.committed.Add(uint64(len(puts) + len(deletes)))
	}
	if s.cfg.OnStore != nil && s.failing != (err != nil) {
		s.cfg.OnStore(err)
	}
	s.failing = err != nil
	s.Lock()
	defer s.Unlock()
	for _, ch := range batch {
		for _, w := range ch.writes {
			s.Pool.settle(w, err == nil)
		}
	}
	return err
}

// tell hands events to the owner.
func (s *Engine) tell(events []Event) {
	if s.cfg.OnLease == nil {
		return
	}
	for _, e := range events {
		e.Lease = e.Lease.clone()
		s.cfg.OnLease(e)
	}
}
