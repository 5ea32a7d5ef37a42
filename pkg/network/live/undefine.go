package live

import (
	"context"
	"errors"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/store"
)

// Undefine deletes the definition. An active network goes on as a transient
// one; an inactive one is gone, with its ports. Its leases are kept under its UUID
// until they end: it may be defined again.
func (n *Network) Undefine(_ context.Context) error { return n.others.Undefine(n.undefine) }

// undefine is Undefine while nothing else is.
func (n *Network) undefine() error {
	if err := n.Begin(); err != nil {
		return err
	}
	defer n.op.Unlock()
	info := n.Info()
	if !info.Persistent {
		return api.Errorf(api.InvalidState, "network %q is transient: it has no definition to delete, stop it", n.name)
	}
	live := n.Live()
	if live == nil {
		if err := errors.Join(turn{n}.clearLeftover(context.Background()), n.ports.ReleaseAll(n)); err != nil {
			return err
		}
	} else {
		// The run-state first: a crash in between must not lose the network.
		if err := n.record.Save(store.Run{Phase: store.Active, Network: live}); err != nil {
			return err
		}
	}
	if err := n.env.Store.DeleteDefinition(n.name); err != nil {
		return err
	}
	n.setAutostart(false)
	_ = n.env.Store.Copies().Drop(info.UUID) // without a definition it is of no use
	n.copied = documents{live: live}
	turn{n}.keepStopped(info.UUID, false)
	n.env.Logger.Info("network undefined", env.KeyNetwork, n.name)
	if info.Active {
		n.setDefinition(nil)
		n.Changed()
		return nil
	}
	n.others.Drop(n)
	n.setDefinition(nil)
	return nil
}
