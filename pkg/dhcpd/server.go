package dhcpd

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd/internal/index"
)

// tick is how often the server looks for leases that ended, and quickTick while the link's own
// memory fills so quickly that it must be looked after.
const (
	tick      = time.Second
	quickTick = tick / 20
)

// Close gives up a server that does not run. After Run, or a second time, it does
// nothing.
func (s Server) Close() error { return s.engine.close() }

// Run serves until ctx ends, which is no error, or the link fails. It returns
// when all that it started has ended: pending changes are stored, their replies
// sent and the sockets closed. It may be called once.
func (s Server) Run(ctx context.Context) error {
	e := s.engine
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stopped := make(chan struct{})
	var readers, commits sync.WaitGroup
	commits.Go(func() { committer{e}.loop(stopped) })
	readers.Go(func() { e.expireLoop(ctx) })
	for _, loop := range e.loops {
		readers.Go(func() { loop(ctx) })
	}
	readers.Go(func() { defer cancel(); e.readLoop(ctx) })
	select {
	case <-ctx.Done():
	case err := <-e.failed:
		e.Fail(err) // kept for the end
		cancel()
	}
	e.link.Interrupt()
	readers.Wait()
	close(stopped)
	commits.Wait()
	closeErr := e.close()
	select {
	case err := <-e.failed:
		return fmt.Errorf("serving DHCP: %w", errors.Join(err, closeErr))
	default:
		return closeErr
	}
}

// Sockets returns a copy of the socket that clients send to, for Open in the next
// process: what comes in after Run has ended waits there. The caller closes it.
func (s Server) Sockets() ([]*os.File, error) {
	f, err := s.engine.link.Copy()
	if err != nil {
		return nil, fmt.Errorf("copying the socket of DHCP: %w", err)
	}
	return []*os.File{f}, nil
}

// Leases returns the leases that are on disk, bound and not expired, sorted by
// address.
func (s Server) Leases() []Lease {
	now := time.Now()
	s.engine.Lock()
	defer s.engine.Unlock()
	return s.engine.Pool.leases(now)
}

// EachLease yields what Leases returns, in any order and one at a time: of many leases a list
// takes more memory than they do themselves.
func (s Server) EachLease() iter.Seq[Lease] {
	return func(yield func(Lease) bool) {
		e, now := s.engine, time.Now()
		e.Lock()
		bs := e.Pool.Bindings
		all := make([]index.Number, 0, bs.byAddr.Len())
		all = slices.AppendSeq(all, bs.byAddr.All())
		e.Unlock()
		for _, n := range all {
			var l Lease
			e.Lock()
			b := bs.at(n)
			if r := b.durable(); r.BoundAt(now) {
				l = r.lease(&bs.texts, b.Addr())
			}
			e.Unlock()
			if l.State != "" && !yield(l) {
				return
			}
		}
	}
}

// Contested lists the contested addresses, in order.
func (s Server) Contested() []Contested {
	s.engine.Lock()
	defer s.engine.Unlock()
	return s.engine.Pool.contested(time.Now())
}

// Revoke ends the lease of an address, which others say is theirs by now: its client is refused
// it when it renews. The record goes.
func (s Server) Revoke(a netip.Addr) {
	e := s.engine
	e.Lock()
	defer e.Unlock()
	b := e.Pool.Lookup(a)
	if b.None() || !b.BoundAt(time.Now()) {
		return
	}
	l := b.Lease()
	e.Enqueue(Change{writes: []write{e.Pool.stage(b, Lease{})}, events: []Event{{Kind: Released, Lease: l}}})
}

// Unused lists the reservations without effect, in the order of the settings.
func (s Server) Unused() []Unused {
	s.engine.Lock()
	defer s.engine.Unlock()
	return s.engine.Pool.scope.unused
}

// readLoop handles what comes until it is interrupted because ctx has ended, or the
// link fails. What was received is handled in any case: nobody else gets it.
func (s *Engine) readLoop(ctx context.Context) {
	for {
		all, err := s.link.Receive()
		if err != nil {
			if ctx.Err() == nil {
				s.Fail(err)
			}
			return
		}
		if c := (committer{s}); len(all) == 1 && c.take() {
			c.serve(all, time.Now())
			continue
		}
		s.Serve(all, time.Now())
	}
}

// committer is whoever stores what is queued: a goroutine, or the reader in its place.
type committer struct{ *Engine }

// quickCommit is how long a commit takes at most, as they go, that the reader itself may wait
// for: meanwhile nobody is offered anything.
const quickCommit = 2 * time.Millisecond

// take takes committing where nothing is on its way to the disk or waits to be told of, and the
// disk is quick.
func (s committer) take() bool {
	select {
	case s.committing <- struct{}{}:
	default:
		return false
	}
	if s.took < quickCommit && s.told.Load() == s.handed {
		return true
	}
	<-s.committing
	return false
}

