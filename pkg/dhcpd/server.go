package dhcpd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd/internal/iface"
)

// tick is how often the server looks for leases that ended.
const tick = time.Second

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
	var readers, committer sync.WaitGroup
	committer.Go(func() { e.commitLoop(stopped) })
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
	committer.Wait()
	closeErr := e.close()
	select {
	case err := <-e.failed:
		return fmt.Errorf("serving DHCP: %w", errors.Join(err, closeErr))
	default:
		return closeErr
	}
}

// Leave returns a copy of the socket that clients send to, for Open in the next
// process: what comes in after Run has ended waits there. The caller closes it.
func (s Server) Leave(context.Context) ([]*os.File, error) {
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

// Contested lists the contested addresses, in order.
func (s Server) Contested() []Contested {
	s.engine.Lock()
	defer s.engine.Unlock()
	return s.engine.Pool.contested(time.Now())
}

// Unused lists the reservations without effect, in the order of the settings.
func (s Server) Unused() []Unused {
	s.engine.Lock()
	defer s.engine.Unlock()
	return s.engine.Pool.scope.unused
}

// readLoop handles one datagram after the other until it is interrupted because
// ctx has ended, or the link fails. What was received is handled in any case:
// nobody else gets it.
func (s *Engine) readLoop(ctx context.Context) {
	buf := make([]byte, iface.MaxMessage)
	for {
		d, err := s.link.Receive(buf)
		if err != nil {
			if ctx.Err() == nil {
				s.Fail(err)
			}
			return
		}
		s.Serve(d, time.Now())
	}
}

// expireLoop ends leases by time until ctx ends.
func (s *Engine) expireLoop(ctx context.Context) {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			s.Expire(time.Now())
		}
	}
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
	s.Count.latency.Add(time.Since(began), 1)
	if err != nil {
		s.Count.commitFailures.Add(1)
		s.Log.Limited("leases not stored: their clients get no reply", "error", err)
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
