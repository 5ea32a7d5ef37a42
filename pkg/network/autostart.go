package network

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
)

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
func (n *Network) startOnDemand(ctx context.Context) (*netdef.Network, error) {
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
