package network

import (
	"context"
	"errors"
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
	lost := make(chan struct{}, 1)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		m.repairLoop(ctx, lost)
		return nil
	})
	g.Go(func() error {
		m.watchConditions(ctx)
		return nil
	})
	g.Go(func() error { return m.cfg.Links.Watch(ctx, func(e bridge.LinkEvent) { m.onLink(e, lost) }) })
	g.Go(func() error { return m.cfg.Rules.Watch(ctx) })
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// onLink deals with one change of a link. It never blocks for long.
func (m *Manager) onLink(e bridge.LinkEvent, lost chan<- struct{}) {
	switch {
	case e.Resync:
		m.dropDeadPorts()
	case !e.Deleted:
		return
	default:
		if p := m.findPort(func(p *port) bool { return p.Index == e.Link.Index }); p != nil {
			m.endLogged(p)
			return
		}
		if !m.isBridge(e.Link.Index) {
			return
		}
	}
	select {
	case lost <- struct{}{}:
	default: // a repair is due already
	}
}

// isBridge tells whether that ifindex is the bridge of an active network.
func (m *Manager) isBridge(index int) bool {
	for _, n := range m.all() {
		n.mu.Lock()
		is := n.live != nil && n.bridge == index
		n.mu.Unlock()
		if is {
			return true
		}
	}
	return false
}

// repairLoop repairs every network some time after one was reported lost.
func (m *Manager) repairLoop(ctx context.Context, lost <-chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-lost:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(repairPause):
		}
		for _, n := range m.all() {
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
