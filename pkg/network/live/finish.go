package live

import (
	"context"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/store"
)

// finish takes down what is left of the network, and says what has become of it: a
// transient one is gone with its last trace, and stays in the books until then. What
// fails is tried again.
func (n turn) finish(ctx context.Context, doc *netdef.Network) error {
	if err := n.clear(ctx, doc); err != nil {
		n.setState(api.Failed, err)
		n.finishLater()
		return err
	}
	n.setState(api.Inactive, nil)
	if !n.Persistent() {
		n.others.Drop(n.Network)
	}
	return nil
}

// finishLater tries again to take down what is left, until nothing is. Each attempt
// waits for its turn.
func (n turn) finishLater() {
	if !n.finishing.CompareAndSwap(false, true) {
		return
	}
	n.env.Tasks.Repeat(func() bool {
		n.op.Lock()
		defer n.op.Unlock()
		doc := n.LeftBehind()
		if doc == nil {
			n.finishing.Store(false)
			return true
		}
		run := store.Run{Phase: store.Stopping, Network: doc, Persistent: n.Persistent()}
		if err := n.record.Save(run); err != nil {
			n.setState(api.Failed, err)
			return false
		}
		if n.finish(n.env.Tasks.Context(), doc) != nil {
			return false
		}
		n.finishing.Store(false)
		n.env.Logger.Info("what was left of a network is taken down", env.KeyNetwork, n.name, env.KeyBridge, doc.Bridge.Name)
		return true
	})
}
