package service

import (
	"bytes"
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
	"github.com/vnetd/vnetd/pkg/dhcpd/v6"
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
	// Aliases are further names of it, as long as it is there.
	Aliases []string
	// Addrs are set aside for it, at most one of a family.
	Addrs []netip.Addr
}

// Guests knows the guests on a network's ports. Its methods are called with the
// set's lock held, but for Seen: they must not call the set.
type Guests interface {
	Guests() []Guest
	// Guest finds one by the address of its card or its port.
	Guest(mac net.HardwareAddr) (Guest, bool)
	// Elsewhere are the names of guests on other hosts, which DNS serves beside those of this
	// host's.
	Elsewhere() []dnsd.Host
	// Leased records that a guest has an address.
	Leased(mac net.HardwareAddr, a netip.Addr)
	// Seen has the port that a card is plugged into know the card's address. It
	// returns what a former guest of that port had leased, and DNS is to forget.
	Seen(mac net.HardwareAddr) (former []netip.Addr)
}

// reserver is a server that sets addresses aside for guests that come and go.
type reserver interface {
	Leases() []dhcpd.Lease
	EachLease() iter.Seq[dhcpd.Lease]
	SetDynamic(l dhcpd.DynamicReservation) error
	DropDynamic(mac net.HardwareAddr)
	WithdrawDynamic(mac net.HardwareAddr)
}

// directory tells the servers that are open of guests, and DNS of their names. What
// is not open is nil. Who has one holds the set's lock.
type directory struct {
	guests Guests
	dhcp   *v4.Server
	dhcp6  *v6.Server
	dns    *dnsd.Server
}

// directory is the set's, as it is now. The caller holds s.mu.
func (s *Set) directory() directory {
	return directory{s.cfg.Owner, s.dhcp.srv, s.dhcp6.srv, s.dns.srv}
}

// reservers are the open servers that give addresses, IPv4's first.
func (d directory) reservers() []family {
	var open []family
	if d.dhcp != nil {
		open = append(open, family{d.dhcp, true})
	}
	if d.dhcp6 != nil {
		open = append(open, family{d.dhcp6, false})
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
	d := s.directory()
	for _, f := range d.reservers() {
		if err := f.set(g); err != nil {
			d.withdraw(g)
			return err
		}
	}
	d.announce(g)
	return nil
}

// register tells the server of a service that was just opened of all guests, and of
// those that ended while no vnetd was running; and DNS, where that or a server with
// leases is new, of their names. The caller holds s.mu.
func (s *Set) register(service string) {
	d := s.directory()
	for _, f := range d.reservers() {
		if service == DHCP && f.is4 || service == DHCP6 && !f.is4 {
			d.forget(f, s.cfg.Departed)
			d.register(f, s.log)
		}
	}
	if d.dns == nil {
		return
	}
	for _, f := range d.reservers() {
		for l := range f.EachLease() {
			if s.spec.onSubnet(l.Addr) {
				d.dns.SetHost(d.host(l))
			}
		}
	}
	for _, g := range d.guests.Guests() {
		d.announce(g)
	}
	s.elsewhere = nil // a new server knows none
	tellElsewhere(s)
}

// NamesChanged has DNS know the names of guests on other hosts as they are now.
func NamesChanged(s *Set) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dns.srv != nil {
		tellElsewhere(s)
	}
}

// PoolChanged has DHCP give new addresses from those that this host gives now.
func PoolChanged(s *Set) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if srv := s.dhcp.srv; srv != nil {
		srv.Relend()
	}
	if srv := s.dhcp6.srv; srv != nil {
		srv.Relend()
	}
}

// tellElsewhere tells DNS what is new of guests on other hosts. The caller holds s.mu.
func tellElsewhere(s *Set) {
	d, now := s.directory(), make(map[netip.Addr]string)
	for _, h := range d.guests.Elsewhere() {
		now[h.Addr] = h.Name
		if s.elsewhere[h.Addr] != h.Name {
			d.dns.SetHost(h)
		}
	}
	for a := range s.elsewhere {
		if _, there := now[a]; !there && !d.has(a) {
			d.dns.DeleteAddr(a)
		}
	}
	s.elsewhere = now
}

