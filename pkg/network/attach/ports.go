// Package attach has the ports of all networks come and go: requested or registered,
// plugged into their network's bridge, followed while somebody has their device, and
// ended. What a port is, and where all of them are found, is package port's. It knows a
// network by what it asks of it, see Network.
package attach

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/guard"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/service"
	"github.com/vnetd/vnetd/pkg/network/translate"
	"github.com/vnetd/vnetd/pkg/store"
	"github.com/vnetd/vnetd/pkg/tap"
)

// Network is what ports ask of the network that they are on.
type Network interface {
	Name() string
	// Info tells what it is now.
	Info() api.Network
	// Begin waits for the network's turn, which ends with End: no other operation on it
	// goes on meanwhile. The error is NotFound where the network has come to its end.
	Begin() error
	End()
	// Live is what the network is now, nil while it is inactive.
	Live() *netdef.Network
	// Document is what it is, or else will be, or else was.
	Document() *netdef.Network
	// BridgeIndex is the ifindex of the active network's bridge, 0 for none.
	BridgeIndex() int
	// Services are what it serves now, nil for nothing.
	Services() *service.Set
	// PortsChanged tells it that ports came, went or have other addresses. It returns at
	// once.
	PortsChanged()
	// Admit has the rules of ports be in the kernel. The caller has its turn.
	Admit(ctx context.Context) error
	// StartOnDemand starts it, if that is allowed, and returns Live. The caller has its
	// turn.
	StartOnDemand(ctx context.Context) (*netdef.Network, error)
}

// Networks are those that there are.
type Networks interface {
	// Named finds a network by its name; nil for none.
	Named(name string) Network
	// OnBridge finds the active network on the bridge with that ifindex; nil for none.
	OnBridge(index int) Network
	// AllOnBridge lists all of those, in order of name.
	AllOnBridge(index int) []Network
	// Each calls f with every network.
	Each(f func(n Network))
	// Expect has the bridge of n know nothing of cards whose guests are about to move here.
	// The caller has the turn of n.
	Expect(ctx context.Context, n Network) error
	// PortEnded is told of a port of n that has ended. It returns at once.
	PortEnded(n Network, uuid string)
}

// Ports is the ports of all networks, with what of them needs the networks: the order
// in which a port, its device, its record and its guest's name come and go, and who is
// told. Its methods may be called concurrently.
type Ports struct {
	env      *env.Environment
	networks Networks
	reg      *port.Registry
	guards   *guard.Keeper
	closings tap.Closings
	choosing sync.Mutex // held by who chooses of a pool, until what he chose counts as used
}

// New returns the ports of those networks, of which none is known yet.
func New(e *env.Environment, networks Networks) *Ports {
	reg := port.NewRegistry()
	return &Ports{env: e, networks: networks, reg: reg, guards: guard.NewKeeper(e.Guards, e.Neighbours, e.Links, reg, actives{networks})}
}

// Registry has the ports.
func (s *Ports) Registry() *port.Registry { return s.reg }

// Devices are the devices of the ports.
func (s *Ports) Devices() Devices { return Devices{s} }

// List lists the ports of every network: those that vnetd made in order of their
// creation, then those that other programs registered, then those whose network is not
// known, which is named "".
func (s *Ports) List() []api.Port { return s.infos(s.reg.All(port.Own, port.External, port.Orphan)) }

