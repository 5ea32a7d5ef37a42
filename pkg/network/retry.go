package network

import (
	"context"
	"slices"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/store"
	"golang.org/x/sync/errgroup"
)

// repeat calls try with back-off until it says that it is done, or m is closed.
func (m *Manager) repeat(try func() (done bool)) {
	m.running.Go(func() {
		for wait := retryFirst; ; wait = min(2*wait, retryLast) {
			select {
			case <-m.services.Done():
				return
			case <-time.After(wait):
			}
			if try() {
				return
			}
		}
	})
}

// finish takes down what is left of the network, and says what has become of it: a
// transient one is gone with its last trace, and stays in the books until then. The
// caller holds n.op.
func (n turn) finish(ctx context.Context, doc *netdef.Network) error {
	if err := n.clear(ctx, doc); err != nil {
		n.setState(api.Failed, err)
		n.finishLater()
		return err
	}
	n.setState(api.Inactive, nil)
	if !n.persistent() {
		n.m.drop(n.Network)
	}
	return nil
}

// finishLater tries again to take down what is left, until nothing is.
func (n *Network) finishLater() {
	if !n.finishing.CompareAndSwap(false, true) {
		return
	}
	n.m.repeat(func() bool {
		n.op.Lock()
		defer n.op.Unlock()
		doc := n.leftBehind()
		if doc == nil {
			n.finishing.Store(false)
			return true
		}
		run := store.Run{Phase: store.Stopping, Network: doc, Persistent: n.persistent()}
		err := n.record.Save(run)
		if err == nil {
			err = turn{n}.clear(n.m.services, doc)
		}
		if err != nil {
			n.setState(api.Failed, err)
			return false
		}
		n.finishing.Store(false)
		n.m.log.Info("what was left of a network is taken down", keyNetwork, n.name, keyBridge, doc.Bridge.Name)
		n.setState(api.Inactive, nil)
		if !n.persistent() {
			n.m.drop(n)
		}
		return true
	})
}

// repairLater repairs the network until that succeeds.
func (n *Network) repairLater() {
	if !n.repairing.CompareAndSwap(false, true) {
		return
	}
	n.m.repeat(func() bool {
		if err := n.repair(n.m.services); err != nil {
			return false
		}
		n.repairing.Store(false)
		return true
	})
}

// finishNow reports whether nothing is left of a transient network that could not be
// taken down when it was stopped, now at the latest.
func (n *Network) finishNow(ctx context.Context) bool {
	if n.leftBehind() == nil || n.persistent() {
		return false
	}
	err := n.Stop(ctx)
	return err == nil || KindOf(err) == api.NotFound
}

// How long a network that could not be started automatically waits before it is
// tried again: doubled from the first to the last.
const (
	retryFirst = time.Second
	retryLast  = time.Minute
)

// autostart starts every inactive network that is marked for it, except those
// with the UUIDs of except, in parallel. It returns when each has been tried once; those that failed are tried again for
// as long as they are marked and nobody else starts or stops them.
func (m *Manager) autostart(ctx context.Context, except []string) {
	var g errgroup.Group
	g.SetLimit(startLimit)
	for _, n := range m.all() {
		if info := n.Info(); !info.Autostart || info.Active || slices.Contains(except, info.UUID) {
			continue
		}
		g.Go(func() error {
			if err := n.Start(ctx); err != nil {
				m.log.Error("autostart failed: trying again", keyNetwork, n.name, keyError, err)
				m.running.Go(func() { n.retryStart(m.services) })
			}
			return nil
		})
	}
	_ = g.Wait()
}

// retryStart starts a network that failed to, with back-off, until it has
// started, ctx ends, or it is no longer this function's business.
func (n *Network) retryStart(ctx context.Context) {
	for wait := retryFirst; ; wait = min(2*wait, retryLast) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if info := n.Info(); info.State != api.Failed || !info.Autostart {
			return
		}
		if err := n.Start(ctx); err != nil {
			n.m.log.Warn("autostart failed again", keyNetwork, n.name, keyError, err)
		}
	}
}

// startOnDemand starts a defined network for somebody who wants a port on it, if
// that is allowed; it returns nil where the network stays inactive. The caller
// holds n.op.
func (n turn) startOnDemand(ctx context.Context) (*netdef.Network, error) {
	def := n.definition()
	if def == nil || !n.m.cfg.StartOnDemand {
		return nil, nil
	}
	n.m.log.Info("starting a network on demand", keyNetwork, n.name)
	if err := n.startLocked(ctx, def); err != nil {
		return nil, err
	}
	return n.liveNetwork(), nil
}
