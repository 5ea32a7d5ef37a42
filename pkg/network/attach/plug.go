package attach

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/drift"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/translate"
	"github.com/vnetd/vnetd/pkg/tap"
)

// externalGrace is how long after its device a port stays: whoever took the
// device away says next that the port ends, unless that program is gone as well.
const externalGrace = 10 * time.Second

// Devices plugs in what ports there are, and follows what becomes of their devices.
type Devices struct{ *Ports }

// Keep has every port of n that is suspected be on the bridge with that ifindex, as live
// has its ports, wherever they are now, as far as amend allows. What others had plugged
// in is theirs: it is plugged in again after its bridge was gone, and nothing else. What does not
// fit live stays unplugged, see Misfit. The caller has the turn of n.
func (d Devices) Keep(ctx context.Context, n Network, live *netdef.Network, bridgeIndex int, s drift.Suspects, amend bridge.Amend) error {
	if s.Whole {
		d.Orphans().adopt(n, live.UUID)
	}
	if live.PortPlug() == netdef.PlugDirect {
		return d.keepMacvtaps(n, live, s, amend)
	}
	var errs []error
	for _, p := range d.reg.On(n.Name(), port.Own) {
		index := p.Status().Index
		if !s.Has(index) || !port.Fits(p, live.PortPlug()) {
			continue
		}
		cfg := plugged(d.env, live, p)
		cfg.Amend = amend
		err := translate.VLANError(live, p.Attach(ctx, d.env.Links, bridgeIndex, cfg))
		if err == nil {
			err = p.While(func() error { return d.Bandwidth().keepPort(live, p, s.Whole, amend) })
		}
		if errors.Is(err, bridge.ErrNotFound) { // one of the two is gone
			if _, looked := d.env.Links.LookupIndex(index); errors.Is(looked, bridge.ErrNotFound) {
				err = d.end(p)
			}
		}
		errs = append(errs, err)
	}
	errs = append(errs, vlans(d).keep(n, live, s, amend), d.pin(n, live, bridgeIndex, s, amend))
	if s.Whole {
		errs = append(errs, d.replugForeign(ctx, n, live, bridgeIndex))
	}
	return errors.Join(errs...)
}

// Misfit is why p, of a network that is live, is not there as it was asked for: the network was
// another one then. It is nil for nothing.
func Misfit(live *netdef.Network, p *port.Port) error {
	s := p.Status()
	var errs []error
	if p.Kind == port.Own && !port.Fits(p, live.PortPlug()) {
		errs = append(errs, fmt.Errorf("%s stays unplugged: ports of mode %s with plug type %q are other devices", s.IfName, live.Mode(), live.PortPlug()))
	}
	if p.Kind == port.Own || live.Mode().OwnsBridge() { // VLANs of other devices are who made them's
		errs = append(errs, translate.CheckPortVLANs(live, s.OwnVLAN()))
	}
	if len(s.Rules) > 0 {
		errs = append(errs, translate.CheckPortRules(live, s.Rules))
	}
	return errors.Join(errs...)
}

// pin has the cards of ports that other programs registered stay behind them, where live spans
// hosts: a frame that comes from another host moves none.
func (d Devices) pin(n Network, live *netdef.Network, bridgeIndex int, s drift.Suspects, amend bridge.Amend) error {
	if live.Span == nil || !translate.ManagesMACs(live) {
		return nil
	}
	var errs []error
	for _, p := range d.reg.On(n.Name(), port.External) {
		index := p.Status().Index
		coming, gone := d.env.Clusters.Stands(live, p.MAC)
		if index != 0 && s.Has(index) && len(p.MAC) == 6 && !coming && !gone {
			errs = append(errs, d.env.Links.Pin(bridgeIndex, index, p.MAC, amend))
		}
	}
	return errors.Join(errs...)
}

