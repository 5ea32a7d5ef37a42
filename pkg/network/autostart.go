package network

import (
	"context"
	"slices"

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
			c.startSoon(ctx, n)
			return nil
		})
	}
	_ = g.Wait()
}
