package network

import (
	"context"
	"errors"
	"fmt"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// restartable refuses, where a restart is asked for, a definition that could not be
// started after live has stopped, as far as that can be known before. The caller
// holds n.op.
func (n *Network) restartable(live, def *netdef.Network, restart bool) error {
	if !restart {
		return nil
	}
	if err := errors.Join(translate.Unsupported(def), n.newSubnets(live, def)); err != nil {
		return err
	}
	if live.Bridge.Name == def.Bridge.Name {
		return nil
	}
	return n.bridgeConflict(def)
}

// restart stops an active network, which was live, and starts it as its definition
// says now. When that fails, it is live again, with the definition that it had
// before, nil for none. Its ports find their bridge again.
func (n *Network) restart(ctx context.Context, live, former *netdef.Network) error {
	// From here on it is done, whoever hangs up.
	ctx = context.WithoutCancel(ctx)
	stopped := n.Stop(ctx)
	if KindOf(stopped) == api.InvalidState && stopped != nil {
		stopped = nil // somebody else was quicker
	}
	err := n.Start(ctx)
	if err == nil || n.liveNetwork() != nil {
		return nil
	}
	err = fmt.Errorf("restarting network %q: %w", n.name, errors.Join(err, stopped))
	back := n.start(ctx, func() *netdef.Network { return live })
	if saved := n.restoreDefinition(former); saved != nil {
		return errors.Join(err, back, saved)
	}
	n.setDefinition(former)
	if former == nil && back != nil {
		n.m.drop(n)
	}
	n.changed()
	return errors.Join(err, back)
}
