package dhcpd

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"time"
)

// Settings are what the servers of both families are told alike. They state intent; the
// zero value of a field that is not said to be optional is an error.
type Settings struct {
	// Network is the network's name: for logs, and the seed of the choice of
	// addresses.
	Network string
	// Interface is the bridge. The sockets are bound to it.
	Interface string
	// MAC is the bridge's hardware address: in DHCPv4 the source of frames that we build,
	// and in DHCPv6 our DUID is made of it.
	MAC net.HardwareAddr
	// Server is our address on the bridge, in DHCPv6 a global one. It is never given
	// away.
	Server netip.Addr
	// Prefix is the subnet. Server lies in it.
	Prefix netip.Prefix
	// DNS are the resolvers that clients are told: option 6, in DHCPv6 23. Empty: the
	// option is absent.
	DNS []netip.Addr
	// Domain completes client names, and is the one that clients are told: options 15
	// and 119, in DHCPv6 24. Empty: the options are absent.
	Domain string
	// Tags says which clients have which tags. Besides, those with a reservation have
	// "known", those of BOOTP "bootp", those of DHCPv6 "dhcpv6", and all have Interface.
	// May be empty.
	Tags []TagRule
	// Options are sent in the place of those that stand here, or besides them. Of one
	// code the last one counts whose tags a client has, and one with tags before one
	// without; parts of an option stand in it together. May be empty.
	Options []Option
	// Ranges is the pool. Empty: only reserved clients are served.
	Ranges []Range
	// Reservations are the static hosts. One whose address is outside Prefix or is
	// no host's address there, and one whose client or address an earlier one has,
	// is logged and ignored: libvirt accepts such networks too.
	Reservations []Reservation
	// LeaseTime is how long a lease lasts, in DHCPv6 the valid lifetime of an address.
	// 0: the protocol's DefaultLeaseTime. See Infinite.
	LeaseTime time.Duration
	// Identity is what tells one client from another. Empty: ByBoth.
	Identity Identity
	// PerPort is how many addresses those behind one port of the bridge may have that have
	// none reserved. New ones are served as many at once as a nested bridge has, and then
	// one a second. 0: any number.
	PerPort int
	// OfPort is PerPort for the port with an ifindex alone; negative: there it is PerPort.
	// It must return quickly and not call the server. Nil: for no port. Reconfigure ignores
	// it.
	OfPort func(ifindex int) int
	// Store keeps the leases. The servers of a network may share it. Reconfigure ignores it.
	Store LeaseStore
	// OnLease is told of each change of a lease after its commit, in commit
	// order and one after the other, before the client's reply leaves. Replies wait
	// for it: it must return quickly. It may call Leases and Stats; it must not
	// call Reconfigure. Nil: nobody is told. Reconfigure ignores it.
	OnLease func(Event)
	// OnStore is told why the store refused a commit, unless the one before failed,
	// too, and nil once it takes commits again, which is tried each second: in between
	// clients get no answer. It must return quickly and not call the server. Nil: nobody is
	// told. Reconfigure ignores it.
	OnStore func(error)
	// Lender says which addresses of Ranges this server gives, where servers of other hosts
	// give some of them, too. Nil: all. Reconfigure ignores it, but asks it for its blocks
	// anew.
	Lender Lender
	// Logger receives the log. Nil: slog.Default. Reconfigure ignores it.
	Logger *slog.Logger
	// Left is what a former process got from Sockets: in place of a new socket, Open
	// uses a copy of the one of these that is bound as it should be. They remain the
	// caller's. Reconfigure ignores it.
	Left []*os.File
}

// Follow makes s the settings of a running server that had those of was: what such a one
// keeps is taken over. The error says what can't change.
func (s *Settings) Follow(was *Settings) error {
	s.MAC, s.Store = was.MAC, was.Store
	if (s.Lender == nil) != (was.Lender == nil) {
		return errors.New("a running DHCP server can't begin or end to share its addresses with other hosts")
	}
	s.Lender = was.Lender
	if s.Interface != was.Interface {
		return fmt.Errorf("changing the interface of a running DHCP server from %q to %q", was.Interface, s.Interface)
	}
	if s.Server != was.Server {
		return fmt.Errorf("changing the address of a running DHCP server from %v to %v", was.Server, s.Server)
	}
	return nil
}

// Validate returns every fault of s as settings of DHCPv6, or else of DHCPv4, joined,
// or nil.
func (s *Settings) Validate(v6 bool) error {
	errs := []error{s.Identity.Validate(), s.validateAddrs(v6)}
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if s.Interface == "" {
		fault("interface: empty")
	}
	if len(s.MAC) != HWAddrLen {
		fault("mac: %d bytes long, want %d", len(s.MAC), HWAddrLen)
	}
	if s.Store == nil {
		fault("store: nil")
	}
	if s.LeaseTime < 0 {
		fault("lease time: negative")
	}
	if s.PerPort < 0 {
		fault("addresses per port: negative")
	}
	if len(s.Domain) > MaxName {
		fault("domain: longer than %d bytes", MaxName)
	}
	for i := range s.Ranges {
		if err := s.Ranges[i].validate(s.Prefix); err != nil {
			fault("range %d: %w", i, err)
		}
	}
	for i := range s.Reservations {
		if err := s.Reservations[i].Validate(v6); err != nil {
			fault("reservation %d: %w", i, err)
		}
	}
	for _, r := range s.Tags {
		if r.Mask != nil && len(r.Mask) != len(r.Value) {
			fault("tag %q: mask of %d bytes, value of %d", r.Tag, len(r.Mask), len(r.Value))
		}
	}
	return errors.Join(errs...)
}

// validateAddrs checks the subnet, our place in it, and the resolvers.
func (s *Settings) validateAddrs(v6 bool) error {
	family, ours := "IPv4", netip.Addr.Is4
	if v6 {
		family, ours = "IPv6", Is6
	}
	switch {
	case !s.Prefix.IsValid() || !ours(s.Prefix.Addr()):
		return fmt.Errorf("prefix: %v is not an %s prefix", s.Prefix, family)
	case !s.Prefix.Contains(s.Server):
		return fmt.Errorf("server: %v is not in %v", s.Server, s.Prefix)
	}
	for _, a := range s.DNS {
		if !ours(a) {
			return fmt.Errorf("dns: %v is not an %s address", a, family)
		}
	}
	return nil
}
