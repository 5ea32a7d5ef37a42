package bridge_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/bridge"
)

// watch starts a Watch that ends with the test and returns its events, when it
// can't miss one any more.
func watch(t *testing.T, b *bridge.Bridges) <-chan bridge.LinkEvent {
	t.Helper()
	events := make(chan bridge.LinkEvent, 10000)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Watch(ctx, func(e bridge.LinkEvent) { events <- e }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
	await(t, events, func(e bridge.LinkEvent) bool { return e.Resync })
	return events
}

// await waits for an event and returns it and all before it.
func await(t *testing.T, events <-chan bridge.LinkEvent, want func(bridge.LinkEvent) bool) []bridge.LinkEvent {
	t.Helper()
	var seen []bridge.LinkEvent
	deadline := time.After(soon)
	for {
		select {
		case e := <-events:
			seen = append(seen, e)
			if want(e) {
				return seen
			}
		case <-deadline:
			t.Fatalf("no such event; there were %+v", seen)
		}
	}
}

func TestWatchSeesPortsComeAndGo(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		index := ensure(t, b, defaultConfig())
		events := watch(t, b)
		f, port := openTAP(t, "vnet0")
		attach(t, b, index, port, bridge.PortConfig{})
		seen := await(t, events, func(e bridge.LinkEvent) bool { return e.Index == port && e.Master == index && e.Up })
		want, err := b.LookupIndex(port)
		if diff := cmp.Diff(want, seen[len(seen)-1].Link); err != nil || diff != "" {
			t.Errorf("the event tells something else than Lookup, %v (-want +got):\n%s", err, diff)
		}
		if err := b.Detach(port); err != nil {
			t.Fatal(err)
		}
		seen = await(t, events, func(e bridge.LinkEvent) bool { return e.Index == port && e.Master == 0 })
		_ = f.Close()
		seen = append(seen, await(t, events, func(e bridge.LinkEvent) bool { return e.Index == port && e.Deleted })...)
		seen = slices.DeleteFunc(seen, func(e bridge.LinkEvent) bool { return !e.Deleted })
		if len(seen) != 1 {
			t.Errorf("%d deletions reported, want one: leaving the bridge is none", len(seen))
		}
	})
}

func TestWatchSeesTheBridgeGo(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		index := ensure(t, b, defaultConfig())
		events := watch(t, b)
		nstest.IP(t, "link del virbr0")
		await(t, events, func(e bridge.LinkEvent) bool { return e.Deleted && e.Index == index && e.Name == name })
	})
}

// TestWatchResyncs keeps the callback busy until the kernel has dropped events.
func TestWatchResyncs(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		ensure(t, b, defaultConfig())
		batch := filepath.Join(t.TempDir(), "batch")
		var lines strings.Builder
		for i := range 20000 {
			fmt.Fprintf(&lines, "link set dev virbr0 mtu %d\n", 1000+i%2)
		}
		if err := os.WriteFile(batch, []byte(lines.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		began, overflowed := make(chan struct{}), make(chan struct{})
		ended := make(chan error, 1)
		resyncs := 0
		go func() {
			ended <- b.Watch(ctx, func(e bridge.LinkEvent) {
				switch {
				case !e.Resync:
					return
				case resyncs == 0:
					close(began)
					<-overflowed
				default:
					cancel()
				}
				resyncs++
			})
		}()
		<-began
		nstest.IP(t, "-batch "+batch)
		close(overflowed)
		select {
		case err := <-ended:
			if err != nil || resyncs != 2 {
				t.Errorf("Watch: %v after %d resyncs", err, resyncs)
			}
		case <-time.After(soon):
			t.Error("no resync after the kernel dropped events")
		}
		cancel()
	})
}

func TestWatchEndsWithItsContext(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := newBridges(t).Watch(ctx, func(bridge.LinkEvent) {}); err != nil {
			t.Error(err)
		}
	})
}
