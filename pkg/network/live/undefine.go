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
// until they end: it may be defined again. If the definition is gone, but that could
// not be made durable, the network is undefined all the same, and the error says so.
func (n *Network) Undefine(ctx context.Context) error {
	return n.others.Undefine(func() error { return undefine(ctx, n) })
}

// undefine is Undefine while nothing else is.
func undefine(ctx context.Context, n *Network) error {
	if err := n.Begin(); err != nil {
		return err
	}
	defer n.op.Unlock()
	info := n.Info()
	if !info.Persistent {
		return api.Errorf(api.InvalidState, "network %q is transient: it has no definition to delete, stop it", n.name)
	}
	if def := n.Definition(); def != nil {
		if err := n.env.Clusters.Withdraw(ctx, def); err != nil {
			return err
		}
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
	gone, err := n.env.Store.DeleteDefinition(n.name)
	if !gone {
		return err
	}
	n.setAutostart(false)
	_ = n.env.Store.Copies().Drop(info.UUID) // without a definition it is of no use
	n.copied = documents{live: live}
	_ = turn{n}.keepStopped(info.UUID, nil)
	n.env.Logger.Info("network undefined", env.KeyNetwork, n.name)
	if info.Active {
		setDefinition(n, nil)
		n.Changed()
		return err
	}
	n.others.Drop(n)
	setDefinition(n, nil)
	return err
}
