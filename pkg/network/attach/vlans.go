package attach

import (
	"context"
	"errors"
	"slices"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/bridge/vlan"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/drift"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// plugged is how p is plugged in on its network, which is live. What others have plugged
// in without a word has no VLANs of the network's. The bridge is not told of a guest that is on
// another host, and learns of one that is about to move here when it does.
func plugged(e *env.Environment, live *netdef.Network, p *port.Port) bridge.PortConfig {
	cfg := translate.Port(live)
	coming, gone := e.Clusters.Stands(live, p.CardAddr())
	if cfg.NoLearning && p.Kind == port.Own && !gone {
		cfg.FDB = p.MAC
	}
	if coming {
		cfg.NoLearning, cfg.FDB = false, nil
	}
	if p.Kind != port.Foreign {
		cfg.VLANs, cfg.PlainVLANs = vlansOf(live, p), p.Kind == port.Own
	}
	return cfg
}

// vlansOf are the VLANs of a port on its network, which is live; nil for none, and for
// one with a profile, whose switch is told by the program that plugs it in.
func vlansOf(live *netdef.Network, p *port.Port) vlan.Table {
	if doc := p.Document(); doc != nil && doc.VirtualPort != nil {
		return nil
	}
	s := p.Status()
	return translate.PortVLANs(live, s.PortGroup, s.OwnVLAN())
}

// vlans keeps the ports of all networks in their VLANs.
type vlans struct{ *Ports }

// keep has the ports of n that others made, and are on its bridge, be in the VLANs
// that live gives them, and the bridge's uplink carry those of all, as far as amend allows.
func (v vlans) keep(n Network, live *netdef.Network, s drift.Suspects, amend bridge.Amend) error {
	if !translate.FiltersVLANs(live) && live.Mode() != netdef.ModeBridge {
		return nil
	}
	var errs []error
	all := translate.TrunkVLANs(live)
	for _, p := range v.reg.On(n.Name(), port.Own, port.External) {
		t := vlansOf(live, p)
		all = all.Joined(t)
		index := p.Status().Index
		if p.Kind == port.External && t != nil && s.Has(index) {
			errs = append(errs, v.set(n, live, p, t, amend))
		}
	}
	if s.Bridge || s.AllPorts {
		errs = append(errs, v.carry(live, all, amend))
	}
	return errors.Join(errs...)
}

// set sets the VLANs of a port that another program made, if its device is on the
// bridge of n and no other port's by now.
func (v vlans) set(n Network, live *netdef.Network, p *port.Port, t vlan.Table, amend bridge.Amend) error {
	index := p.Status().Index
	if index == 0 || v.reg.Index(index) != p {
		return nil
	}
	l, err := v.env.Links.LookupIndex(index)
	if errors.Is(err, bridge.ErrNotFound) || err == nil && (l.Master == 0 || l.Master != n.BridgeIndex()) {
		return nil
	}
	if err == nil {
		err = v.env.Links.SetVLANs(index, t, false, amend)
	}
	return translate.VLANError(live, err)
}

// carry has the uplink of the bridge of live, where vnetd made that, carry VLANs to the LAN
// and from it, with a tag, beside what has none. Others it may have stay: nobody else on
// the bridge is in them.
func (v vlans) carry(live *netdef.Network, all vlan.Table, amend bridge.Amend) error {
	index := v.env.UplinkKeeper.Port(live.Bridge.Name)
	if index == 0 || len(all) == 0 {
		return nil
	}
	br, err := v.env.Links.Lookup(live.Bridge.Name)
	if err != nil || br.MustFilter() != nil {
		return err // who asked for VLANs is told
	}
	l, err := v.env.Links.LookupIndex(index)
	if err == nil && l.Master == br.Index {
		err = v.env.Links.SetVLANs(index, bridge.PlainVLANs(br).Joined(all), true, amend)
	}
	if errors.Is(err, bridge.ErrNotFound) {
		return nil // it is away: it is asked again when it comes
	}
	return err
}

// tag gives a port that another program made its VLANs, once its device is its own. had
// says that the device was another port's before, which had some.
func (v vlans) tag(n Network, live *netdef.Network, p *port.Port, had bool) {
	t := vlansOf(live, p)
	if t == nil && had {
		if br, err := v.env.Links.Lookup(live.Bridge.Name); err == nil && br.FiltersVLANs {
			t = bridge.PlainVLANs(br)
		}
	}
	if t == nil {
		return
	}
	err := errors.Join(v.set(n, live, p, t, nil), v.carry(live, t, nil))
	if err != nil {
		v.env.Logger.Error("a port is not in its VLANs", env.KeyNetwork, n.Name(), env.KeyPort, p.UUID, env.KeyIfName, p.Status().IfName, env.KeyError, err)
	}
}

// check refuses a port that can't be in the VLANs that its document and its network
// say.
func (v vlans) check(live *netdef.Network, doc *netdef.Port) error {
	t := translate.PortVLANs(live, doc.Group, doc.VLAN)
	if t == nil || doc.VirtualPort != nil {
		return nil
	}
	if err := t.Check(); err != nil {
		return api.Errorf(api.Invalid, "port '%s': %w", doc.UUID, err)
	}
	br, err := v.env.Links.Lookup(live.Bridge.Name)
	if err == nil {
		err = translate.VLANError(live, br.MustFilter())
	}
	return err
}

// follow is moved where the port had other VLANs by its former settings.
func (v vlans) follow(ctx context.Context, n Network, live *netdef.Network, p *port.Port, former port.Settings) error {
	was := translate.PortVLANs(live, former.PortGroup, former.OwnVLAN())
	if slices.Equal(was, vlansOf(live, p)) {
		return nil
	}
	return v.moved(ctx, n, live, p)
}

// moved brings a port whose settings have changed to the VLANs that it shall have now.
func (v vlans) moved(ctx context.Context, n Network, live *netdef.Network, p *port.Port) error {
	v.guards.Port(live, p)
	t := vlansOf(live, p)
	var err error
	switch {
	case p.Kind == port.Own && !port.Fits(p, live.PortPlug()):
	case p.Kind == port.Own:
		err = p.Attach(ctx, v.env.Links, n.BridgeIndex(), plugged(v.env, live, p))
	case t != nil:
		err = v.set(n, live, p, t, nil)
	default:
		br, lookup := v.env.Links.Lookup(live.Bridge.Name)
		if err = lookup; err == nil && br.FiltersVLANs {
			err = v.set(n, live, p, bridge.PlainVLANs(br), nil)
		}
	}
	return errors.Join(translate.VLANError(live, err), v.carry(live, t, nil))
}
