package live

import (
	"context"
	"errors"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/attach"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/forward"
	"github.com/vnetd/vnetd/pkg/network/host"
	"github.com/vnetd/vnetd/pkg/network/translate"
	"github.com/vnetd/vnetd/pkg/store"
)

// Start makes a defined network active: links, rules, services, in this order,
// and takes back what it made when a step fails. Its error is InvalidState for
// an active network and Conflict when something of the host is in the way.
func (n *Network) Start(ctx context.Context) error {
	return n.StartAs(ctx, n.Definition)
}

// StartAs makes active what choose returns once the network's turn has come; nil
// when the network is gone by then.
func (n *Network) StartAs(ctx context.Context, choose func() *netdef.Network) error {
	if err := n.Begin(); err != nil {
		return err
	}
	defer n.op.Unlock()
	def := choose()
	if def == nil {
		return turn{n}.noDefinition()
	}
	return turn{n}.start(ctx, def)
}

// start makes def active.
func (n turn) start(ctx context.Context, def *netdef.Network) error {
	if n.Live() != nil {
		return api.Errorf(api.InvalidState, "network %q is already active", n.name)
	}
	if err := translate.Unsupported(def); err != nil {
		return err
	}
	n.setState(api.Starting, nil)
	live := withHeld(n, def)
	err := n.clearLeftover(ctx)
	switch {
	case err != nil:
	case n.stands(live):
		// A former vnetd's: its guests are at work.
		n.record.Lose()
		if err = n.record.Save(store.Run{Phase: store.Active, Network: live, Persistent: n.Persistent()}); err == nil {
			n.env.Logger.Warn("a bridge of the network is there already: it is taken over", env.KeyNetwork, n.name, env.KeyBridge, live.Bridge.Name)
			n.resume(ctx, live)
		}
	default:
		err = n.bringUp(ctx, live)
	}
	if err != nil {
		n.setState(api.Failed, err)
		return err
	}
	_ = n.keepCopy(documents{live, n.Definition()})
	_ = n.keepStopped(live.UUID, nil)
	endHeld(n, live)
	n.env.Logger.Info("network started", env.KeyNetwork, n.name, env.KeyBridge, live.Bridge.Name)
	return nil
}

// bringUp makes live active, or leaves nothing behind.
func (n turn) bringUp(ctx context.Context, live *netdef.Network) (err error) {
	release, err := n.others.Claim(n.Network, live, nil)
	if err != nil {
		return err
	}
	defer release()
	if err := host.Conflicts(n.env.Links, n.env.UplinkKeeper, live); err != nil {
		return err
	}
	if err := forward.Clash(live, nil); err != nil {
		return err
	}
	if err := n.env.RunHook(ctx, env.HookStart, live); err != nil {
		return err
	}
	run := store.Run{Phase: store.Starting, Network: live, Persistent: n.Persistent()}
	if err := n.record.Save(run); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.clear(context.WithoutCancel(ctx), live))
			if n.LeftBehind() != nil {
				n.finishLater()
			}
		}
	}()
	index, err := n.ensure(ctx, live)
	if err != nil {
		return err
	}
	sv, err := n.openServices(live, nil)
	if err != nil {
		return err
	}
	run.Phase = store.Active
	if err := errors.Join(n.env.RunHook(ctx, env.HookStarted, live), n.record.Save(run)); err != nil {
		return errors.Join(err, sv.Close())
	}
	n.activate(live, index, sv)
	return nil
}

// Stop takes the network down: its services end, its ports lose their bridge
// (and find it again at the next start), its rules and its bridge go. Every
// step is tried; failures are joined. One marked for autostart stays active where it can't
// be recorded that it was stopped. A transient network is gone afterwards, with its
// ports, unless something of it could not be taken down: then Stop can be called
// again, and is tried again by and by.
func (n *Network) Stop(ctx context.Context) error {
	if err := n.Begin(); err != nil {
		return err
	}
	defer n.End()
	// From here on it is done, whoever hangs up.
	return turn{n}.stop(context.WithoutCancel(ctx))
}

