package network

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/store"
)

// PortOptions say what port is wanted.
type PortOptions = port.Spec

// Limits bound what one user may have, root excepted.
type Limits = port.Limits

// Ports is the ports of all networks, with what of them needs the networks: the order
// in which a port, its device, its record and its guest's name come and go, and who is
// told. Its methods may be called concurrently.
type Ports struct {
	m   *Manager
	reg *port.Registry
}

// Ports are the ports of all networks.
func (m *Manager) Ports() *Ports { return m.ports }

// List lists the ports of every network: those that vnetd made in order of their
// creation, then those that other programs registered, then those whose network is not
// known, which is named "".
func (s *Ports) List() []api.Port { return s.infos(s.reg.All(port.Own, port.External, port.Orphan)) }

// On lists the network's ports, as List does.
func (s *Ports) On(n *Network) []api.Port {
	return s.infos(s.reg.On(n.name, port.Own, port.External))
}

// Find finds a port by its UUID, in any case, or by its interface's name.
func (s *Ports) Find(key string) (api.Port, error) {
	p := s.reg.Find(key)
	if p == nil {
		return api.Port{}, port.NotFound(key)
	}
	return s.info(p), nil
}

// WaitForAddress waits until the guest of the port with that UUID has an address
// leased, and lists what it has. The error is NotFound when the port ends, and
// ctx's when that ends first.
func (s *Ports) WaitForAddress(ctx context.Context, uuid string) ([]netip.Addr, error) {
	return s.reg.WaitForAddress(ctx, uuid)
}

// Holders lists who holds ports of LifetimeBus.
func (s *Ports) Holders() []string { return s.reg.Holders() }

// HolderGone ends the ports that a holder has.
func (s *Ports) HolderGone(holder string) {
	for _, p := range s.reg.HeldBy(holder) {
		s.endLogged(p)
	}
}

// Release ends the port with that UUID: its TAP device is deleted, whoever
// still has it open; not so that of a port which another program registered.
func (s *Ports) Release(_ context.Context, uuid string) error {
	p := s.reg.UUID(uuid)
	if p == nil {
		return port.NotFound(uuid)
	}
	return s.end(p)
}

// releaseAll ends every port of n.
func (s *Ports) releaseAll(n *Network) error {
	var errs []error
	for _, p := range s.reg.On(n.name, port.Own, port.External) {
		errs = append(errs, s.end(p))
	}
	return errors.Join(errs...)
}

// end ends a port, deletes the TAP device of one that vnetd made, and tells, unless
// that has been done. Its guest is gone: so are its leases, its reservation and its
// name. A port that can't be ended stays in the books; one of vnetd's own is tried
// again.
func (s *Ports) end(p *port.Port) error {
	var info api.Port
	var again bool
	err := p.End(func() error {
		again = p.Kind == port.Own && p.Status().Failed == nil
		info = s.info(p)
		if err := s.clear(p.Record()); err != nil {
			return err
		}
		if n := s.network(p); n != nil && p.Kind == port.Own {
			n.runningServices().Dismiss(guestOf(p.Record()), p.Status().Held)
		}
		return nil
	}, func() { s.ended(p, info) })
	if err != nil && again {
		s.m.repeat(func() bool { return s.end(p) == nil })
	}
	return err
}

func (s *Ports) endLogged(p *port.Port) {
	if err := s.end(p); err != nil {
		s.m.log.Error("ending a port", keyPort, p.UUID, keyError, err)
	}
}

// ended tells of a port that is out of the books, and was info before.
func (s *Ports) ended(p *port.Port, info api.Port) {
	n := s.network(p)
	if n != nil {
		if live := n.liveNetwork(); live != nil {
			if err := s.m.hook.port(context.Background(), hookPortDeleted, live, p); err != nil {
				s.m.log.Warn("the port is gone all the same", keyPort, p.UUID, keyError, err)
			}
		}
	}
	happened := "port removed"
	if p.Kind == port.External {
		happened = "port ended"
	}
	s.m.log.Info(happened, keyNetwork, p.Network, keyPort, p.UUID, keyIfName, info.IfName)
	s.publish(PortRemoved, n, info)
}

