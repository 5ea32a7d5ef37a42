package network

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/env"
)

// repairPause is how long the manager waits after a bridge was lost before it
// repairs: what comes in bursts is repaired once, and somebody who keeps
// deleting our bridge does not keep us busy.
const repairPause = 200 * time.Millisecond

// watcher follows changes of links.
type watcher struct {
	*catalog
	queue repairQueue
}

func newWatcher(c *catalog) *watcher {
	return &watcher{catalog: c, queue: repairQueue{wake: make(chan struct{}, 1)}}
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
		w.ports.Devices().Resync()
		w.queue.add(w.all()...)
		return
	}
	if w.ports.Devices().OnLink(e) {
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
	return slices.DeleteFunc(w.all(), func(n *Network) bool { return n.BridgeIndex() != index })
}

// awaiting lists the active networks on a bridge of the host's that was not there,
// and now is l.
func (w *watcher) awaiting(l bridge.Link) []*Network {
	return slices.DeleteFunc(w.all(), func(n *Network) bool {
		doc := n.Live()
		return doc == nil || n.BridgeIndex() != 0 || doc.Mode() != netdef.ModeBridge || doc.Bridge.Name != l.Name
	})
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
			if err := n.Repair(ctx); err != nil {
				w.env.Logger.Error("repair failed", env.KeyNetwork, n.Name(), env.KeyError, err)
			}
		}
	}
}
