package health_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network/health"
)

// TestSilentSource: a source that hangs holds up no other, is a condition of its own while what it
// said last stands, and is heard again when it answers.
func TestSilentSource(t *testing.T) {
	board := health.NewBoard(slog.New(slog.DiscardHandler), func([]string) {})
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	hang, asked := make(chan struct{}), 0
	first, second := "before", "one"
	set := func(to *string, value string) {
		mu.Lock()
		defer mu.Unlock()
		*to = value
	}
	get := func(from *string) string {
		mu.Lock()
		defer mu.Unlock()
		return *from
	}
	hangs := health.Source{Name: "that hangs", Find: func(ctx context.Context) ([]api.Condition, error) {
		if asked++; asked > 1 {
			select {
			case <-hang: // as if behind a lock that somebody holds
			case <-time.After(time.Minute):
			}
		}
		return []api.Condition{{Kind: get(&first)}}, nil
	}}
	other := health.Source{Name: "that works", Find: func(context.Context) ([]api.Condition, error) {
		return []api.Condition{{Kind: get(&second)}}, errors.New("not all")
	}}
	var running sync.WaitGroup
	running.Go(func() { board.Watch(ctx, []health.Source{hangs, other}) })
	shown := func(want ...string) {
		t.Helper()
		nstest.Eventually(t, 20*time.Second, fmt.Sprintf("the conditions are %q", want), func() error {
			var kinds []string
			for _, c := range board.Conditions() {
				kinds = append(kinds, c.Kind)
			}
			slices.Sort(kinds)
			if !slices.Equal(kinds, want) {
				return fmt.Errorf("they are %q", kinds)
			}
			return nil
		})
	}
	shown("before", "no-answer", "one")
	set(&second, "two")
	shown("before", "no-answer", "two")
	set(&first, "after")
	close(hang)
	shown("after", "two")
	cancel()
	running.Wait()
}