// clear deletes the TAP device of a port that vnetd made, and then the port's record.
func (s *Ports) clear(p store.Port) error {
	if err := port.DeleteDevice(s.m.cfg.Links, p); err != nil {
		return err
	}
	return s.m.cfg.Store.DeletePort(p.UUID)
}

// keep writes the run-state of a port where that was gone.
func (s *Ports) keep(p store.Port) error {
	s.m.log.Warn("run-state of a port was gone and is written anew", keyPort, p.UUID, keyIfName, p.IfName)
	return s.m.cfg.Store.SavePort(p)
}

// network is the network that p is on; nil where that is not known.
func (s *Ports) network(p *port.Port) *Network { return s.m.find(p.Network) }

// publish tells what happened to a port of n, nil for none.
func (s *Ports) publish(kind EventKind, n *Network, info api.Port) {
	e := Event{Kind: kind, Port: &info}
	if n != nil {
		e.Network = n.Info()
	}
	s.m.events.publish(e)
}

func (s *Ports) infos(ports []*port.Port) []api.Port {
	infos := make([]api.Port, 0, len(ports))
	for _, p := range ports {
		infos = append(infos, s.info(p))
	}
	return infos
}

// info tells what p is now.
func (s *Ports) info(p *port.Port) api.Port {
	info := p.Info()
	l, err := s.m.cfg.Links.LookupIndex(p.Status().Index)
	if err == nil {
		info.MTU = l.MTU
	}
	switch n := s.network(p); {
	case p.Kind == port.Own && n != nil:
		info.Bridge = n.describes().Bridge.Name
	case p.Kind == port.Orphan && err == nil:
		if b, err := s.m.cfg.Links.LookupIndex(l.Master); err == nil {
			info.Bridge = b.Name
		}
	}
	return info
}

// lease follows a lease of a guest on n.
func (s *Ports) lease(n *Network, mac net.HardwareAddr, a netip.Addr, has bool) {
	for _, p := range s.reg.Lease(n.name, mac, a, has) {
		s.publish(PortChanged, n, s.info(p))
	}
}

// learn has the port that a card is plugged into know the card's address. It
// returns what a former guest of that port had leased.
func (s *Ports) learn(n *Network, mac net.HardwareAddr) (former []netip.Addr) {
	if s.reg.Count(n.name, port.Own) == 0 || s.reg.Guest(n.name, mac) != nil || s.reg.MAC(n.name, mac) != nil || reservesFor(n.liveNetwork(), mac) {
		return nil
	}
	index := n.bridgeIndex()
	if index == 0 {
		return nil
	}
	at, err := s.m.cfg.Links.FDBPort(index, mac)
	if err != nil {
		s.m.log.Warn("not known which port a guest is on", keyNetwork, n.name, keyMAC, mac.String(), keyError, err)
		return nil
	}
	p := s.reg.Index(at)
	if p == nil || p.Kind != port.Own || p.Network != n.name {
		return nil
	}
	former, ok := p.Learn(mac)
	if !ok {
		return nil
	}
	s.m.log.Info("the guest of a port has another MAC address", keyNetwork, n.name, keyPort, p.UUID, keyMAC, mac.String())
	if err := s.m.cfg.Store.SavePort(p.Record()); err != nil {
		s.m.log.Error("recording the guest of a port", keyPort, p.UUID, keyError, err)
	}
	return former
}

// reservesFor reports whether a network that is live, if it is, reserves something for
// a card with the address.
func reservesFor(live *netdef.Network, mac net.HardwareAddr) bool {
	return live != nil && slices.ContainsFunc(live.IPs, func(ip netdef.IP) bool {
		return ip.DHCP != nil && slices.ContainsFunc(ip.DHCP.Hosts, func(h netdef.DHCPHost) bool { return bytes.Equal(h.MAC, mac) })
	})
}
