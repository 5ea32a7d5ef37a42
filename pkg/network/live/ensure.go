package live

import (
	"context"
	"errors"
	"fmt"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/drift"
	"github.com/vnetd/vnetd/pkg/network/host"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/service"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// What can fail of a network beside its services.
const (
	partLinks  = "links and rules"
	partBridge = "the host's bridge"
	partUplink = "the uplink"
	partParent = "the interfaces of its ports"
)

// activate records that live is up on the bridge with that ifindex, sets its
// services going, and finds what others have plugged in: that is there where a
// former vnetd made the bridge, or the admin.
func (n turn) activate(live *netdef.Network, index int, sv *service.Set) {
	n.setActive(active{doc: live, ifindex: index, services: sv})
	n.setState(api.Active, nil)
	n.noteBridge(live, index)
	tunnels{n}.note(live)
	n.ports.Guards().All(live, index) // leases are known by now
	n.serve(sv)
	lend(n.env.Tasks.Context(), n, live)
	n.ports.Devices().Find(n.Network)
	n.PortsChanged()
	n.others.PeersChanged()
}

// ensure makes the links and rules of live what they should be, whether none,
// some or all of it is there, and plugs its ports back in. It is how networks
// start, and are adopted and changed; where nothing is missing it changes
// nothing. It returns the ifindex of the bridge; 0 where that is the admin's and
// not there, which as with libvirt keeps no network from being active.
func (n turn) ensure(ctx context.Context, live *netdef.Network) (index int, err error) {
	return n.keep(ctx, live, drift.Whole(), nil)
}

// keep is ensure of what is suspected alone, and as far as amend allows. Where that
// leaves a bridge that is gone, the ifindex stays what it was.
func (n turn) keep(ctx context.Context, live *netdef.Network, s drift.Suspects, amend bridge.Amend) (index int, err error) {
	if onParent(live) {
		return 0, n.keepOnParent(ctx, live, s, amend)
	}
	return n.keepOnBridge(ctx, live, s, amend)
}

// keepOnBridge is keep of a network with a bridge.
func (n turn) keepOnBridge(ctx context.Context, live *netdef.Network, s drift.Suspects, amend bridge.Amend) (index int, err error) {
	was, owns := n.BridgeIndex(), live.Mode().OwnsBridge()
	index = was
	switch {
	case !s.Bridge:
	case owns:
		index, err = n.env.Links.Ensure(ctx, n.bridgeConfig(live, amend))
		err = translate.VLANError(live, err)
	default:
		index, err = n.lanBridge(ctx, live, amend)
	}
	switch {
	case err != nil:
		return 0, err
	case index == 0 && owns:
		return was, nil
	case index == 0:
		return 0, nil
	}
	if index != was {
		s.Whole, s.AllPorts = true, true
	}
	if owns {
		if err := keepOwned(ctx, n, live, index, s, amend); err != nil {
			return 0, err
		}
	}
	if s.Bridge || s.Whole || s.AllPorts {
		keepGuards(n, live, index)
		err = n.ports.Bandwidth().KeepBridge(n.Network, live, index, s.Whole, amend)
	}
	return index, errors.Join(err, n.ports.Devices().Keep(ctx, n.Network, live, index, s, amend))
}

// keepGuards makes the guards of ports what they should be. Until the network is active, which has
// all devices on its bridge looked at, it is its ports that must have guards.
func keepGuards(n turn, live *netdef.Network, index int) {
	switch {
	case n.Live() != nil:
		n.ports.Guards().All(live, index)
	case len(n.ports.Registry().On(n.name, port.Own, port.External)) > 0:
		n.ports.Guards().Registered(live, index)
	}
}

// keepOwned is keepOnBridge of what goes with a bridge of vnetd's own, which has that ifindex.
func keepOwned(ctx context.Context, n turn, live *netdef.Network, index int, s drift.Suspects, amend bridge.Amend) error {
	// What keeps gateways apart goes after the tunnel.
	if err := errors.Join(hosts{n}.removeFormer(live), tunnels{n}.removeFormer(live)); err != nil {
		return err
	}
	if err := keepRules(ctx, n, live, s.Whole); err != nil {
		return err
	}
	if err := (tunnels{n}).keep(ctx, live, index, s, amend); err != nil {
		return err
	}
	return hosts{n}.keep(ctx, live, index, s, amend)
}

// keepRules makes the rules of live, and the host's forwarding, what they should be where
// they are suspected, or the kernel deals otherwise with forwards than it did.
func keepRules(ctx context.Context, n turn, live *netdef.Network, suspected bool) error {
	if !suspected && !n.rules.stale(live, bridge.Rewrites6()) {
		return nil
	}
	if err := n.setRules(ctx, live); err != nil {
		return err
	}
	return n.record.Forward(live)
}

// bridgeConfig is what live asks of its bridge.
func (n turn) bridgeConfig(live *netdef.Network, amend bridge.Amend) bridge.Config {
	cfg := translate.Bridge(live)
	cfg.Alias, cfg.Amend = Mark(live), amend
	cfg.Index = n.renamed
	if on := n.activated(); on != nil {
		former := translate.Bridge(on.doc)
		cfg.Index, cfg.Former, cfg.FormerLoopback4, cfg.FormerLoopback6 = on.ifindex, former.Addrs, former.Loopback4, former.Loopback6
		// What is not said any more is the kernel's default again.
		if cfg.Snooping == bridge.AsIs && former.Snooping != bridge.AsIs {
			cfg.Snooping = bridge.On
		}
		if cfg.Querier == bridge.AsIs && former.Querier != bridge.AsIs {
			cfg.Querier = bridge.Off
		}
	}
	return cfg
}

// lanBridge is the ifindex of the bridge of a network on one that is the LAN's: one of
// the admin's, which need not be there, or one that vnetd makes of an uplink; 0 where it
// is not there.
func (n turn) lanBridge(ctx context.Context, live *netdef.Network, amend bridge.Amend) (index int, err error) {
	if live.Uplink != "" {
		if err := n.record.AttachUplink(ctx, live); err != nil {
			return 0, err
		}
	}
	l, err := n.env.Links.Lookup(live.Bridge.Name)
	switch {
	case errors.Is(err, bridge.ErrNotFound):
		return 0, nil
	case err != nil:
		return 0, err
	case live.Uplink == "":
		return l.Index, translate.CheckHostBridge(live, l)
	}
	cfg := n.bridgeConfig(live, amend)
	return l.Index, translate.VLANError(live, n.env.Links.Adjust(ctx, l.Index, cfg))
}

// noteBridge has the network be degraded for as long as its uplink is away, or the bridge
// that it names is not there, which is the admin's to make: its ifindex is 0 then. Both
// may come later than vnetd, so no start fails for it.
func (n turn) noteBridge(live *netdef.Network, index int) {
	if live.Uplink != "" {
		n.fault(partUplink, n.env.UplinkKeeper.Problem(live.Bridge.Name))
		return
	}
	if onParent(live) {
		n.fault(partParent, host.NoParent(n.env.Links, n.env.Functions, live))
		return
	}
	if index == 0 && live.Mode() == netdef.ModeBridge {
		n.fault(partBridge, host.NoSuchBridge(live))
		return
	}
	n.fault(partBridge, nil)
}

// clearLeftover completes what an earlier clear could not, if there is any such.
func (n turn) clearLeftover(ctx context.Context) error {
	leftover := n.LeftBehind()
	if leftover == nil {
		return nil
	}
	return n.clear(ctx, leftover)
}

// clear removes the links and rules of live, the ports of a transient network, and
// then its run-state. The rules go after the bridge: nothing passes unfiltered. What
// fails makes live the network's leftover.
func (n turn) clear(ctx context.Context, live *netdef.Network) error {
	errs := []error{n.ports.Devices().Unplug(n.Network), n.ports.Bandwidth().Lift(n.Network, live)}
	if live.Mode().OwnsBridge() {
		errs = append(errs, hosts{n}.remove(live), tunnels{n}.remove(live), n.removeBridges(live), n.rules.remove(ctx, live))
	}
	errs = append(errs, host.RemoveAccess(n.env.Links, live, Mark(live)), n.record.Restore(ctx), n.ports.Guards().End(live))
	if !n.Persistent() {
		errs = append(errs, n.ports.ReleaseAll(n.Network))
	}
	err := errors.Join(errs...)
	if err == nil {
		n.copied = documents{}
		err = errors.Join(n.env.Store.DeleteRun(live.UUID), n.env.Store.Copies().Drop(live.UUID))
	}
	if err != nil {
		n.leave(live)
		return fmt.Errorf("taking down network %q: %w", n.name, err)
	}
	n.leave(nil)
	return nil
}

// removeBridges deletes the bridge of live, also one that has another name now.
func (n turn) removeBridges(live *netdef.Network) error {
	if l, err := n.env.Links.LookupIndex(n.renamed); err == nil && Bears(l, live.UUID) {
		return errors.Join(n.env.Links.Remove(l.Name, l.Index), n.env.Links.Remove(live.Bridge.Name, 0))
	}
	return n.env.Links.Remove(live.Bridge.Name, 0)
}

// stands reports whether the bridge of live is there, with vnetd's mark of it.
func (n turn) stands(live *netdef.Network) bool {
	if !live.OwnsBridge() {
		return false
	}
	l, err := n.env.Links.Lookup(live.Bridge.Name)
	return err == nil && Bears(l, live.UUID)
}
