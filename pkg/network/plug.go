package network

import (
	"context"
	"errors"

	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// replug puts every port of n, and what others had plugged in, on the bridge with
// that ifindex, as live has its ports, wherever they are now. The caller holds
// n.op.
func (s *Ports) replug(ctx context.Context, n *Network, live *netdef.Network, bridgeIndex int) error {
	s.adopt(n, live.UUID)
	var errs []error
	for _, p := range s.reg.On(n.name, port.Own) {
		_, err := s.m.cfg.Links.LookupIndex(p.Status().Index)
		switch {
		case errors.Is(err, bridge.ErrNotFound):
			err = s.end(p)
		case err == nil:
			err = p.Attach(ctx, s.m.cfg.Links, bridgeIndex, translate.Port(live))
		}
		errs = append(errs, err)
	}
	return errors.Join(append(errs, s.replugForeign(ctx, n, live, bridgeIndex))...)
}

// replugForeign puts what others had plugged into the network's bridge on it
// again, where it is on none now: the bridge was gone for a while.
func (s *Ports) replugForeign(ctx context.Context, n *Network, live *netdef.Network, bridgeIndex int) error {
	var errs []error
	for _, p := range s.reg.On(n.name, port.Foreign) {
		index := p.Status().Index
		l, err := s.m.cfg.Links.LookupIndex(index)
		if err != nil || l.Master != 0 || !port.PluggedByOthers(l) {
			continue
		}
		if x := s.reg.Index(index); x != nil && x.Kind == port.External {
			p = x // what was registered says how it is plugged in
		}
		s.m.log.Info("plugging a device in again that had lost its bridge", keyNetwork, n.name, keyIfName, l.Name)
		errs = append(errs, p.Attach(ctx, s.m.cfg.Links, bridgeIndex, translate.Port(live)))
	}
	return errors.Join(errs...)
}

// unplug takes every port of n off its bridge. The ports live on, without
// traffic, for as long as they are open.
func (s *Ports) unplug(n *Network) error {
	var errs []error
	for _, p := range s.reg.On(n.name, port.Own) {
		err := s.m.cfg.Links.Detach(p.Status().Index)
		if errors.Is(err, bridge.ErrNotFound) {
			err = s.end(p)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// onLink follows the devices of ports, and reports whether e is of one.
func (s *Ports) onLink(e bridge.LinkEvent) bool {
	p := s.reg.Index(e.Link.Index)
	if p != nil && p.Kind == port.Own {
		s.onOwnLink(p, e)
		return true
	}
	return s.onOtherLink(p, e)
}

// onOwnLink follows the device of a port of vnetd's own: the port ends with it, is put
// on its bridge again where somebody took it off, and forwards at once when somebody
// opens it, where STP would make it wait.
func (s *Ports) onOwnLink(p *port.Port, e bridge.LinkEvent) {
	if e.Deleted {
		s.endLogged(p)
		return
	}
	opened := p.Opened(e.Link.Carrier)
	n := s.network(p)
	if n == nil {
		return
	}
	on := n.activated()
	if on == nil || on.ifindex == 0 || e.Link.Master == on.ifindex && !(opened && on.doc.Bridge.STP) {
		return
	}
	s.m.running.Go(func() {
		if err := s.replugOne(s.m.services, n, p); err != nil && !errors.Is(err, bridge.ErrNotFound) {
			s.m.log.Error("plugging a port in again", keyPort, p.UUID, keyError, err)
		}
	})
}

// replugOne is replug for one port.
func (s *Ports) replugOne(ctx context.Context, n *Network, p *port.Port) error {
	n.op.Lock()
	defer n.op.Unlock()
	on := n.activated()
	if on == nil || s.reg.UUID(p.UUID) != p {
		return nil
	}
	return p.Attach(ctx, s.m.cfg.Links, on.ifindex, translate.Port(on.doc))
}

// onOtherLink follows a device that is no port of vnetd's own: one of a port without a
// network ends that port, others are followed as foreign and registered ports.
func (s *Ports) onOtherLink(p *port.Port, e bridge.LinkEvent) bool {
	if p != nil && p.Kind == port.Orphan && e.Deleted {
		s.endLogged(p)
	}
	if !port.PluggedByOthers(e.Link) {
		return false
	}
	s.noteForeign(e.Link.Index)
	s.followRegistered(e)
	return true
}

// noteForeign remembers on which networks' bridges others have plugged a device in.
func (s *Ports) noteForeign(index int) {
	// The event may tell of a bridge that is gone meanwhile.
	l, err := s.m.cfg.Links.LookupIndex(index)
	if err != nil && !errors.Is(err, bridge.ErrNotFound) {
		return
	}
	gone, master := err != nil, ""
	if !gone && l.Master != 0 {
		if b, err := s.m.cfg.Links.LookupIndex(l.Master); err == nil {
			master = b.Name
		}
	}
	for _, n := range s.m.all() {
		switch {
		// By name: a bridge made anew has devices on it before it is the active one's.
		case master != "" && master == n.bridgeName():
			s.reg.AddForeign(n.name, index)
		case gone || master != "":
			s.reg.DropForeign(n.name, index)
		}
	}
}

// findDevices looks on n's bridge for the devices of ports that other programs
// registered, and for what others plugged in without a word.
func (s *Ports) findDevices(n *Network) {
	index := n.bridgeIndex()
	if index == 0 {
		return
	}
	links, err := s.m.cfg.Links.Members(index)
	if err != nil {
		s.m.log.Error("looking for what is plugged in", keyNetwork, n.name, keyError, err)
	}
	for _, l := range links {
		if p := s.reg.Index(l.Index); (p == nil || p.Kind != port.Own) && port.PluggedByOthers(l) {
			s.onOtherLink(p, bridge.LinkEvent{Link: l})
		}
	}
}

// resync looks for every device anew, after events were missed.
func (s *Ports) resync() {
	for _, p := range s.reg.All(port.Own) {
		if !port.There(s.m.cfg.Links, p.Record()) {
			s.endLogged(p)
		}
	}
	for _, n := range s.m.all() {
		s.findDevices(n)
	}
	for _, p := range s.reg.All(port.External) {
		index := p.Status().Index
		if _, err := s.m.cfg.Links.LookupIndex(index); index != 0 && errors.Is(err, bridge.ErrNotFound) {
			s.endLater(p, index)
		}
	}
}
