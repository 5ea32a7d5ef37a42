package dhcpd

import (
	"net/netip"
	"sync"
	"time"
)

// maxPending is how many changes may wait for the store. More messages are
// dropped; their clients ask again.
const maxPending = 1024

// write is one record on its way to the store: a put, or a delete when the
// lease's State is empty.
type write struct {
	addr   netip.Addr
	lease  Lease
	number uint64
}

// change is what one message changes: stored as a whole, and told only then.
type change struct {
	writes []write
	events []Event
	reply  *outgoing  // nil when there is none
	done   chan error // capacity 1, told of the commit; nil when nobody waits
}

// stage makes l the record of b in memory, to be stored. The caller hands the
// write to the committer.
func (pl *pool) stage(b *binding, l Lease) write {
	pl.writes++
	b.latest = pl.writes
	b.pending++
	pl.setLease(b, l)
	return write{addr: b.addr, lease: l, number: pl.writes}
}

// settle notes that w reached the store, or undoes it: the record becomes what
// the store has, unless a later write has changed it since.
func (pl *pool) settle(w write, stored bool) {
	b := pl.bindings[w.addr]
	if b == nil || b.pending == 0 {
		return // the address left the subnet by Reconfigure
	}
	b.pending--
	switch {
	case stored:
		b.durable = w.lease
		pl.arrange(b)
	case b.latest == w.number:
		pl.setLease(b, b.durable)
	}
}

// merge is what a batch of changes amounts to: the last write of each address.
func merge(batch []change) (puts []Lease, deletes []netip.Addr) {
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

// enqueue hands ch to the committer. s.mu must be locked.
func (s *engine) enqueue(ch change) {
	s.pending = append(s.pending, ch)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// overloaded reports, and counts, that no further change may be queued. s.mu
// must be locked.
func (s *engine) overloaded() bool {
	if len(s.pending) < maxPending {
		return false
	}
	s.count.overload.Add(1)
	s.warn("overload", "dropping DHCP messages: the lease store is too slow")
	return true
}

// commitLoop stores what is queued until stop is closed, and then the rest. Of one
// batch it is told while the next one is on its way to the disk.
func (s *engine) commitLoop(stop <-chan struct{}) {
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
	batch []change
	err   error
}

// commitPending stores all that is queued now as one batch.
func (s *engine) commitPending() commit {
	s.mu.Lock()
	batch := s.pending
	s.pending = nil
	s.mu.Unlock()
	return commit{batch, s.store(batch)}
}

// answer tells of what was stored and sends the replies.
func (s *engine) answer(c commit) {
	for _, ch := range c.batch {
		if c.err == nil || len(ch.writes) == 0 {
			s.tell(ch.events)
			s.send(ch.reply)
		}
		if ch.done != nil {
			ch.done <- c.err
		}
	}
}

// store commits the batch and settles it in memory.
func (s *engine) store(batch []change) error {
	puts, deletes := merge(batch)
	if len(puts)+len(deletes) == 0 {
		return nil
	}
	began := time.Now()
	err := s.leases.Commit(puts, deletes)
	s.count.latency.add(time.Since(began))
	if err != nil {
		s.count.commitFailures.Add(1)
		s.warn("commit", "leases not stored: their clients get no reply", "error", err)
	} else {
		s.count.commits.Add(1)
		s.count.committed.Add(uint64(len(puts) + len(deletes)))
	}
	if s.onStore != nil && s.failing != (err != nil) {
		s.onStore(err)
	}
	s.failing = err != nil
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ch := range batch {
		for _, w := range ch.writes {
			s.pool.settle(w, err == nil)
		}
	}
	return err
}

// tell hands events to the owner.
func (s *engine) tell(events []Event) {
	if s.onLease == nil {
		return
	}
	for _, e := range events {
		e.Lease = e.Lease.clone()
		s.onLease(e)
	}
}
