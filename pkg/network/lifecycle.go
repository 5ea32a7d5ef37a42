package network

import (
	"context"
	"errors"
	"fmt"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/host"
	"github.com/vnetd/vnetd/pkg/network/service"
	"github.com/vnetd/vnetd/pkg/network/translate"
	"github.com/vnetd/vnetd/pkg/store"
)

// Start makes a defined network active: links, rules, services, in this order,
// and takes back what it made when a step fails. Its error is InvalidState for
// an active network and Conflict when something of the host is in the way.
func (n *Network) Start(ctx context.Context) error {
	return n.start(ctx, n.definition)
}

// start makes active what choose returns once the network's turn has come; nil
// when the network is gone by then.
func (n *Network) start(ctx context.Context, choose func() *netdef.Network) error {
	if err := n.begin(); err != nil {
		return err
	}
	defer n.op.Unlock()
	def := choose()
	if def == nil {
		return n.noDefinition()
	}
	return turn{n}.startLocked(ctx, def)
}

// startLocked makes def active. The caller holds n.op.
func (n turn) startLocked(ctx context.Context, def *netdef.Network) error {
	if n.liveNetwork() != nil {
		return api.Errorf(api.InvalidState, "network %q is already active", n.name)
	}
	if err := translate.Unsupported(def); err != nil {
		return err
	}
	n.setState(api.Starting, nil)
	live := def.Clone()
	err := n.clearLeftover(ctx)
	switch {
	case err != nil:
	case n.m.stands(live):
		// A former vnetd's: its guests are at work.
		n.record.Lose()
		if err = n.record.Save(store.Run{Phase: store.Active, Network: live, Persistent: n.persistent()}); err == nil {
			n.m.log.Warn("a bridge of the network is there already: it is taken over", keyNetwork, n.name, keyBridge, live.Bridge.Name)
			n.resume(ctx, live)
		}
	default:
		err = n.bringUp(ctx, live)
	}
	if err != nil {
		n.setState(api.Failed, err)
		return err
	}
	n.keepStopped(live.UUID, false)
	n.m.log.Info("network started", keyNetwork, n.name, keyBridge, live.Bridge.Name)
	return nil
}

// bringUp makes live active, or leaves nothing behind.
func (n turn) bringUp(ctx context.Context, live *netdef.Network) (err error) {
	release, err := n.m.claim(n.Network, live, nil)
	if err != nil {
		return err
	}
	defer release()
	if err := host.Conflicts(n.m.cfg.Links, live); err != nil {
		return err
	}
	if err := n.m.hook.run(ctx, hookStart, live); err != nil {
		return err
	}
	run := store.Run{Phase: store.Starting, Network: live, Persistent: n.persistent()}
	if err := n.record.Save(run); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.clear(context.WithoutCancel(ctx), live))
			if n.leftBehind() != nil {
				n.finishLater()
			}
		}
	}()
	index, err := n.ensure(ctx, live)
	if err != nil {
		return err
	}
	sv, err := n.openServices(live)
	if err != nil {
		return err
	}
	run.Phase = store.Active
	if err := errors.Join(n.m.hook.run(ctx, hookStarted, live), n.record.Save(run)); err != nil {
		return errors.Join(err, sv.Close())
	}
	n.activate(live, index, sv)
	return nil
}

// activate records that live is up on the bridge with that ifindex, sets its
// services going, and finds what others have plugged in: that is there where a
// former vnetd made the bridge, or the admin.
func (n turn) activate(live *netdef.Network, index int, sv *service.Set) {
	n.setActive(active{doc: live, ifindex: index, services: sv})
	n.setState(api.Active, nil)
	n.noteBridge(live, index)
	n.serve(sv)
	n.m.devices.findDevices(n.Network)
}