// has reports whether a guest of this host has an address.
func (d directory) has(a netip.Addr) bool {
	for _, f := range d.reservers() {
		for l := range f.EachLease() {
			if l.Addr == a {
				return true
			}
		}
	}
	return false
}

// forget has a server forget guests that are gone.
func (d directory) forget(f family, departed []Guest) {
	for _, g := range departed {
		for _, mac := range []net.HardwareAddr{g.MAC, g.Card} {
			if _, there := d.guests.Guest(mac); !there {
				f.DropDynamic(mac)
			}
		}
	}
}

// register tells a server of all guests, and has them know what it leased to them.
func (d directory) register(f family, log *slog.Logger) {
	for _, g := range d.guests.Guests() {
		if err := f.set(g); err != nil {
			log.Warn("a port loses its address", "mac", g.MAC.String(), "error", err)
		}
	}
	for l := range f.EachLease() {
		d.guests.Leased(l.MAC, l.Addr)
	}
}

// announce tells DNS the name of a guest at the addresses that are set aside for
// it, and what else it is called.
func (d directory) announce(g Guest) {
	if d.dns == nil || g.Name == "" {
		return
	}
	for _, a := range g.Addrs {
		d.dns.SetHost(dnsd.Host{Name: g.Name, Addr: a})
	}
	for _, alias := range g.Aliases {
		d.dns.SetAlias(alias, g.Name)
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
	d := s.directory()
	for _, f := range d.reservers() {
		f.DropDynamic(g.MAC)
		f.DropDynamic(g.Card)
	}
	d.unname(g.Addrs)
	d.unname(held)
	d.unalias(g)
}

// Withdraw takes back what Expect set aside for a guest that did not come to be.
// Whoever has its MAC address keeps the leases that it has.
func (s *Set) Withdraw(g Guest) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.directory()
	d.withdraw(g)
	d.unname(g.Addrs)
	d.unalias(g)
}

// withdraw is Withdraw as far as DHCP goes.
func (d directory) withdraw(g Guest) {
	for _, f := range d.reservers() {
		f.WithdrawDynamic(g.MAC)
	}
}

// unname has DNS forget the names of addresses.
func (d directory) unname(addrs []netip.Addr) {
	if d.dns == nil {
		return
	}
	for _, a := range addrs {
		d.dns.DeleteAddr(a)
	}
}

// unalias has DNS forget what else a guest is called.
func (d directory) unalias(g Guest) {
	if d.dns == nil {
		return
	}
	for _, alias := range g.Aliases {
		d.dns.SetAlias(alias, "")
	}
}

// held lists the leases of all servers, in order of address.
func (d directory) held() []dhcpd.Lease {
	var held []dhcpd.Lease
	for _, f := range d.reservers() {
		if leases := f.Leases(); held == nil {
			held = leases
		} else {
			held = append(held, leases...)
		}
	}
	return held
}

// host is what DNS is told of a lease: the name of the port that the guest is
// on, or, where that has none, the name that the guest goes by.
func (d directory) host(l dhcpd.Lease) dnsd.Host {
	name := l.Hostname
	if g, ok := d.guests.Guest(l.MAC); ok && g.Name != "" {
		name = g.Name
	}
	return dnsd.Host{Name: name, Addr: l.Addr, Expiry: l.Expiry}
}

// follow tells DNS of one change of a lease.
func (d directory) follow(e dhcpd.Event) {
	switch {
	case d.dns == nil:
	case e.Kind == dhcpd.Bound || e.Kind == dhcpd.Renewed:
		d.dns.SetHost(d.host(e.Lease))
	case !d.reserved(e.Lease):
		d.dns.DeleteAddr(e.Lease.Addr)
	}
}

// reserved reports whether a lease that ended is of an address that a guest with a
// name has all the same.
func (d directory) reserved(l dhcpd.Lease) bool {
	g, ok := d.guests.Guest(l.MAC)
	return ok && bytes.Equal(g.MAC, l.MAC) && g.Name != "" && slices.Contains(g.Addrs, l.Addr)
}