// stop is Stop for who has the turn.
func (n turn) stop(ctx context.Context) error {
	live := n.Live()
	if live == nil {
		if left := n.LeftBehind(); left != nil {
			return n.finish(ctx, left)
		}
		return api.Errorf(api.InvalidState, "network %q is not active", n.name)
	}
	persistent := n.Persistent()
	if persistent {
		if err := n.keepStopped(live.UUID, live); err != nil && n.Info().Autostart {
			return err // the next vnetd would start it again
		}
	}
	run := store.Run{Phase: store.Stopping, Network: live, Persistent: persistent}
	if err := n.record.Save(run); err != nil {
		n.env.Logger.Warn("stopping a network without a record of it", env.KeyNetwork, n.name, env.KeyError, err)
	}
	n.setState(api.Stopping, nil)
	n.env.Announcements.Withdraw(ctx, n.name)                                   // before nobody is there any more
	_ = attach.HostPorts{Ports: n.ports}.Release(n.Network)                     // while DHCP still takes its address back; its end is tried again
	sv := n.change(func(a *active) { a.services, a.ifindex = nil, 0 }).services // its end is no loss
	sv.Retire()
	// Sockets and links go at the same time: the kernel takes its time for both.
	closed := sv.End()
	err := n.clear(ctx, live)
	closed()
	if err != nil {
		n.setState(api.Failed, err)
		n.finishLater()
		n.env.Logger.Warn("network not taken down: trying again", env.KeyNetwork, n.name, env.KeyBridge, live.Bridge.Name, env.KeyError, err)
	} else {
		n.setState(api.Inactive, nil)
		n.env.Logger.Info("network stopped", env.KeyNetwork, n.name, env.KeyBridge, live.Bridge.Name)
	}
	n.others.PeersChanged()
	if err := n.env.RunHook(ctx, env.HookStopped, live); err != nil {
		n.env.Logger.Warn("the network is stopped all the same", env.KeyNetwork, n.name, env.KeyError, err)
	}
	if !persistent && err == nil {
		n.others.Drop(n.Network)
	}
	return err
}

// keepStopped records what the network was when it was stopped since the host booted, nil where
// it was not: if so, the next vnetd leaves it inactive although it is marked for autostart.
func (n turn) keepStopped(uuid string, was *netdef.Network) error {
	err := n.env.Store.Stops().Set(uuid, was)
	if err != nil {
		n.env.Logger.Warn("the next vnetd may start or leave a network wrongly", env.KeyNetwork, n.name, "stopped", was != nil, env.KeyError, err)
	}
	return err
}

// resume takes over live, which a former vnetd left active. What fails leaves
// the network degraded, never down: its guests may be at work.
func (n turn) resume(ctx context.Context, live *netdef.Network) {
	by := surround(n, live)
	by.forwards = n.record.Leads()
	n.rules.found(by, n.record.Learned())
	n.rules.adopt(live)
	letGoLater(n.Network)
	_ = n.adopt(ctx, live)
	n.departed = nil
}

// adopt makes active what stands as live, or mostly. Its error is shown as the
// network's, too, and no reason to give up: what is missing is tried again. The
// caller has the turn.
func (n turn) adopt(ctx context.Context, live *netdef.Network) error {
	index, err := n.ensure(ctx, live)
	sv, openErr := n.openServices(live, nil)
	if openErr != nil {
		sv = n.newServices(live, nil)
	}
	n.activate(live, index, sv)
	if err != nil {
		n.fault(partLinks, err)
		n.repairLater()
	}
	return errors.Join(err, openErr)
}

// StartOnDemand starts a defined network for somebody who wants a port on it, if
// that is allowed; it returns nil where the network stays inactive. The caller has
// the turn.
func (n *Network) StartOnDemand(ctx context.Context) (*netdef.Network, error) {
	def := n.Definition()
	if def == nil || !n.env.StartOnDemand {
		return nil, nil
	}
	n.env.Logger.Info("starting a network on demand", env.KeyNetwork, n.name)
	if err := (turn{n}).start(ctx, def); err != nil {
		return nil, err
	}
	return n.Live(), nil
}