// Follow has ports of n, whose bridge has that ifindex, be as their guests stand to this host by now:
// about to come, here, or gone. Where live has the kernel learn who is behind which port, it learns that.
// The caller has the turn of n.
func (d Devices) Follow(ctx context.Context, n Network, live *netdef.Network, bridgeIndex int) error {
	if !translate.ManagesMACs(live) {
		return nil
	}
	var errs []error
	for _, p := range d.reg.On(n.Name(), port.Own, port.External) {
		index := p.Status().Index
		coming, gone := d.env.Clusters.Stands(live, p.CardAddr())
		// What libvirt tells the bridge of a guest that is coming it may have told since.
		again := port.Turn(p, coming, gone) || coming && p.Kind == port.External
		fits := p.Kind == port.External || port.Fits(p, live.PortPlug())
		if index == 0 || !again || gone || !fits { // the tunnel takes the card over
			continue
		}
		var err error
		if p.Kind == port.Own {
			err = p.Attach(ctx, d.env.Links, bridgeIndex, plugged(d.env, live, p))
		}
		if err == nil && (coming || p.Kind == port.External) {
			err = d.env.Links.Learn(bridgeIndex, index, p.CardAddr(), coming)
		}
		if !errors.Is(err, bridge.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// replugForeign puts what others had plugged into the network's bridge on it
// again, where it is on none now: the bridge was gone for a while. What they registered is
// known by its record as well, of which another device may have the ifindex by now.
func (d Devices) replugForeign(ctx context.Context, n Network, live *netdef.Network, bridgeIndex int) error {
	var errs []error
	for _, p := range d.reg.On(n.Name(), port.External, port.Foreign) {
		s := p.Status()
		l, err := d.env.Links.LookupIndex(s.Index)
		if err != nil || l.Master != 0 || !port.PluggedByOthers(l) {
			continue
		}
		if p.Kind == port.External && (l.Name != s.IfName || !bytes.Equal(l.MAC, tap.HostMAC(p.MAC))) {
			continue
		}
		if x := d.reg.Index(s.Index); x != nil && x.Kind == port.External {
			p = x // what was registered says how it is plugged in
		}
		d.env.Logger.Info("plugging a device in again that had lost its bridge", env.KeyNetwork, n.Name(), env.KeyIfName, l.Name)
		errs = append(errs, p.Attach(ctx, d.env.Links, bridgeIndex, plugged(d.env, live, p)))
	}
	return errors.Join(errs...)
}

// Unplug takes every port of n off its bridge. The ports live on, without
// traffic, for as long as they are open.
func (d Devices) Unplug(n Network) error {
	var errs []error
	for _, p := range d.reg.On(n.Name(), port.Own) {
		detach := d.env.Links.Detach
		if p.OnMacvtap() {
			detach = tap.SetDown
		}
		err := detach(p.Status().Index)
		if errors.Is(err, bridge.ErrNotFound) {
			err = d.end(p)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// OnLink follows the devices of ports, and reports whether e is of one.
func (d Devices) OnLink(e bridge.LinkEvent) bool {
	p := d.reg.Index(e.Link.Index)
	if p != nil && p.Kind == port.Own {
		d.onOwnLink(p, e)
		return true
	}
	return d.onOtherLink(p, e)
}

// onOwnLink follows the device of a port of vnetd's own: the port ends with it, and
// forwards at once when somebody opens it, where STP would make it wait.
func (d Devices) onOwnLink(p *port.Port, e bridge.LinkEvent) {
	if e.Deleted {
		d.endLogged(p)
		return
	}
	if d.endSpoiled(p) {
		return
	}
	opened := p.Opened(e.Link.Carrier)
	n := d.network(p)
	if n == nil {
		return
	}
	live, on := n.Live(), n.BridgeIndex()
	if live == nil || on == 0 || e.Link.Master != on || !opened || !live.Bridge.STP {
		return
	}
	d.env.Tasks.Go(func() {
		if err := d.replugOne(d.env.Tasks.Context(), n, p); err != nil && !errors.Is(err, bridge.ErrNotFound) {
			d.env.Logger.Error("plugging a port in again", env.KeyPort, p.UUID, env.KeyError, err)
		}
	})
}

// endSpoiled ends a port whose holder has made of its device what it is not, and
// reports whether it did.
func (d Devices) endSpoiled(p *port.Port) bool {
	err := p.CheckDevice(d.env.Logger)
	switch {
	case errors.Is(err, port.ErrSpoiled):
		d.env.Logger.Warn("ending a port", env.KeyNetwork, p.Network, env.KeyPort, p.UUID, env.KeyIfName, p.Status().IfName, env.KeyError, err)
		d.endLogged(p)
		return true
	case err != nil:
		d.env.Logger.Warn("looking at a port's device", env.KeyPort, p.UUID, env.KeyError, err)
	}
	return false
}

// replugOne has one port be on its bridge as it shall be.
func (d Devices) replugOne(ctx context.Context, n Network, p *port.Port) error {
	if n.Begin() != nil {
		return nil // it is gone, and its ports with it
	}
	defer n.End()
	live := n.Live()
	if live == nil || d.reg.UUID(p.UUID) != p || p.OnMacvtap() {
		return nil
	}
	return p.Attach(ctx, d.env.Links, n.BridgeIndex(), plugged(d.env, live, p))
}

// onOtherLink follows a device that is no port of vnetd's own: one of a port without a
// network ends that port, others are followed as foreign and registered ports.
func (d Devices) onOtherLink(p *port.Port, e bridge.LinkEvent) bool {
	if p != nil && p.Kind == port.Orphan && e.Deleted {
		d.endLogged(p)
	}
	if e.Link.Kind == bridge.KindMacvtap {
		d.followRegistered(e)
		return true
	}
	if !port.PluggedByOthers(e.Link) || port.Owns(d.reg, e.Link) {
		return false
	}
	d.noteForeign(e.Link.Index)
	d.followRegistered(e)
	d.forward(e)
	return true
}

// forward has a device that another program plugged into a bridge with STP forward at
// once when somebody opens it, as ports of vnetd's own do.
func (d Devices) forward(e bridge.LinkEvent) {
	live := (actives{d.networks}).OnBridge(e.Master)
	if e.Deleted || live == nil || !live.Bridge.STP {
		return
	}
	p := d.reg.Index(e.Index)
	if p == nil {
		p = d.reg.Foreign(live.Name, e.Index)
	}
	if p == nil || p.Kind == port.Own || !p.Opened(e.Carrier) {
		return
	}
	d.env.Tasks.Go(func() {
		n := d.networks.Named(live.Name)
		if n == nil || n.Begin() != nil {
			return
		}
		defer n.End()
		if own := d.reg.Index(e.Index); own != nil && own.Kind == port.Own {
			return // it was about to become one when the event came
		}
		cfg := plugged(d.env, live, p)
		cfg.MTU = e.MTU // its maker's choice
		if err := p.Attach(d.env.Tasks.Context(), d.env.Links, e.Master, cfg); err != nil && !errors.Is(err, bridge.ErrNotFound) {
			d.env.Logger.Warn("a device waits for STP", env.KeyNetwork, live.Name, env.KeyIfName, e.Name, env.KeyError, err)
		}
	})
}

// noteForeign remembers on which networks' bridges others have plugged a device in.
func (d Devices) noteForeign(index int) {
	// The event may tell of a bridge that is gone meanwhile.
	l, err := d.env.Links.LookupIndex(index)
	if err != nil && !errors.Is(err, bridge.ErrNotFound) || err == nil && port.Owns(d.reg, l) {
		return
	}
	gone, master := err != nil, ""
	if !gone && l.Master != 0 {
		if b, err := d.env.Links.LookupIndex(l.Master); err == nil {
			master = b.Name
		}
	}
	d.networks.Each(func(n Network) {
		switch {
		// By name: a bridge made anew has devices on it before it is the active one's.
		case master != "" && master == n.Document().Bridge.Name:
			d.reg.AddForeign(n.Name(), index)
		case gone || master != "":
			d.reg.DropForeign(n.Name(), index)
		}
	})
}

// Find looks on n's bridge for the devices of ports that other programs
// registered, and for what others plugged in without a word.
func (d Devices) Find(n Network) {
	index := n.BridgeIndex()
	if live := n.Live(); live != nil && live.PortPlug() == netdef.PlugDirect {
		d.findMacvtaps(n)
	}
	if index == 0 {
		return
	}
	links, err := d.env.Links.Members(index)
	if err != nil {
		d.env.Logger.Error("looking for what is plugged in", env.KeyNetwork, n.Name(), env.KeyError, err)
	}
	for _, l := range links {
		if p := d.reg.Index(l.Index); (p == nil || p.Kind != port.Own) && port.PluggedByOthers(l) {
			d.onOtherLink(p, bridge.LinkEvent{Link: l})
		}
	}
}

// Resync looks for every device anew, after events were missed.
func (d Devices) Resync() {
	for _, p := range d.reg.All(port.Own) {
		if !port.There(d.env.Links, p.Record()) {
			d.endLogged(p)
		} else {
			d.endSpoiled(p)
		}
	}
	d.networks.Each(d.Find)
	for _, p := range d.reg.All(port.External) {
		index := p.Status().Index
		if _, err := d.env.Links.LookupIndex(index); index != 0 && errors.Is(err, bridge.ErrNotFound) {
			d.endLater(p, index)
		}
	}
}

// followRegistered follows the devices of ports that other programs registered: one
// is on the network's bridge and has the guest's address, as libvirt makes it.
func (d Devices) followRegistered(e bridge.LinkEvent) {
	for _, p := range d.reg.All(port.External) {
		n := d.network(p)
		if n == nil {
			continue
		}
		on := n.BridgeIndex()
		ours := p.Status().Index == e.Index
		switch {
		case ours && e.Deleted:
			d.endLater(p, e.Index)
		case !e.Deleted && !ours && (on != 0 && e.Master == on && bytes.Equal(e.MAC, tap.HostMAC(p.MAC)) || d.isMacvtapOf(p, e.Link)):
			p.SetDevice(e.Link)
			d.seen(n, p)
		}
	}
}

// seen records which device a port has, and tells.
func (d Devices) seen(n Network, p *port.Port) {
	record := p.Record()
	if err := d.env.Store.SavePort(record); err != nil {
		d.env.Logger.Error("recording the device of a port", env.KeyPort, record.UUID, env.KeyError, err)
	}
	if live := n.Live(); live != nil {
		vlans(d).tag(n, live, p, false)
	}
	d.env.Logger.Info("the device of a port is there", env.KeyNetwork, n.Name(), env.KeyPort, record.UUID, env.KeyIfName, record.IfName)
	d.publish(env.PortChanged, n, d.info(p))
}

// endLater ends a port whose device is gone, unless somebody says so before, or it
// gets another.
func (d Devices) endLater(p *port.Port, index int) {
	d.env.Tasks.Go(func() {
		select {
		case <-d.env.Tasks.Context().Done():
			return
		case <-time.After(externalGrace):
		}
		if p.Status().Index != index {
			return
		}
		if err := d.end(p); err != nil {
			d.env.Logger.Error("ending a port: trying again", env.KeyPort, p.UUID, env.KeyError, err)
			d.env.Tasks.Repeat(func() bool { return d.end(p) == nil })
		}
	})
}

// inherit gives the device of a port that has ended to the port of the same card that
// takes its place, as when libvirt moves a guest to another group.
func (d Devices) inherit(n Network, live *netdef.Network, ended *port.Port) {
	heir := d.reg.Index(ended.Status().Index)
	if heir == nil || heir.Kind != port.External || heir.Network != n.Name() {
		return
	}
	d.guards.Port(live, heir)
	vlans(d).tag(n, live, heir, vlansOf(live, ended) != nil)
}