// serve is the engine's Serve where nobody else asks: what changes is stored here, and the
// goroutine that would wake for it is left alone. It gives up committing.
func (s committer) serve(all []Datagram, now time.Time) {
	defer func() { <-s.committing }()
	s.Lock()
	s.alone = true
	s.Unlock()
	s.Serve(all, now)
	s.answer(s.commitPending())
}

// expireLoop ends leases by time, and looks after the link, until ctx ends.
func (s *Engine) expireLoop(ctx context.Context) {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			s.Expire(time.Now())
			committer{s}.retry()
			next := tick
			if s.link.Collect() {
				next = quickTick
			}
			t.Reset(next)
		}
	}
}

// retry has a store that failed asked whether it takes commits again, though no client asks for
// anything: its owner is told when it does.
func (s committer) retry() {
	select {
	case s.committing <- struct{}{}:
	default:
		return // somebody finds out
	}
	failing := s.failing
	<-s.committing
	if failing {
		s.rouse()
	}
}

// rouse has the committer look for what is to be stored.
func (s committer) rouse() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// loop stores what is queued until stop is closed, and then the rest. Of one
// batch it is told while the next one is on its way to the disk; where there is no next one
// yet, nobody else is woken for that.
func (s committer) loop(stop <-chan struct{}) {
	stored := make(chan commit, 1)
	var teller sync.WaitGroup
	teller.Go(func() {
		for c := range stored {
			s.answer(c)
			s.told.Add(1)
		}
	})
	for stopping := false; !stopping; {
		select {
		case <-s.wake:
		case <-stop:
			stopping = true
		}
		s.commitNext(stored)
	}
	close(stored)
	teller.Wait()
}

// commitNext stores what is queued, and has that told by the teller where it is at work, or
// will have something to do.
func (s committer) commitNext(stored chan<- commit) {
	s.committing <- struct{}{}
	defer func() { <-s.committing }()
	c := s.commitPending()
	if s.told.Load() == s.handed && len(s.wake) == 0 {
		s.answer(c)
		return
	}
	s.handed++
	stored <- c
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
	s.pending, s.alone = nil, false
	if last := len(s.spare) - 1; last >= 0 {
		s.pending, s.spare = s.spare[last], s.spare[:last]
	}
	s.Unlock()
	return commit{batch, s.store(batch)}
}

// Commit stores all that is queued now and then sends its replies. It is for an
// engine that does not run.
func (s *Engine) Commit() { s.answer(s.commitPending()) }

// answeredTogether is how many clients are told of before they get their replies. Of many that
// wait the first ones have theirs while it is told of the next.
const answeredTogether = 16

// answer tells of what was stored and sends the replies. The batch is not to be used any more.
func (s *Engine) answer(c commit) {
	for some := range slices.Chunk(c.batch, answeredTogether) {
		replies := s.answers[:0]
		for i := range some {
			ch := &some[i]
			if c.err == nil || len(ch.writes) == 0 {
				s.cfg.tell(ch)
				if ch.Reply != nil {
					replies = append(replies, ch.Reply)
				}
			}
		}
		s.Send(replies...)
		clear(replies)
		s.answers = replies
	}
	for i := range c.batch {
		if done := c.batch[i].done; done != nil {
			done <- c.err
		}
	}
	s.recycle(c.batch)
}

// recycle leaves the memory of a batch to the next ones, unless it is far more than clients
// need.
func (s *Engine) recycle(batch []Change) {
	if cap(batch) == 0 {
		return
	}
	s.Lock()
	defer s.Unlock()
	for i := range batch {
		batch[i].recycle(s.Pool.Bindings)
	}
	room := 2 * kept
	for _, other := range s.spare {
		room -= cap(other)
	}
	if cap(batch) <= room {
		s.spare = append(s.spare, batch[:0])
	}
}

// store commits the batch and settles it in memory.
func (s *Engine) store(batch []Change) error {
	puts, deletes := s.merged.merge(batch)
	defer s.merged.release()
	none := len(puts)+len(deletes) == 0
	if none && !s.failing {
		return nil
	}
	began := time.Now()
	err := s.cfg.Store.Commit(puts, deletes)
	took := time.Since(began)
	s.took += (took - s.took) / 8
	s.Count.latency.Add(took, 1)
	if err != nil {
		s.Count.commitFailures.Add(1)
		s.Log.Limited("leases not stored: their clients get no reply", "error", err)
	} else if !none {
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
		for i := range ch.writes {
			s.Pool.settle(&ch.writes[i], err == nil)
			reckon(s.Pool.Bindings, ch.writes[i].addr)
		}
	}
	return err
}

// tell tells the owner of a change, whose leases are the owner's then.
func (s *Settings) tell(ch *Change) {
	if s.OnLease == nil {
		return
	}
	for _, e := range ch.events {
		s.OnLease(e)
	}
	for i := range ch.writes {
		if w := &ch.writes[i]; w.kind != 0 {
			s.OnLease(Event{Kind: w.kind, Lease: w.lease})
		}
	}
}
