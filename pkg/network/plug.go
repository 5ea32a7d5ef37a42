package network

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/translate"
	"github.com/vnetd/vnetd/pkg/tap"
)

// externalGrace is how long after its device a port stays: whoever took the
// device away says next that the port ends, unless that program is gone as well.
const externalGrace = 10 * time.Second

// devices plugs in what ports there are, and follows what becomes of their devices.
type devices struct{ *Ports }

// replug puts every port of n, and what others had plugged in, on the bridge with
// that ifindex, as live has its ports, wherever they are now. The caller holds
// n.op.
func (d devices) replug(ctx context.Context, n *Network, live *netdef.Network, bridgeIndex int) error {
	d.m.orphans.adopt(n, live.UUID)
	var errs []error
	for _, p := range d.reg.On(n.name, port.Own) {
		_, err := d.m.cfg.Links.LookupIndex(p.Status().Index)
		switch {
		case errors.Is(err, bridge.ErrNotFound):
			err = d.end(p)
		case err == nil:
			err = p.Attach(ctx, d.m.cfg.Links, bridgeIndex, translate.Port(live))
		}
		errs = append(errs, err)
	}
	return errors.Join(append(errs, d.replugForeign(ctx, n, live, bridgeIndex))...)
}

// replugForeign puts what others had plugged into the network's bridge on it
// again, where it is on none now: the bridge was gone for a while.
func (d devices) replugForeign(ctx context.Context, n *Network, live *netdef.Network, bridgeIndex int) error {
	var errs []error
	for _, p := range d.reg.On(n.name, port.Foreign) {
		index := p.Status().Index
		l, err := d.m.cfg.Links.LookupIndex(index)
		if err != nil || l.Master != 0 || !port.PluggedByOthers(l) {
			continue
		}
		if x := d.reg.Index(index); x != nil && x.Kind == port.External {
			p = x // what was registered says how it is plugged in
		}
		d.m.log.Info("plugging a device in again that had lost its bridge", keyNetwork, n.name, keyIfName, l.Name)
		errs = append(errs, p.Attach(ctx, d.m.cfg.Links, bridgeIndex, translate.Port(live)))
	}
	return errors.Join(errs...)
}

