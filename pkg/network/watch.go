package network

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// repairPause is how long the manager waits after a bridge was lost before it
// repairs: what comes in bursts is repaired once, and somebody who keeps
// deleting our bridge does not keep us busy.
const repairPause = 200 * time.Millisecond

// Watch follows what others do to links and rules until ctx ends: a port whose
// TAP device is gone ends, a bridge that is gone comes back with its ports, rules
// that are gone are put back, and what vnetd does not mend becomes a condition.
// It returns nil when ctx ends, otherwise why it can't watch.
func (m *Manager) Watch(ctx context.Context) error {
	w := &watcher{m: m, queue: repairQueue{wake: make(chan struct{}, 1)}}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		w.repairLoop(ctx)
		return nil
	})
	g.Go(func() error {
		m.health.Watch(ctx, conditions{m}.sources())
		return nil
	})
	g.Go(func() error {
		m.audit.run(ctx)
		return nil
	})
	g.Go(func() error { return m.cfg.Links.Watch(ctx, w.onLink) })
	g.Go(func() error { return m.cfg.Rules.Watch(ctx) })
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// watcher follows changes of links.
type watcher struct {
	m     *Manager
	queue repairQueue
}

// repairQueue is which networks are to be repaired.
type repairQueue struct {
	wake chan struct{} // holds a value while there is something to repair

	mu       sync.Mutex
	networks map[*Network]struct{}
}

func (q *repairQueue) add(networks ...*Network) {
	q.mu.Lock()
	if q.networks == nil {
		q.networks = make(map[*Network]struct{})
	}
	for _, n := range networks {
		q.networks[n] = struct{}{}
	}
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default: // a repair is due already
	}
}

// take returns what was added since it was called last.
func (q *repairQueue) take() map[*Network]struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	networks := q.networks
	q.networks = nil
	return networks
}

// onLink deals with one change of a link. It never blocks for long.
func (w *watcher) onLink(e bridge.LinkEvent) {
	if e.Resync {
		w.m.devices.resync()
		w.queue.add(w.m.all()...)
		return
	}
	if w.m.devices.onLink(e) {
		return
	}
	on := w.awaiting(e.Link)
	if e.Deleted {
		on = w.onBridge(e.Link.Index)
	}
	if len(on) > 0 {
		w.queue.add(on...)
	}
}

// onBridge lists the active networks on the bridge with that ifindex.
func (w *watcher) onBridge(index int) []*Network {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	var on []*Network
	for _, n := range w.m.byName {
		if a := n.activated(); a != nil && a.ifindex == index {
			on = append(on, n)
		}
	}
	return on
}

// awaiting lists the active networks on a bridge of the host's that was not there,
// and now is l.
func (w *watcher) awaiting(l bridge.Link) []*Network {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	var on []*Network
	for _, n := range w.m.byName {
		a := n.activated()
		if a != nil && a.ifindex == 0 && a.doc.Mode() == netdef.ModeBridge && a.doc.Bridge.Name == l.Name {
			on = append(on, n)
		}
	}
	return on
}

// repairLoop repairs networks some time after they were reported damaged.
func (w *watcher) repairLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.queue.wake:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(repairPause):
		}
		for n := range w.queue.take() {
			if err := n.repair(ctx); err != nil {
				w.m.log.Error("repair failed", keyNetwork, n.name, keyError, err)
			}
		}
	}
}
