package attach

import (
	"bytes"
	"context"
	"errors"
	"net"
	"slices"
	"time"

	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/drift"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/tap"
)

// WatchClosings ends ports whose macvtap devices were to go with their last descriptor, once
// that is closed, until ctx ends.
func (d Devices) WatchClosings(ctx context.Context) error {
	return d.closings.Watch(ctx, func() {
		for _, p := range d.reg.All(port.Own, port.Orphan) {
			d.follow(p)
		}
	}, d.onClosed)
}

// follow has p end with its last descriptor, where it is to and is a macvtap device.
func (d Devices) follow(p *port.Port) {
	if !p.OnMacvtap() {
		return
	}
	if err := d.closings.Add(p.Status().Node); err != nil && port.There(d.env.Links, p.Record()) {
		d.env.Logger.Warn("not known when a port is closed", env.KeyPort, p.UUID, env.KeyIfName, p.IfName, env.KeyError, err)
	}
	d.await(p)
	d.onClosed(p.Status().Node) // it may have been before
}

// released is how long after the close of a descriptor its lock may be seen: the kernel
// tells of the one before it takes away the other.
var released = []time.Duration{0, 5 * time.Millisecond, 50 * time.Millisecond, 500 * time.Millisecond}

// onClosed looks at the ports with that device node, at all for "".
func (d Devices) onClosed(node string) {
	for _, p := range d.reg.All(port.Own, port.Orphan) {
		if !p.OnMacvtap() || node != "" && p.Status().Node != node {
			continue
		}
		d.env.Tasks.Go(func() {
			for _, wait := range released {
				select {
				case <-d.env.Tasks.Context().Done():
					return
				case <-time.After(wait):
				}
				if p.Closed() {
					d.endLogged(p)
					return
				}
			}
		})
	}
}

// await waits for what the guest of p sends, where the launcher did not say which card that
// has: a macvtap device only receives what is for its own address.
func (d Devices) await(p *port.Port) {
	if p.Kind != port.Own || !p.OnMacvtap() || !p.MadeUp || p.Status().Card != nil {
		return
	}
	d.env.Tasks.Go(func() {
		mac, err := tap.Source(d.env.Tasks.Context(), p.Status().Index, func(mac net.HardwareAddr) bool {
			if mac.String() == p.MAC.String() {
				return true // it uses what was made up
			}
			_, ok := p.Learn(mac)
			return ok
		})
		switch {
		case errors.Is(err, tap.ErrGone), errors.Is(err, context.Canceled):
		case err != nil:
			d.env.Logger.Warn("not known which card a guest has", env.KeyPort, p.UUID, env.KeyIfName, p.IfName, env.KeyError, err)
		case mac.String() != p.MAC.String():
			d.learned(p, mac)
		}
	})
}

// learned has the device of p receive for the card mac, which is the guest's.
func (d Devices) learned(p *port.Port, mac net.HardwareAddr) {
	err := tap.SetMAC(p.Status().Index, mac)
	if err == nil {
		err = p.Keep(d.env.Store.SavePort)
	}
	if err != nil {
		d.env.Logger.Error("the guest of a port has another card, and can't receive", env.KeyPort, p.UUID, env.KeyMAC, mac.String(), env.KeyError, err)
		return
	}
	d.env.Logger.Info("the guest of a port has another MAC address", env.KeyNetwork, p.Network, env.KeyPort, p.UUID, env.KeyMAC, mac.String())
	d.publish(env.PortChanged, d.network(p), d.info(p))
}

// keepMacvtaps is Keep on a network without a bridge.
func (d Devices) keepMacvtaps(n Network, live *netdef.Network, s drift.Suspects, amend bridge.Amend) error {
	var errs []error
	for _, p := range d.reg.On(n.Name(), port.Own) {
		if !s.Has(p.Status().Index) || !port.Fits(p, live.PortPlug()) {
			continue
		}
		err := p.KeepMacvtap(d.env.Links, amend)
		if err == nil {
			err = p.While(func() error { return d.Bandwidth().keepPort(live, p, s.Whole, amend) })
		}
		if errors.Is(err, bridge.ErrNotFound) {
			err = d.end(p)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// findMacvtaps looks for the macvtap devices of ports of n that other programs registered.
func (d Devices) findMacvtaps(n Network) {
	if !slices.ContainsFunc(d.reg.On(n.Name(), port.External), func(p *port.Port) bool { return p.Status().Index == 0 }) {
		return
	}
	links, err := d.env.Links.Aliased("")
	if err != nil {
		d.env.Logger.Error("looking for what is plugged in", env.KeyNetwork, n.Name(), env.KeyError, err)
	}
	for _, l := range links {
		if l.Kind == bridge.KindMacvtap {
			d.followRegistered(bridge.LinkEvent{Link: l})
		}
	}
}

// isMacvtapOf reports whether a link is the macvtap device of p, which another program has
// registered: it is on the interface of p's plug and has the guest's address.
func (d Devices) isMacvtapOf(p *port.Port, l bridge.Link) bool {
	plug := p.Document().Plug
	if l.Kind != bridge.KindMacvtap || plug.Type != netdef.PlugDirect || !bytes.Equal(l.MAC, p.MAC) {
		return false
	}
	parent, err := d.env.Links.Lookup(plug.Dev)
	return err == nil && l.Parent == parent.Index
}