// ensure makes the links and rules of live what they should be, whether none,
// some or all of it is there, and plugs its ports back in. It is how networks
// start, are adopted, and are repaired; where nothing is missing it changes
// nothing. It returns the ifindex of the bridge; 0 where that is the admin's and
// not there, which as with libvirt keeps no network from being active.
func (n turn) ensure(ctx context.Context, live *netdef.Network) (index int, err error) {
	if !live.Mode().OwnsBridge() {
		return n.ensureBridged(ctx, live)
	}
	cfg := translate.Bridge(live)
	cfg.Alias = markOf(live)
	if index, err = n.m.cfg.Links.Ensure(ctx, cfg); err != nil {
		return 0, err
	}
	if err := n.rules.set(ctx, live); err != nil {
		return 0, err
	}
	if err := n.record.Forward(live); err != nil {
		return 0, err
	}
	return index, n.m.devices.replug(ctx, n.Network, live, index)
}

// ensureBridged is ensure for a network on a bridge that is the LAN's: one of
// the admin's, which need not be there, or one that vnetd makes of an uplink.
func (n turn) ensureBridged(ctx context.Context, live *netdef.Network) (index int, err error) {
	if live.Uplink != "" {
		if err := n.record.AttachUplink(ctx, live); err != nil {
			return 0, err
		}
	}
	l, err := n.m.cfg.Links.Lookup(live.Bridge.Name)
	if errors.Is(err, bridge.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return l.Index, n.m.devices.replug(ctx, n.Network, live, l.Index)
}

// noteBridge has the network be degraded for as long as the bridge that it names is
// not there, which is the admin's to make: its ifindex is 0 then. It may come
// later than vnetd, so no start fails for it.
func (n turn) noteBridge(live *netdef.Network, index int) {
	if index == 0 && live.Mode() == netdef.ModeBridge {
		n.fault(partBridge, host.NoSuchBridge(live))
		return
	}
	n.fault(partBridge, nil)
}

// Stop takes the network down: its services end, its ports lose their bridge
// (and find it again at the next start), its rules and its bridge go. Every
// step is tried; failures are joined. A transient network is gone afterwards, with its
// ports, unless something of it could not be taken down: then Stop can be called
// again, and is tried again by and by.
func (n *Network) Stop(ctx context.Context) error {
	if err := n.begin(); err != nil {
		return err
	}
	defer n.op.Unlock()
	live := n.liveNetwork()
	// From here on it is done, whoever hangs up.
	ctx = context.WithoutCancel(ctx)
	if live == nil {
		if left := n.leftBehind(); left != nil {
			return turn{n}.finish(ctx, left)
		}
		return api.Errorf(api.InvalidState, "network %q is not active", n.name)
	}
	persistent := n.persistent()
	run := store.Run{Phase: store.Stopping, Network: live, Persistent: persistent}
	if err := n.record.Save(run); err != nil {
		n.m.log.Warn("stopping a network without a record of it", keyNetwork, n.name, keyError, err)
	}
	n.setState(api.Stopping, nil)
	sv := n.change(func(a *active) { a.services, a.ifindex = nil, 0 }).services // its end is no loss
	sv.Retire()
	// Sockets and links go at the same time: the kernel takes its time for both.
	closed := sv.End()
	err := turn{n}.clear(ctx, live)
	closed()
	if persistent {
		turn{n}.keepStopped(live.UUID, true)
	}
	if err != nil {
		n.setState(api.Failed, err)
		n.finishLater()
		n.m.log.Warn("network not taken down: trying again", keyNetwork, n.name, keyBridge, live.Bridge.Name, keyError, err)
	} else {
		n.setState(api.Inactive, nil)
		n.m.log.Info("network stopped", keyNetwork, n.name, keyBridge, live.Bridge.Name)
	}
	if err := n.m.hook.run(ctx, hookStopped, live); err != nil {
		n.m.log.Warn("the network is stopped all the same", keyNetwork, n.name, keyError, err)
	}
	if !persistent && err == nil {
		n.m.drop(n)
	}
	return err
}

// keepStopped records whether the network was stopped since the host booted: if
// so, the next vnetd leaves it inactive although it is marked for autostart.
func (n turn) keepStopped(uuid string, stopped bool) {
	if err := n.m.cfg.Store.SetStopped(uuid, stopped); err != nil {
		n.m.log.Warn("the next vnetd may start or leave a network wrongly", keyNetwork, n.name, "stopped", stopped, keyError, err)
	}
}

// clearLeftover completes what an earlier clear could not, if there is any such.
func (n turn) clearLeftover(ctx context.Context) error {
	leftover := n.leftBehind()
	if leftover == nil {
		return nil
	}
	return n.clear(ctx, leftover)
}

// clear removes the links and rules of live, the ports of a transient network, and
// then its run-state. The rules go after the bridge: nothing passes unfiltered. What
// fails makes live the network's leftover.
func (n turn) clear(ctx context.Context, live *netdef.Network) error {
	errs := []error{n.m.devices.unplug(n.Network)}
	if live.Mode().OwnsBridge() {
		errs = append(errs, n.m.cfg.Links.Remove(live.Bridge.Name, 0), n.rules.remove(ctx, live))
	}
	errs = append(errs, n.record.Restore(ctx))
	if !n.persistent() {
		errs = append(errs, n.m.ports.releaseAll(n.Network))
	}
	err := errors.Join(errs...)
	if err == nil {
		err = n.m.cfg.Store.DeleteRun(live.UUID)
	}
	if err != nil {
		n.leave(live)
		return fmt.Errorf("taking down network %q: %w", n.name, err)
	}
	n.leave(nil)
	return nil
}

// stands reports whether the bridge of live is there, with vnetd's mark of it.
func (m *Manager) stands(live *netdef.Network) bool {
	if !live.OwnsBridge() {
		return false
	}
	l, err := m.cfg.Links.Lookup(live.Bridge.Name)
	return err == nil && bears(l, live.UUID)
}

// resume takes over live, which a former vnetd left active. What fails leaves
// the network degraded, never down: its guests may be at work.
func (n turn) resume(ctx context.Context, live *netdef.Network) {
	n.rules.adopt(live)
	_ = n.adopt(ctx, live)
	n.departed = nil
}

// adopt makes active what stands as live, or mostly. Its error is shown as the
// network's, too, and no reason to give up: what is missing is tried again. The
// caller holds n.op.
func (n turn) adopt(ctx context.Context, live *netdef.Network) error {
	index, err := n.ensure(ctx, live)
	sv, openErr := n.openServices(live)
	if openErr != nil {
		sv = n.newServices(live)
	}
	n.activate(live, index, sv)
	if err != nil {
		n.fault(partLinks, err)
		n.repairLater()
	}
	return errors.Join(err, openErr)
}

// What can fail of a network beside its services.
const (
	partLinks  = "links and rules"
	partBridge = "the host's bridge"
)

// repair puts back what is missing of an active network; of an inactive one
// nothing is. A bridge that had to be made anew takes new sockets with it.
func (n *Network) repair(ctx context.Context) error {
	n.op.Lock()
	defer n.op.Unlock()
	live := n.liveNetwork()
	if live == nil {
		return nil
	}
	index, err := turn{n}.ensure(ctx, live)
	n.fault(partLinks, err)
	if err != nil {
		n.repairLater()
		return fmt.Errorf("repairing network %q: %w", n.name, err)
	}
	if !live.OwnsBridge() {
		n.change(func(a *active) { a.ifindex = index })
		turn{n}.noteBridge(live, index)
		return nil
	}
	was := n.change(func(a *active) {
		if a.ifindex != index {
			a.ifindex = index
			n.repairs++
		}
	})
	if was.ifindex != index {
		n.m.log.Warn("bridge was gone and is made anew", keyNetwork, n.name, keyBridge, live.Bridge.Name)
		was.services.Stop()
		turn{n}.serve(turn{n}.newServices(live))
	}
	return nil
}
