package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/translate"
	"github.com/vnetd/vnetd/pkg/store"
)

// attach puts a port's TAP device on the bridge with that ifindex, as a network
// that is live has its ports; where it is there already, it is brought to that.
func (m *Manager) attach(ctx context.Context, live *netdef.Network, bridgeIndex int, p *port) error {
	if err := m.cfg.Links.Attach(ctx, bridgeIndex, p.Index, translate.Port(live, p.Isolated)); err != nil {
		return err
	}
	if translate.ManagesMACs(live) {
		return m.cfg.Links.AddFDB(p.Index, p.MAC)
	}
	return nil
}

// replug puts every port of n, and what others had plugged in, on the bridge with
// that ifindex, as live has its ports, wherever they are now. The caller holds
// n.op.
func (m *Manager) replug(ctx context.Context, n *Network, live *netdef.Network, bridgeIndex int) error {
	m.adoptOrphans(n, live.UUID)
	var errs []error
	for _, p := range m.ports.of(n) {
		_, err := m.cfg.Links.LookupIndex(p.Index)
		switch {
		case errors.Is(err, bridge.ErrNotFound):
			err = m.end(p)
		case err == nil:
			err = m.attach(ctx, live, bridgeIndex, p)
		}
		errs = append(errs, err)
	}
	return errors.Join(append(errs, n.replugForeign(ctx, live, bridgeIndex))...)
}

// unplug takes every port of n off its bridge. The ports live on, without
// traffic, for as long as they are open.
func (m *Manager) unplug(n *Network) error {
	var errs []error
	for _, p := range m.ports.of(n) {
		err := m.cfg.Links.Detach(p.Index)
		if errors.Is(err, bridge.ErrNotFound) {
			err = m.end(p)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// clearPort deletes a port's TAP device, if that still is its own and vnetd made
// it, and then its record.
func (m *Manager) clearPort(p store.Port) error {
	if p.Lifetime == api.LifetimeExternal {
		return m.cfg.Store.DeletePort(p.UUID)
	}
	l, err := m.cfg.Links.LookupIndex(p.Index)
	switch {
	case errors.Is(err, bridge.ErrNotFound):
	case err != nil:
		return err
	case l.Name == p.IfName:
		if err := m.cfg.Links.DeleteLink(p.Index); err != nil {
			return err
		}
	}
	return m.cfg.Store.DeletePort(p.UUID)
}

// hasLink tells whether the TAP device of p still is there. What can't be found out is
// taken to be so.
func (m *Manager) hasLink(p store.Port) bool {
	l, err := m.cfg.Links.LookupIndex(p.Index)
	return err == nil && l.Name == p.IfName || err != nil && !errors.Is(err, bridge.ErrNotFound)
}

// dropDeadPorts ends the ports whose TAP device is gone, after events were
// missed.
func (m *Manager) dropDeadPorts() {
	for _, p := range m.ports.all() {
		if !m.hasLink(p.Port) {
			m.endLogged(p)
		}
	}
}

// onLease follows a lease of the guest of one of n's ports.
func (m *Manager) onLease(n *Network, mac net.HardwareAddr, a netip.Addr, has bool) {
	for _, x := range m.external.lease(n, mac, a, has) {
		m.publishPort(PortChanged, x)
	}
	p := m.ports.guest(n, mac)
	if p == nil || !m.ports.lease(p, a, has) {
		return
	}
	info := m.portInfo(p)
	m.events.publish(Event{Kind: PortChanged, Network: n.Info(), Port: &info})
}

// noteForeign remembers what others have plugged into the bridges of networks,
// by one event of such a device.
func (m *Manager) noteForeign(e bridge.LinkEvent) {
	// The event may tell of a bridge that is gone meanwhile.
	l, err := m.cfg.Links.LookupIndex(e.Link.Index)
	if err != nil && !errors.Is(err, bridge.ErrNotFound) {
		return
	}
	gone, master := err != nil, ""
	if !gone && l.Master != 0 {
		if b, err := m.cfg.Links.LookupIndex(l.Master); err == nil {
			master = b.Name
		}
	}
	for _, n := range m.all() {
		n.mu.Lock()
		at := slices.Index(n.foreign, e.Link.Index)
		// By name: a bridge made anew has devices on it before it is the active one's.
		on := master != "" && master == n.document().Bridge.Name
		switch {
		case at < 0 && on:
			n.foreign = append(n.foreign, e.Link.Index)
		case at >= 0 && !on && (gone || master != ""):
			n.foreign = slices.Delete(n.foreign, at, at+1)
		}
		n.mu.Unlock()
	}
}

// replugForeign puts what others had plugged into the network's bridge on it
// again, where it is on none now: the bridge was gone for a while.
func (n *Network) replugForeign(ctx context.Context, live *netdef.Network, bridgeIndex int) error {
	n.mu.Lock()
	foreign := slices.Clone(n.foreign)
	n.mu.Unlock()
	var errs []error
	for _, index := range foreign {
		l, err := n.m.cfg.Links.LookupIndex(index)
		if err != nil || l.Master != 0 || !foreignTAP(l) {
			continue
		}
		n.m.log.Info("plugging a device in again that had lost its bridge", keyNetwork, n.name, keyIfName, l.Name)
		errs = append(errs, n.m.cfg.Links.Attach(ctx, bridgeIndex, index, translate.Port(live, n.m.external.isolated(index))))
	}
	return errors.Join(errs...)
}
