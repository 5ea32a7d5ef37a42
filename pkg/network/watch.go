package network

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vnetd/vnetd/pkg/bridge"
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
		m.watchConditions(ctx)
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
	switch {
	case e.Resync:
		m.dropDeadPorts()
		broken.add(m.all()...)
	case !e.Deleted:
		return
	default:
		if p := m.findPort(func(p *port) bool { return p.Index == e.Link.Index }); p != nil {
			m.endLogged(p)
			return
		}
		if on := m.onBridge(e.Link.Index); len(on) > 0 {
			broken.add(on...)
		}
	}
}

// onBridge lists the active networks on the bridge with that ifindex.
func (m *Manager) onBridge(index int) []*Network {
	m.mu.Lock()
	defer m.mu.Unlock()
	var on []*Network
	for _, n := range m.byName {
		n.mu.Lock()
		if n.live != nil && n.bridge == index {
			on = append(on, n)
		}
		n.mu.Unlock()
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

// dropDeadPorts ends the ports whose TAP device is gone, after events were
// missed.
func (m *Manager) dropDeadPorts() {
	for _, n := range m.all() {
		for _, p := range m.portsOf(n) {
			if l, err := m.cfg.Links.LookupIndex(p.Index); err != nil || l.Name != p.IfName {
				m.endLogged(p)
			}
		}
	}
}

func (m *Manager) endLogged(p *port) {
	if err := m.end(p); err != nil {
		m.log.Error("ending a port", keyPort, p.UUID, keyError, err)
	}
}
