package network

import (
	"bytes"
	"context"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/translate"
	"github.com/vnetd/vnetd/pkg/tap"
)

// externalGrace is how long after its device a port stays: whoever took the
// device away says next that the port ends, unless that program is gone as well.
const externalGrace = 10 * time.Second

// Register records a port whose device another program makes, which runs as
// owner, and returns its document with all that the network adds to it, the plug
// above all. With reclaim the device is there already and the document says what it
// is plugged into. Errors are InvalidState for an inactive network, Exists for a UUID
// that is taken, LimitExceeded where the owner may have no more, and Invalid or
// Unsupported for what the port can't have.
func (s *Ports) Register(ctx context.Context, n *Network, doc *netdef.Port, reclaim bool, owner uint32) (*netdef.Port, error) {
	begin := time.Now()
	if err := n.begin(); err != nil {
		return nil, err
	}
	defer n.op.Unlock()
	live := n.liveNetwork()
	if live == nil {
		return nil, api.Errorf(api.InvalidState, "network '%s' is not active", n.name)
	}
	full, err := translate.NetworkPort(live, doc, reclaim)
	if err != nil {
		return nil, err
	}
	p, err := s.reg.Register(n.name, live.UUID, full, owner, s.m.cfg.Limits)
	if err != nil {
		return nil, err
	}
	err = s.m.hookPort(ctx, hookPortCreated, live, p)
	if err == nil {
		err = s.m.cfg.Store.SavePort(p.Record())
	}
	if err != nil {
		s.reg.Remove(p)
		return nil, err
	}
	s.findDevices(n)
	s.m.log.Info("port registered", keyNetwork, n.name, keyPort, full.UUID, keyMAC, full.MAC.String(), "owner", full.Owner.Name)
	leases, _ := n.runningServices().Leases()
	for _, l := range leases {
		if bytes.Equal(l.MAC, full.MAC) {
			p.Lease(l.Addr)
		}
	}
	s.m.portRequests.Add(time.Since(begin), 1)
	s.publish(PortAdded, n, s.info(p))
	return full, nil
}

// ErrFloor is in the error of a port with a guarantee that nothing on its network
// can keep.
var ErrFloor = translate.ErrFloor

// Documents describes the network's ports as libvirt does: those that other
// programs registered, and those that vnetd made.
func (s *Ports) Documents(n *Network) []*netdef.Port {
	var docs []*netdef.Port
	for _, p := range s.reg.On(n.name, port.External) {
		docs = append(docs, p.Document())
	}
	for _, p := range s.reg.On(n.name, port.Own) {
		docs = append(docs, p.Describe(n.bridgeName()))
	}
	return docs
}

// SetBandwidth makes b the limits of a port of n that another program registered,
// and whose device that program limits. Nil is no limit. The error is NotFound for
// a port that is not there, Unsupported for one of vnetd's own.
func (s *Ports) SetBandwidth(_ context.Context, n *Network, uuid string, b *netdef.Bandwidth) error {
	if err := n.begin(); err != nil {
		return err
	}
	defer n.op.Unlock()
	p := s.reg.UUID(uuid)
	switch {
	case p == nil || p.Network != n.name:
		return port.NotFound(uuid)
	case p.Kind == port.Own:
		return api.Errorf(api.Unsupported, "port %s is vnetd's own: it has no limits", uuid)
	}
	former := p.Document()
	next := *former
	next.Bandwidth = b
	if live := n.liveNetwork(); live != nil {
		if err := translate.CheckFloor(live, &next); err != nil {
			return err
		}
	}
	p.SetDocument(&next)
	if err := s.m.cfg.Store.SavePort(p.Record()); err != nil {
		p.SetDocument(former)
		return err
	}
	return nil
}

// followRegistered follows the devices of ports that other programs registered: one
// is on the network's bridge and has the guest's address, as libvirt makes it.
func (s *Ports) followRegistered(e bridge.LinkEvent) {
	for _, p := range s.reg.All(port.External) {
		n := s.network(p)
		if n == nil {
			continue
		}
		on := n.bridgeIndex()
		ours := p.Status().Index == e.Index
		switch {
		case ours && e.Deleted:
			s.endLater(p, e.Index)
		case !e.Deleted && !ours && on != 0 && e.Master == on && bytes.Equal(e.MAC, tap.HostMAC(p.MAC)):
			p.SetDevice(e.Link)
			s.seen(n, p)
		}
	}
}

// seen records which device a port has, and tells.
func (s *Ports) seen(n *Network, p *port.Port) {
	record := p.Record()
	if err := s.m.cfg.Store.SavePort(record); err != nil {
		s.m.log.Error("recording the device of a port", keyPort, record.UUID, keyError, err)
	}
	s.m.log.Info("the device of a port is there", keyNetwork, n.name, keyPort, record.UUID, keyIfName, record.IfName)
	s.publish(PortChanged, n, s.info(p))
}

// endLater ends a port whose device is gone, unless somebody says so before, or it
// gets another.
func (s *Ports) endLater(p *port.Port, index int) {
	s.m.running.Go(func() {
		select {
		case <-s.m.services.Done():
			return
		case <-time.After(externalGrace):
		}
		if p.Status().Index != index {
			return
		}
		if err := s.end(p); err != nil {
			s.m.log.Error("ending a port: trying again", keyPort, p.UUID, keyError, err)
			s.m.repeat(func() bool { return s.end(p) == nil })
		}
	})
}
