package env

import (
	"context"
	"sync"
	"time"
)

// Tasks are what goes on when the operation that began it has ended: services that run,
// and attempts that are repeated. Its methods may be called concurrently.
type Tasks struct {
	ctx     context.Context
	stop    context.CancelFunc
	running sync.WaitGroup
}

func newTasks() *Tasks {
	t := &Tasks{}
	t.ctx, t.stop = context.WithCancel(context.Background())
	return t
}

// Context ends when the tasks are to.
func (t *Tasks) Context() context.Context { return t.ctx }

// Go runs f, which returns when Context ends at the latest.
func (t *Tasks) Go(f func()) { t.running.Go(f) }

// Close has all tasks end, and waits until they have.
func (t *Tasks) Close() {
	t.stop()
	t.running.Wait()
}

// Every does something at that pace until ctx ends.
func Every(ctx context.Context, pace time.Duration, do func()) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		do()
	}
}

// How long an attempt that failed waits before it is repeated: doubled from the first
// to the last.
const (
	retryFirst = time.Second
	retryLast  = time.Minute
)

// Repeat calls try with back-off until it says that it is done, or the tasks end.
func (t *Tasks) Repeat(try func() (done bool)) {
	t.Go(func() {
		for wait := retryFirst; ; wait = min(2*wait, retryLast) {
			select {
			case <-t.ctx.Done():
				return
			case <-time.After(wait):
			}
			if try() {
				return
			}
		}
	})
}
