package firewall

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
)

// waitFor waits until so many requests are in the queue.
func waitFor(t *testing.T, q *queue, requests int) {
	t.Helper()
	nstest.Eventually(t, 20*time.Second, "requests in the queue", func() error {
		q.mu.Lock()
		defer q.mu.Unlock()
		if len(q.waiting) != requests {
			return fmt.Errorf("%d requests wait, want %d", len(q.waiting), requests)
		}
		return nil
	})
}

// recorder is a Writer that notes what it is asked to apply, and does nothing.
type recorder struct {
	Writer
	applied [][]Change
}

func (r *recorder) Apply(_ context.Context, _ Desired, changes []Change) error {
	r.applied = append(r.applied, changes)
	return nil
}

// Sets that wait for their turn become one transaction.
func TestWaitingSetsAreJoined(t *testing.T) {
	w := &recorder{}
	f := New(w, Config{})
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	const networks = 5
	errs := make([]error, networks+1)
	var running sync.WaitGroup
	f.mu.Lock()
	for i := range errs {
		ctx := t.Context()
		if i == networks {
			ctx = cancelled
		}
		n := Network{Bridge: fmt.Sprintf("virbr%d", i), Mode: ModeNAT, DHCP: true, Subnets: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.0.%d.0/24", i))}}
		running.Go(func() { errs[i] = f.submit(&request{ctx: ctx, network: n, set: true}) })
	}
	waitFor(t, &f.queue, len(errs))
	f.mu.Unlock()
	running.Wait()
	if err := errors.Join(errs[:networks]...); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(errs[networks], context.Canceled) {
		t.Errorf("the cancelled Set says %v", errs[networks])
	}
	if len(w.applied) != 1 || len(w.applied[0]) != networks {
		t.Errorf("applied %v, want the changes of %d networks at once", w.applied, networks)
	}
	if len(f.desired) != networks {
		t.Errorf("%d networks stand, want %d", len(f.desired), networks)
	}
}

// Requests for one bridge are not carried out together: the later one depends on
// the earlier.
func TestQueueKeepsOrderOfABridge(t *testing.T) {
	var q queue
	for _, bridge := range []string{"a", "b", "a", "c"} {
		q.add(&request{network: Network{Bridge: bridge}})
	}
	for _, want := range []int{2, 2, 0} {
		if got := len(q.take()); got != want {
			t.Errorf("took %d requests, want %d", got, want)
		}
	}
}

// hanging is a Writer whose programs do not end.
type hanging struct {
	Writer
	begun, end chan struct{}
}

func (h hanging) Complete(context.Context, Desired, bool) (Report, error) {
	close(h.begun)
	<-h.end
	return Report{}, nil
}

// The counts are told while a repair hangs.
func TestCountsWhileARepairHangs(t *testing.T) {
	h := hanging{begun: make(chan struct{}), end: make(chan struct{})}
	f := New(h, Config{})
	var running sync.WaitGroup
	running.Go(func() { _, _ = f.repair(t.Context(), finding{}, false) })
	<-h.begun
	counted := make(chan Stats, 1)
	running.Go(func() { counted <- f.Stats() })
	select {
	case s := <-counted:
		if s.Checks != 1 {
			t.Errorf("%d checks, want 1", s.Checks)
		}
	case <-time.After(20 * time.Second):
		t.Error("no counts")
	}
	close(h.end)
	running.Wait()
}
