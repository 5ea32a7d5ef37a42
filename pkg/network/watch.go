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
	broken := &damage{wake: make(chan struct{}, 1)}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		m.repairLoop(ctx, broken)
		return nil
	})
	g.Go(func() error {
		m.health.Watch(ctx, m.conditionSources())
		return nil
	})
	g.Go(func() error {
		m.audit(ctx)
		return nil
	})
	g.Go(func() error { return m.cfg.Links.Watch(ctx, func(e bridge.LinkEvent) { m.onLink(e, broken) }) })
	g.Go(func() error { return m.cfg.Rules.Watch(ctx) })
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// damage is which networks are to be repaired.
type damage struct {
	wake chan struct{} // holds a value while there is something to repair

	mu       sync.Mutex
	networks map[*Network]struct{}
}

func (d *damage) add(networks ...*Network) {
	d.mu.Lock()
	if d.networks == nil {
		d.networks = make(map[*Network]struct{})
	}
	for _, n := range networks {
		d.networks[n] = struct{}{}
	}
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default: // a repair is due already
	}
}

// take returns what was added since it was called last.
func (d *damage) take() map[*Network]struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	networks := d.networks
	d.networks = nil
	return networks
}

// onLink deals with one change of a link. It never blocks for long.
func (m *Manager) onLink(e bridge.LinkEvent, broken *damage) {
	if e.Resync {
		m.devices.resync()
		broken.add(m.all()...)
		return
	}
	if m.devices.onLink(e) {
		return
	}
	on := m.awaiting(e.Link)
	if e.Deleted {
		on = m.onBridge(e.Link.Index)
	}
	if len(on) > 0 {
		broken.add(on...)
	}
}

// onBridge lists the active networks on the bridge with that ifindex.
func (m *Manager) onBridge(index int) []*Network {
	m.mu.Lock()
	defer m.mu.Unlock()
	var on []*Network
	for _, n := range m.byName {
		if a := n.activated(); a != nil && a.ifindex == index {
			on = append(on, n)
		}
	}
	return on
}

// awaiting lists the active networks on a bridge of the host's that was not there,
// and now is l.
func (m *Manager) awaiting(l bridge.Link) []*Network {
	m.mu.Lock()
	defer m.mu.Unlock()
	var on []*Network
	for _, n := range m.byName {
		a := n.activated()
		if a != nil && a.ifindex == 0 && a.doc.Mode() == netdef.ModeBridge && a.doc.Bridge.Name == l.Name {
			on = append(on, n)
		}
	}
	return on
}

// repairLoop repairs networks some time after they were reported damaged.
func (m *Manager) repairLoop(ctx context.Context, broken *damage) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-broken.wake:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(repairPause):
		}
		for n := range broken.take() {
			if err := n.repair(ctx); err != nil {
				m.log.Error("repair failed", keyNetwork, n.name, keyError, err)
			}
		}
	}
}
