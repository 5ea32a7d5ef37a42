package network

import (
	"errors"
	"net"
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
	"github.com/vnetd/vnetd/pkg/dnsd"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/store"
)

// What the services are told of the guests on ports: address and name before the
// guest asks for them, and its end.

// guestServer is a server that gives addresses to guests that come and go.
type guestServer interface {
	lessor
	SetDynamic(l dhcpd.DynamicReservation) error
	DropDynamic(guest net.HardwareAddr)
}

// dhcpParts are the services that give addresses, and to which family each.
var dhcpParts = []struct {
	name string
	is4  bool
}{{partDHCP, true}, {partDHCP6, false}}

// expect sets the addresses and the name of a port aside. The error is Conflict
// where somebody else has an address, and Invalid where nobody on the network
// could get it; nothing is set aside then.
func (s *services) expect(live *netdef.Network, p store.Port) error {
	for _, a := range p.Addrs {
		if a.Is4() && dhcpIP(live) == nil || !a.Is4() && dhcp6IP(live) == nil {
			return Errorf(Invalid, "option address: %v can't be given to a guest: network %q has no DHCP for its family", a, live.Name)
		}
	}
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, part := range dhcpParts {
		srv, ok := s.open[part.name].(guestServer)
		if !ok {
			continue // expectAll follows when it is open again
		}
		if err := setLive(srv, part.is4, p); err != nil {
			s.forget(p)
			if errors.Is(err, dhcpd.ErrTaken) {
				return Errorf(Conflict, "option address: %w", err)
			}
			return Errorf(Invalid, "option address: %w", err)
		}
	}
	if dns, ok := s.open[partDNS].(*dnsd.Server); ok {
		s.announce(dns, p)
	}
	return nil
}

// setLive tells a server of one family what p's guest shall have, if anything.
func setLive(srv guestServer, is4 bool, p store.Port) error {
	l := dhcpd.DynamicReservation{MAC: net.HardwareAddr(p.MAC), Name: p.Name}
	if at := slices.IndexFunc(p.Addrs, func(a netip.Addr) bool { return a.Is4() == is4 }); at >= 0 {
		l.Addr = p.Addrs[at]
	}
	if l.Name == "" && !l.Addr.IsValid() {
		return nil
	}
	return srv.SetDynamic(l)
}

// expectAll tells a server that was just opened of all ports, and of those that
// ended while no vnetd was running; to others it does nothing. The caller holds
// s.mu.
func (s *services) expectAll(srv server) {
	gs, ok := srv.(guestServer)
	if !ok {
		return
	}
	_, is4 := srv.(*v4.Server)
	m := s.n.m
	for _, p := range s.departed {
		if m.ports.mac(s.n, net.HardwareAddr(p.MAC)) == nil {
			gs.DropDynamic(net.HardwareAddr(p.MAC))
		}
		if m.ports.guest(s.n, net.HardwareAddr(p.Guest)) == nil {
			gs.DropDynamic(net.HardwareAddr(p.Guest))
		}
	}
	for _, p := range m.ports.of(s.n) {
		if err := setLive(gs, is4, p.Port); err != nil {
			m.log.Warn("a port loses its address", keyNetwork, s.n.name, keyPort, p.UUID, keyError, err)
		}
	}
	for _, l := range gs.Leases() {
		if p := m.ports.guest(s.n, l.MAC); p != nil {
			m.ports.lease(p, l.Addr, true)
		}
	}
}

// announce tells DNS the name of a port at the addresses that are set aside for
// it. The caller holds s.mu.
func (s *services) announce(dns *dnsd.Server, p store.Port) {
	for _, a := range p.Addrs {
		if p.Name != "" {
			dns.SetHost(dnsd.Host{Name: p.Name, Addr: a})
		}
	}
}

// reserved tells whether a lease that ended is of an address that a port with a
// name has all the same.
func (s *services) reserved(l dhcpd.Lease) bool {
	p := s.n.m.ports.mac(s.n, l.MAC)
	return p != nil && p.Name != "" && slices.Contains(p.Addrs, l.Addr)
}

// dismiss takes back what expect set aside for a port, and ends the leases of its
// guest; held are their addresses.
func (s *services) dismiss(p store.Port, held []netip.Addr) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(p)
	if dns, ok := s.open[partDNS].(*dnsd.Server); ok {
		for _, a := range held {
			dns.DeleteAddr(a)
		}
	}
}

// forget is dismiss of what was set aside. The caller holds s.mu.
func (s *services) forget(p store.Port) {
	for _, part := range dhcpParts {
		if srv, ok := s.open[part.name].(guestServer); ok {
			srv.DropDynamic(net.HardwareAddr(p.MAC))
			srv.DropDynamic(net.HardwareAddr(p.Guest))
		}
	}
	if dns, ok := s.open[partDNS].(*dnsd.Server); ok {
		for _, a := range p.Addrs {
			dns.DeleteAddr(a)
		}
	}
}
