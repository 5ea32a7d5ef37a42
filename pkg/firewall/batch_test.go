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

// Sets that wait for their turn become one transaction: here, where iptables makes
// the chains, one commit for each table and family.
func TestWaitingSetsAreJoined(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		f, err := New(t.Context(), Config{IPTables: "iptables-nft", IP6Tables: "ip6tables-nft"})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		const networks = 5
		errs := make([]error, networks+1)
		var running sync.WaitGroup
		f.mu.Lock()
		before := f.memory.generation()
		for i := range errs {
			ctx := t.Context()
			if i == networks {
				ctx = cancelled
			}
			n := Network{Bridge: fmt.Sprintf("virbr%d", i), Mode: ModeNAT, DHCP: true, Subnets: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.0.%d.0/24", i))}}
			running.Go(func() { errs[i] = f.Set(ctx, n) })
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
		f.mu.Lock()
		defer f.mu.Unlock()
		if commits := f.memory.generation() - before; commits != 6+1 {
			t.Errorf("%d commits, want 3 tables in 2 families and the hold", commits)
		}
		if len(f.standing.entries) != networks {
			t.Errorf("%d networks stand, want %d", len(f.standing.entries), networks)
		}
	})
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
