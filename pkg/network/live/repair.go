package live

import (
	"context"
	"fmt"

	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/network/drift"
	"github.com/vnetd/vnetd/pkg/network/env"
)

// Repair puts back at once what is missing of an active network; of an inactive one
// nothing is.
func (n *Network) Repair(ctx context.Context) error {
	return n.env.Keeper.Now(n.name, func(amend bridge.Amend) error { return n.Mend(ctx, drift.Whole(), amend) })
}

// Mend puts back what is suspected of an active network and differs from what it is, as
// far as amend allows. A bridge that had to be made anew takes new sockets with it.
func (n *Network) Mend(ctx context.Context, s drift.Suspects, amend bridge.Amend) error {
	n.op.Lock()
	defer n.op.Unlock()
	live := n.Live()
	if live == nil {
		return nil
	}
	_ = turn{n}.keepCopy(documents{live, n.Definition()}) // somebody may have edited that
	index, err := turn{n}.keep(ctx, live, s, amend)
	if err != nil || s.Bridge {
		n.fault(partLinks, err)
	}
	if err != nil {
		turn{n}.repairLater()
		return fmt.Errorf("repairing network %q: %w", n.name, err)
	}
	was := n.change(func(a *active) { a.ifindex = index })
	if !live.Mode().OwnsBridge() {
		turn{n}.noteBridge(live, index)
		return nil
	}
	if was.ifindex != index {
		n.env.Logger.Warn("bridge was gone and is made anew", env.KeyNetwork, n.name, env.KeyBridge, live.Bridge.Name)
		was.services.Stop()
		turn{n}.serve(turn{n}.newServices(live))
	}
	return nil
}

// repairLater repairs the network until that succeeds.
func (n turn) repairLater() {
	if !n.repairing.CompareAndSwap(false, true) {
		return
	}
	n.env.Tasks.Repeat(func() bool {
		if err := n.Repair(n.env.Tasks.Context()); err != nil {
			return false
		}
		n.repairing.Store(false)
		return true
	})
}
