package drift_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/network/drift"
)

// slow is an owner of one network at which looking takes long, though not the processor's
// time.
type slow struct{ looks chan drift.Suspects }

func (slow) Active() []string { return []string{"one"} }

func (s slow) Mend(ctx context.Context, _ string, suspected func() drift.Suspects, _ bridge.Amend) error {
	select {
	case <-ctx.Done():
	case <-time.After(400 * time.Millisecond):
	}
	select {
	case s.looks <- suspected():
	case <-ctx.Done():
	}
	return nil
}

// TestAuditOnABusyMachine: audits come as often where each takes long because the machine has
// much else to do.
func TestAuditOnABusyMachine(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	owner := slow{make(chan drift.Suspects)}
	var running sync.WaitGroup
	running.Go(func() { drift.NewKeeper(slog.New(slog.DiscardHandler)).Run(ctx, owner) })
	for i := range 3 {
		select {
		case what := <-owner.looks:
			if !what.Bridge || !what.AllPorts {
				t.Errorf("audit %d looks at %+v", i, what)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("no audit but %d", i)
		}
	}
	cancel()
	running.Wait()
}

// waiting is an owner of networks whose turn comes when the test says so.
type waiting struct {
	begun chan string
	turn  chan struct{}
	mu    sync.Mutex
	looks map[string][]drift.Suspects // guarded by mu
}

func (*waiting) Active() []string { return nil }

func (w *waiting) Mend(_ context.Context, network string, suspected func() drift.Suspects, _ bridge.Amend) error {
	w.begun <- network
	<-w.turn
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks[network] = append(w.looks[network], suspected())
	return nil
}

// TestOneLook has a network be looked at once for all that comes to be suspected before it is its turn.
func TestOneLook(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := &waiting{begun: make(chan string, 3), turn: make(chan struct{}, 3), looks: make(map[string][]drift.Suspects)}
	k := drift.NewKeeper(slog.New(slog.DiscardHandler))
	var running sync.WaitGroup
	running.Go(func() { k.Run(ctx, w) })
	k.Suspect("one", drift.Suspects{Bridge: true})
	<-w.begun
	k.Suspect("one", drift.Suspects{Ports: []int{7}})
	k.Suspect("two", drift.All())
	for range 3 { // one of them for a look that should not be
		w.turn <- struct{}{}
	}
	<-w.begun // all that is suspected by then is looked at together
	cancel()
	running.Wait()
	if got := w.looks["one"]; len(got) != 1 || !got[0].Bridge || !got[0].Has(7) {
		t.Errorf("the network is looked at for %+v, want once for all", got)
	}
}

// TestEndedHalfway tells of repairs that failed, but not of those that the end of vnetd has
// interrupted.
func TestEndedHalfway(t *testing.T) {
	var log strings.Builder
	k := drift.NewKeeper(slog.New(slog.NewTextHandler(&log, nil)))
	for _, c := range []struct {
		err  error
		told bool
	}{
		{fmt.Errorf("looking at the bridge: %w", context.Canceled), false},
		{errors.New("the kernel refuses"), true},
	} {
		log.Reset()
		if err := k.Now("net", func(bridge.Amend) error { return c.err }); !errors.Is(err, c.err) {
			t.Errorf("of %v is returned %v", c.err, err)
		}
		if told := log.Len() > 0; told != c.told {
			t.Errorf("of %v is told: %v, want %v\n%s", c.err, told, c.told, &log)
		}
	}
}
