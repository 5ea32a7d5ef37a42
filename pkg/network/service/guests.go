package service

import (
	"bytes"
	"net"
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dnsd"
)

// Guest is the guest on a port, as services are told of it before it asks for
// anything.
type Guest struct {
	// MAC is the port's address.
	MAC net.HardwareAddr
	// Card is the address that the guest really has, where that is another one; nil
	// otherwise.
	Card net.HardwareAddr
	// Name is served in DNS, and no other guest's; may be empty.
	Name string
	// Addrs are set aside for it, at most one of a family.
	Addrs []netip.Addr
}

// Guests knows the guests on a network's ports. Its methods are called with the
// set's lock held, but for Seen: they must not call the set.
type Guests interface {
	Guests() []Guest
	// Guest finds one by the address of its card or its port.
	Guest(mac net.HardwareAddr) (Guest, bool)
	// Leased records that a guest has an address.
	Leased(mac net.HardwareAddr, a netip.Addr)
	// Seen has the port that a card is plugged into know the card's address. It
	// returns what a former guest of that port had leased, and DNS is to forget.
	Seen(mac net.HardwareAddr) (former []netip.Addr)
}

// reserver is a server that sets addresses aside for guests that come and go.
type reserver interface {
	Leases() []dhcpd.Lease
	SetDynamic(l dhcpd.DynamicReservation) error
	DropDynamic(mac net.HardwareAddr)
	WithdrawDynamic(mac net.HardwareAddr)
}

// reservers are the open servers that give addresses, IPv4's first. The caller
// holds s.mu.
func (s *Set) reservers() []family {
	var open []family
	if s.dhcp.srv != nil {
		open = append(open, family{s.dhcp.srv, true})
	}
	if s.dhcp6.srv != nil {
		open = append(open, family{s.dhcp6.srv, false})
	}
	return open
}

// family is a reserver and what it gives addresses of.
type family struct {
	reserver
	is4 bool
}

// set tells a server what a guest shall have, if anything.
func (f family) set(g Guest) error {
	r := dhcpd.DynamicReservation{MAC: g.MAC, Name: g.Name}
	if at := slices.IndexFunc(g.Addrs, func(a netip.Addr) bool { return a.Is4() == f.is4 }); at >= 0 {
		r.Addr = g.Addrs[at]
	}
	if r.Name == "" && !r.Addr.IsValid() {
		return nil
	}
	return f.SetDynamic(r)
}

// Expect sets the addresses and the name of a guest aside. The error is
// dhcpd.ErrTaken where somebody else has an address; nothing is set aside then.
func (s *Set) Expect(g Guest) error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.reservers() {
		if err := f.set(g); err != nil {
			s.retract(g)
			return err
		}
	}
	s.announce(g)
	return nil
}

// introduce tells a server that was just opened of all guests, and of those that
// ended while no vnetd was running; and DNS, where that or a server with leases is
// new, of their names. The caller holds s.mu.
func (s *Set) introduce(p part) {
	for _, f := range s.reservers() {
		if p.name() == DHCP && f.is4 || p.name() == DHCP6 && !f.is4 {
			s.introduceGuests(f)
		}
	}
	if s.dns.srv == nil {
		return
	}
	for _, l := range s.held() {
		if s.spec.onSubnet(l.Addr) {
			s.dns.srv.SetHost(s.host(l))
		}
	}
	for _, g := range s.cfg.Owner.Guests() {
		s.announce(g)
	}
}

func (s *Set) introduceGuests(f family) {
	for _, g := range s.cfg.Departed {
		for _, mac := range []net.HardwareAddr{g.MAC, g.Card} {
			if _, there := s.cfg.Owner.Guest(mac); !there {
				f.DropDynamic(mac)
			}
		}
	}
	for _, g := range s.cfg.Owner.Guests() {
		if err := f.set(g); err != nil {
			s.log.Warn("a port loses its address", "mac", g.MAC.String(), "error", err)
		}
	}
	for _, l := range f.Leases() {
		s.cfg.Owner.Leased(l.MAC, l.Addr)
	}
}

// announce tells DNS the name of a guest at the addresses that are set aside for
// it. The caller holds s.mu.
func (s *Set) announce(g Guest) {
	if s.dns.srv == nil || g.Name == "" {
		return
	}
	for _, a := range g.Addrs {
		s.dns.srv.SetHost(dnsd.Host{Name: g.Name, Addr: a})
	}
}

// Dismiss takes back what Expect set aside, and ends the leases of the guest; held
// are their addresses.
func (s *Set) Dismiss(g Guest, held []netip.Addr) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.reservers() {
		f.DropDynamic(g.MAC)
		f.DropDynamic(g.Card)
	}
	s.unname(g.Addrs)
	s.unname(held)
}

// Withdraw takes back what Expect set aside for a guest that did not come to be.
// Whoever has its MAC address keeps the leases that it has.
func (s *Set) Withdraw(g Guest) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retract(g)
	s.unname(g.Addrs)
}

// retract is Withdraw as far as DHCP goes. The caller holds s.mu.
func (s *Set) retract(g Guest) {
	for _, f := range s.reservers() {
		f.WithdrawDynamic(g.MAC)
	}
}

// unname has DNS forget the names of addresses. The caller holds s.mu.
func (s *Set) unname(addrs []netip.Addr) {
	if s.dns.srv == nil {
		return
	}
	for _, a := range addrs {
		s.dns.srv.DeleteAddr(a)
	}
}

// reserved reports whether a lease that ended is of an address that a guest with a
// name has all the same.
func (s *Set) reserved(l dhcpd.Lease) bool {
	g, ok := s.cfg.Owner.Guest(l.MAC)
	return ok && bytes.Equal(g.MAC, l.MAC) && g.Name != "" && slices.Contains(g.Addrs, l.Addr)
}
