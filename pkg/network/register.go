package network

import (
	"bytes"
	"context"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

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
	err = s.m.hook.port(ctx, hookPortCreated, live, p)
	if err == nil {
		err = s.m.cfg.Store.SavePort(p.Record())
	}
	if err != nil {
		s.reg.Remove(p)
		return nil, err
	}
	s.m.devices.findDevices(n)
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
		docs = append(docs, p.Describe(n.describes().Bridge.Name))
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