// unplug takes every port of n off its bridge. The ports live on, without
// traffic, for as long as they are open.
func (d devices) unplug(n *Network) error {
	var errs []error
	for _, p := range d.reg.On(n.name, port.Own) {
		err := d.m.cfg.Links.Detach(p.Status().Index)
		if errors.Is(err, bridge.ErrNotFound) {
			err = d.end(p)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// onLink follows the devices of ports, and reports whether e is of one.
func (d devices) onLink(e bridge.LinkEvent) bool {
	p := d.reg.Index(e.Link.Index)
	if p != nil && p.Kind == port.Own {
		d.onOwnLink(p, e)
		return true
	}
	return d.onOtherLink(p, e)
}

// onOwnLink follows the device of a port of vnetd's own: the port ends with it, is put
// on its bridge again where somebody took it off, and forwards at once when somebody
// opens it, where STP would make it wait.
func (d devices) onOwnLink(p *port.Port, e bridge.LinkEvent) {
	if e.Deleted {
		d.endLogged(p)
		return
	}
	opened := p.Opened(e.Link.Carrier)
	n := d.network(p)
	if n == nil {
		return
	}
	on := n.activated()
	if on == nil || on.ifindex == 0 || e.Link.Master == on.ifindex && !(opened && on.doc.Bridge.STP) {
		return
	}
	d.m.running.Go(func() {
		if err := d.replugOne(d.m.services, n, p); err != nil && !errors.Is(err, bridge.ErrNotFound) {
			d.m.log.Error("plugging a port in again", keyPort, p.UUID, keyError, err)
		}
	})
}

// replugOne is replug for one port.
func (d devices) replugOne(ctx context.Context, n *Network, p *port.Port) error {
	n.op.Lock()
	defer n.op.Unlock()
	on := n.activated()
	if on == nil || d.reg.UUID(p.UUID) != p {
		return nil
	}
	return p.Attach(ctx, d.m.cfg.Links, on.ifindex, translate.Port(on.doc))
}

// onOtherLink follows a device that is no port of vnetd's own: one of a port without a
// network ends that port, others are followed as foreign and registered ports.
func (d devices) onOtherLink(p *port.Port, e bridge.LinkEvent) bool {
	if p != nil && p.Kind == port.Orphan && e.Deleted {
		d.endLogged(p)
	}
	if !port.PluggedByOthers(e.Link) {
		return false
	}
	d.noteForeign(e.Link.Index)
	d.followRegistered(e)
	return true
}

// noteForeign remembers on which networks' bridges others have plugged a device in.
func (d devices) noteForeign(index int) {
	// The event may tell of a bridge that is gone meanwhile.
	l, err := d.m.cfg.Links.LookupIndex(index)
	if err != nil && !errors.Is(err, bridge.ErrNotFound) {
		return
	}
	gone, master := err != nil, ""
	if !gone && l.Master != 0 {
		if b, err := d.m.cfg.Links.LookupIndex(l.Master); err == nil {
			master = b.Name
		}
	}
	for _, n := range d.m.all() {
		switch {
		// By name: a bridge made anew has devices on it before it is the active one'd.
		case master != "" && master == n.describes().Bridge.Name:
			d.reg.AddForeign(n.name, index)
		case gone || master != "":
			d.reg.DropForeign(n.name, index)
		}
	}
}

// findDevices looks on n's bridge for the devices of ports that other programs
// registered, and for what others plugged in without a word.
func (d devices) findDevices(n *Network) {
	index := n.bridgeIndex()
	if index == 0 {
		return
	}
	links, err := d.m.cfg.Links.Members(index)
	if err != nil {
		d.m.log.Error("looking for what is plugged in", keyNetwork, n.name, keyError, err)
	}
	for _, l := range links {
		if p := d.reg.Index(l.Index); (p == nil || p.Kind != port.Own) && port.PluggedByOthers(l) {
			d.onOtherLink(p, bridge.LinkEvent{Link: l})
		}
	}
}

// resync looks for every device anew, after events were missed.
func (d devices) resync() {
	for _, p := range d.reg.All(port.Own) {
		if !port.There(d.m.cfg.Links, p.Record()) {
			d.endLogged(p)
		}
	}
	for _, n := range d.m.all() {
		d.findDevices(n)
	}
	for _, p := range d.reg.All(port.External) {
		index := p.Status().Index
		if _, err := d.m.cfg.Links.LookupIndex(index); index != 0 && errors.Is(err, bridge.ErrNotFound) {
			d.endLater(p, index)
		}
	}
}

// followRegistered follows the devices of ports that other programs registered: one
// is on the network's bridge and has the guest's address, as libvirt makes it.
func (d devices) followRegistered(e bridge.LinkEvent) {
	for _, p := range d.reg.All(port.External) {
		n := d.network(p)
		if n == nil {
			continue
		}
		on := n.bridgeIndex()
		ours := p.Status().Index == e.Index
		switch {
		case ours && e.Deleted:
			d.endLater(p, e.Index)
		case !e.Deleted && !ours && on != 0 && e.Master == on && bytes.Equal(e.MAC, tap.HostMAC(p.MAC)):
			p.SetDevice(e.Link)
			d.seen(n, p)
		}
	}
}

// seen records which device a port has, and tells.
func (d devices) seen(n *Network, p *port.Port) {
	record := p.Record()
	if err := d.m.cfg.Store.SavePort(record); err != nil {
		d.m.log.Error("recording the device of a port", keyPort, record.UUID, keyError, err)
	}
	d.m.log.Info("the device of a port is there", keyNetwork, n.name, keyPort, record.UUID, keyIfName, record.IfName)
	d.publish(PortChanged, n, d.info(p))
}

// endLater ends a port whose device is gone, unless somebody says so before, or it
// gets another.
func (d devices) endLater(p *port.Port, index int) {
	d.m.running.Go(func() {
		select {
		case <-d.m.services.Done():
			return
		case <-time.After(externalGrace):
		}
		if p.Status().Index != index {
			return
		}
		if err := d.end(p); err != nil {
			d.m.log.Error("ending a port: trying again", keyPort, p.UUID, keyError, err)
			d.m.repeat(func() bool { return d.end(p) == nil })
		}
	})
}