// On lists the network's ports, as List does.
func (s *Ports) On(n Network) []api.Port {
	return s.infos(s.reg.On(n.Name(), port.Own, port.External))
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

// ReleaseAll ends every port of n.
func (s *Ports) ReleaseAll(n Network) error {
	var errs []error
	for _, p := range s.reg.On(n.Name(), port.Own, port.External) {
		errs = append(errs, s.end(p))
	}
	return errors.Join(errs...)
}

// Move makes the ports of n, which is inactive, ports of the network that takes its place.
// The caller has the turn of n.
func Move(s *Ports, n, to Network) {
	for _, p := range s.reg.On(n.Name(), port.Own, port.External) {
		if moved := port.Move(p, to.Name()); moved != nil {
			s.Devices().follow(moved)
			s.publish(env.PortChanged, to, s.info(moved))
		}
	}
}

// end ends a port, deletes the TAP device of one that vnetd made, and tells, unless
// that has been done. Its guest is gone: so are its leases, its reservation and its
// name; but for one that moved to another host, which takes its leases on. A port that can't be ended stays in the books; one of vnetd's own is tried
// again.
func (s *Ports) end(p *port.Port) error {
	var info api.Port
	var again bool
	err := p.End(func() error {
		again = p.Kind == port.Own && p.Status().Failed == nil
		info = s.info(p)
		if err := s.Clear(p.Record()); err != nil {
			return err
		}
		if n := s.network(p); n != nil && p.Kind == port.Own {
			dismiss(s.env, n, p)
		}
		return nil
	}, func() { s.ended(p, info) })
	if err != nil && again {
		s.env.Tasks.Repeat(func() bool { return s.end(p) == nil })
	}
	return err
}

// dismiss has the network's services forget the guest on a port.
func dismiss(e *env.Environment, n Network, p *port.Port) {
	guest := GuestOf(p.Record())
	if e.Clusters.Leaves(n.Document(), p.CardAddr(), p.OwnerUUID) {
		n.Services().Withdraw(guest)
	} else {
		n.Services().Dismiss(guest, p.Status().Held)
	}
}

func (s *Ports) endLogged(p *port.Port) {
	if err := s.end(p); err != nil {
		s.env.Logger.Error("ending a port", env.KeyPort, p.UUID, env.KeyError, err)
	}
}

// ended tells of a port that is out of the books, and was info before.
func (s *Ports) ended(p *port.Port, info api.Port) {
	n := s.network(p)
	if n != nil {
		s.networks.PortEnded(n, p.UUID)
		if live := n.Live(); live != nil {
			s.Devices().inherit(n, live, p)
			if err := s.env.RunPortHook(context.Background(), env.HookPortDeleted, live, p); err != nil {
				s.env.Logger.Warn("the port is gone all the same", env.KeyPort, p.UUID, env.KeyError, err)
			}
		}
	}
	happened := "port removed"
	if p.Kind == port.External {
		happened = "port ended"
	}
	s.env.Logger.Info(happened, env.KeyNetwork, p.Network, env.KeyPort, p.UUID, env.KeyIfName, info.IfName)
	s.publish(env.PortRemoved, n, info)
	if n != nil && p.Status().ClassID != 0 {
		s.Bandwidth().floorGone(n)
	}
}

// Clear deletes the TAP device of a port that vnetd made, and then the port's record.
func (s *Ports) Clear(p store.Port) error {
	if err := errors.Join(port.DeleteDevice(s.env.Links, p), s.env.Bandwidth.End(p.Index), tap.RemoveNode(p.Node, store.Nodes(s.env.Store))); err != nil {
		return err
	}
	return s.env.Store.DeletePort(p.UUID)
}

// Keep writes the run-state of a port where that was gone.
func (s *Ports) Keep(p store.Port) error {
	s.env.Logger.Warn("run-state of a port was gone and is written anew", env.KeyPort, p.UUID, env.KeyIfName, p.IfName)
	return s.env.Store.SavePort(p)
}

// network is the network that p is on; nil where that is not known.
func (s *Ports) network(p *port.Port) Network { return s.networks.Named(p.Network) }

// publish tells what happened to a port of n, nil for none.
func (s *Ports) publish(kind env.EventKind, n Network, info api.Port) {
	e := env.Event{Kind: kind, Port: &info}
	if n != nil {
		n.PortsChanged()
		e.Network = n.Info()
	}
	s.env.Events.Publish(e)
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
	s.guards.Describe(p, &info)
	s.Bandwidth().describe(p, &info)
	l, err := s.env.Links.LookupIndex(p.Status().Index)
	n := s.network(p)
	if err == nil {
		info.MTU = l.MTU
	}
	if err == nil && n != nil {
		info.MTU = translate.GuestMTU(n.Document(), l.MTU)
	}
	info.HostReach = n != nil && translate.HostReach(n.Document())
	info.Rules = append([]string{}, p.Status().Rules...)
	if n != nil {
		s := p.Status()
		info.VLAN = translate.PortVLAN(n.Document(), s.PortGroup, s.OwnVLAN()).String()
	}
	switch {
	case p.Kind == port.Own && n != nil && port.Fits(p, n.Document().PortPlug()):
		info.Bridge = n.Document().Bridge.Name
	case p.Kind == port.Orphan && err == nil:
		if b, err := s.env.Links.LookupIndex(l.Master); err == nil {
			info.Bridge = b.Name
		}
	}
	return info
}

// Lease follows a lease of a guest on n.
func (s *Ports) Lease(n Network, mac net.HardwareAddr, a netip.Addr, has bool) {
	for _, p := range s.reg.Lease(n.Name(), mac, a, has) {
		s.guards.Changed(p)
		s.publish(env.PortChanged, n, s.info(p))
	}
}

// Leased says that the guests on n with that address of a card have had an address since
// before.
func (s *Ports) Leased(n Network, mac net.HardwareAddr, a netip.Addr) {
	for _, p := range s.reg.Lease(n.Name(), mac, a, true) {
		s.guards.Changed(p)
	}
}

// Learn has the port that a card is plugged into know the card's address. It
// returns what a former guest of that port had leased.
func (s *Ports) Learn(n Network, mac net.HardwareAddr) (former []netip.Addr) {
	if s.reg.Count(n.Name(), port.Own) == 0 || s.reg.Guest(n.Name(), mac) != nil || s.reg.MAC(n.Name(), mac) != nil || reservesFor(n.Live(), mac) {
		return nil
	}
	index := n.BridgeIndex()
	if index == 0 {
		return nil
	}
	at, err := s.env.Links.FDBPort(index, mac)
	if err != nil {
		s.env.Logger.Warn("not known which port a guest is on", env.KeyNetwork, n.Name(), env.KeyMAC, mac.String(), env.KeyError, err)
		return nil
	}
	p := s.reg.Index(at)
	if p == nil || p.Kind != port.Own || p.Network != n.Name() {
		return nil
	}
	former, ok := p.Learn(mac)
	if !ok {
		return nil
	}
	s.guards.Changed(p)
	s.env.Logger.Info("the guest of a port has another MAC address", env.KeyNetwork, n.Name(), env.KeyPort, p.UUID, env.KeyMAC, mac.String())
	if err := s.env.Store.SavePort(p.Record()); err != nil {
		s.env.Logger.Error("recording the guest of a port", env.KeyPort, p.UUID, env.KeyError, err)
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

// GuestOf is the guest on a port.
func GuestOf(p store.Port) service.Guest {
	return service.Guest{MAC: p.MAC, Card: p.Guest, Name: p.Name, Aliases: p.Aliases, Addrs: p.Addrs}
}

// Documents describes the network's ports as libvirt does: those that other
// programs registered, and those that vnetd made.
func (s *Ports) Documents(n Network) []*netdef.Port {
	var docs []*netdef.Port
	for _, p := range s.reg.On(n.Name(), port.External) {
		docs = append(docs, p.Document())
	}
	for _, p := range s.reg.On(n.Name(), port.Own) {
		doc := p.Describe(n.Document().Bridge.Name)
		doc.Bandwidth = translate.PortBandwidth(n.Document(), doc.Group, doc.Bandwidth)
		if len(doc.Bandwidth.Limits()) == 0 {
			doc.Bandwidth = nil
		}
		docs = append(docs, doc)
	}
	return docs
}
