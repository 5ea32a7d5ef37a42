package network

import (
	"context"
	"slices"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network/env"
	"golang.org/x/sync/errgroup"
)

// autostart starts every inactive network that is marked for it, except those
// with the UUIDs of except, in parallel. It returns when each has been tried once;
// those that failed are tried again for as long as they are marked and nobody else starts
// or stops them.
func (c *catalog) autostart(ctx context.Context, except []string) {
	var g errgroup.Group
	g.SetLimit(startLimit)
	for _, n := range c.all() {
		if info := n.Info(); !info.Autostart || info.Active || slices.Contains(except, info.UUID) {
			continue
		}
		g.Go(func() error {
			if err := n.Start(ctx); err != nil {
				c.env.Logger.Error("autostart failed: trying again", env.KeyNetwork, n.Name(), env.KeyError, err)
				c.env.Tasks.Repeat(func() bool { return c.startAgain(n) })
			}
			return nil
		})
	}
	_ = g.Wait()
}

// startAgain starts a network that failed to, and reports whether it has started, or is
// no longer this function's business.
func (c *catalog) startAgain(n *Network) (done bool) {
	if info := n.Info(); info.State != api.Failed || !info.Autostart {
		return true
	}
	err := n.Start(c.env.Tasks.Context())
	if err != nil {
		c.env.Logger.Warn("autostart failed again", env.KeyNetwork, n.Name(), env.KeyError, err)
	}
	return err == nil
}
