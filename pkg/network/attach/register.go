package attach

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// Register records a port whose device another program makes, which runs as
// owner, and returns its document with all that the network adds to it, the plug
// above all. With reclaim the device is there already and the document says what it
// is plugged into. Errors are InvalidState for an inactive network, Exists for a UUID
// that is taken, LimitExceeded where the owner may have no more, and Invalid or
// Unsupported for what the port can't have.
func (s *Ports) Register(ctx context.Context, n Network, doc *netdef.Port, reclaim bool, owner uint32) (*netdef.Port, error) {
	begin := time.Now()
	if err := n.Begin(); err != nil {
		return nil, err
	}
	defer n.End()
	live := n.Live()
	if live == nil {
		return nil, api.Errorf(api.InvalidState, "network '%s' is not active", n.Name())
	}
	full, err := translate.NetworkPort(live, doc, reclaim)
	if err != nil {
		return nil, err
	}
	p, err := s.reg.Register(n.Name(), live.UUID, full, owner, s.env.Limits)
	if err != nil {
		return nil, err
	}
	err = s.env.RunPortHook(ctx, env.HookPortCreated, live, p)
	if err == nil {
		err = s.env.Store.SavePort(p.Record())
	}
	if err != nil {
		s.reg.Remove(p)
		return nil, err
	}
	s.Devices().Find(n)
	s.env.Logger.Info("port registered", env.KeyNetwork, n.Name(), env.KeyPort, full.UUID, env.KeyMAC, full.MAC.String(), "owner", full.Owner.Name)
	leases, _ := n.Services().Leases()
	for _, l := range leases {
		if bytes.Equal(l.MAC, full.MAC) {
			p.Lease(l.Addr)
		}
	}
	s.env.PortRequests.Add(time.Since(begin), 1)
	s.publish(env.PortAdded, n, s.info(p))
	return full, nil
}

// TakeOver registers a port of n, which has that UUID, that another program's network
// had: it was root's. The caller has n's turn.
func (s *Ports) TakeOver(n Network, uuid string, doc *netdef.Port) error {
	p, err := s.reg.Register(n.Name(), uuid, doc, 0, port.Limits{})
	if err != nil {
		return err
	}
	if saved := s.env.Store.SavePort(p.Record()); saved != nil {
		err = fmt.Errorf("recording port %s: %w", doc.UUID, saved)
	}
	s.publish(env.PortAdded, n, s.info(p))
	return err
}

// Documents describes the network's ports as libvirt does: those that other
// programs registered, and those that vnetd made.
func (s *Ports) Documents(n Network) []*netdef.Port {
	var docs []*netdef.Port
	for _, p := range s.reg.On(n.Name(), port.External) {
		docs = append(docs, p.Document())
	}
	for _, p := range s.reg.On(n.Name(), port.Own) {
		docs = append(docs, p.Describe(n.Document().Bridge.Name))
	}
	return docs
}

// SetBandwidth makes b the limits of a port of n that another program registered,
// and whose device that program limits. Nil is no limit. The error is NotFound for
// a port that is not there, Unsupported for one of vnetd's own.
func (s *Ports) SetBandwidth(_ context.Context, n Network, uuid string, b *netdef.Bandwidth) error {
	if err := n.Begin(); err != nil {
		return err
	}
	defer n.End()
	p := s.reg.UUID(uuid)
	switch {
	case p == nil || p.Network != n.Name():
		return port.NotFound(uuid)
	case p.Kind == port.Own:
		return api.Errorf(api.Unsupported, "port %s is vnetd's own: it has no limits", uuid)
	}
	former := p.Document()
	next := *former
	next.Bandwidth = b
	if live := n.Live(); live != nil {
		if err := translate.CheckFloor(live, &next); err != nil {
			return err
		}
	}
	p.SetDocument(&next)
	if err := s.env.Store.SavePort(p.Record()); err != nil {
		p.SetDocument(former)
		return err
	}
	return nil
}
