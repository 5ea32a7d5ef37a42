package network

import (
	"context"
	"slices"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network/env"
	"golang.org/x/sync/errgroup"
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
func (c *catalog) autostart(ctx context.Context, except []string) {
	var g errgroup.Group
	g.SetLimit(startLimit)
	for _, n := range c.all() {
		if info := n.Info(); !info.Autostart || info.Active || slices.Contains(except, info.UUID) {
			continue
		}
		g.Go(func() error {
			if err := n.Start(ctx); err != nil {
				c.env.Log.Error("autostart failed: trying again", env.KeyNetwork, n.Name(), env.KeyError, err)
				c.env.Tasks.Go(func() { c.retryStart(c.env.Tasks.Context(), n) })
			}
			return nil
		})
	}
	_ = g.Wait()
}

// retryStart starts a network that failed to, with back-off, until it has
// started, ctx ends, or it is no longer this function's business.
func (c *catalog) retryStart(ctx context.Context, n *Network) {
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
			c.env.Log.Warn("autostart failed again", env.KeyNetwork, n.Name(), env.KeyError, err)
		}
	}
}
