package dhcpd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// Server is what the DHCP servers of both families offer their owner. Its methods may
// be called concurrently, except where they say otherwise.
type Server struct{ engine *Engine }

// NewServer returns the server on an engine with a transport.
func NewServer(e *Engine) Server { return Server{e} }

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
