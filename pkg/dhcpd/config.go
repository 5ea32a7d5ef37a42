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

// Lease times.
const (
	// DefaultLeaseTime is the lease time of a Config that names none.
	DefaultLeaseTime = time.Hour
	// Infinite as a lease time means that leases never expire. It is 0xffffffff
	// seconds, the value that RFC 2131, section 3.3 reserves for it.
	Infinite = 0xffffffff * time.Second
)

// Config is what a Server shall do. It states intent; the zero value of a field
// that is not said to be optional is an error.
type Config struct {
	// Network is the network's name: for logs, and the seed of the choice of
	// addresses.
	Network string
	// Interface is the bridge. The sockets are bound to it.
	Interface string
	// MAC is the bridge's hardware address, the source of frames that we build.
	MAC net.HardwareAddr
	// Server is our IPv4 address on the bridge: server identifier and siaddr.
	Server netip.Addr
	// Prefix is the subnet. Server lies in it.
	Prefix netip.Prefix
	// Router is option 3. Zero: the option is absent, as on isolated networks.
	Router netip.Addr
	// DNS is option 6. Empty: the option is absent.
	DNS []netip.Addr
	// Domain is option 15 and completes client names. Empty: the option is absent.
	Domain string
	// MTU is option 26. 0: the option is absent.
	MTU int
	// NTP is option 42. Empty: the option is absent.
	NTP []netip.Addr
	// Routes are options 121 and 249, to which the default route is added. Empty:
	// the options are absent.
	Routes []Route
	// BootFile is what clients boot from: the header's file field, and option 67
	// for those that ask for it. At most 255 bytes. Empty: none.
	BootFile string
	// BootServer is where BootFile is: siaddr, and option 66 for those that ask for
	// it. Zero: Server.
	BootServer netip.Addr
	// Options are sent in the place of those that stand here, or besides them. See
	// ParseDnsmasqOptions. May be empty.
	Options []Option
	// Ranges is the pool. Empty: only reserved clients are served.
	Ranges []Range
	// Reservations are the static hosts. One whose address is outside Prefix or is
	// no host's address there, and one whose client or address an earlier one has,
	// is logged and ignored: libvirt accepts such networks too.
	Reservations []Reservation
	// LeaseTime is how long a lease lasts. 0: DefaultLeaseTime. See Infinite.
	LeaseTime time.Duration
	// Identity is what tells one client from another. Empty: ByBoth.
	Identity Identity
	// Probe asks by ARP who has an address before it is offered for the first time,
	// which takes half a second; other clients don't wait for it. An address that
	// somebody has is not given for a while.
	Probe bool
	// Store keeps the leases. Reconfigure ignores it.
	Store LeaseStore
	// OnLease is told of each change of a lease after its commit, in commit
	// order and from one goroutine, before the client's reply leaves. Replies wait
	// for it: it must return quickly. It may call Leases and Stats; it must not
	// call Reconfigure. Nil: nobody is told. Reconfigure ignores it.
	OnLease func(Event)
	// OnStore is told why the store refused a commit, unless the one before failed,
	// too, and nil once it takes commits again: in between clients get no answer. It
	// must return quickly and not call the server. Nil: nobody is told. Reconfigure
	// ignores it.
	OnStore func(error)
	// Logger receives the log. Nil: slog.Default. Reconfigure ignores it.
	Logger *slog.Logger
	// Left is what a former process got from Leave: in place of a new socket, Open
	// uses a copy of the one of these that is bound as it should be. They remain the
	// caller's.
	Left []*os.File
}

// Identity is what tells one DHCPv4 client from another. A client with a
// reservation for its hardware address is always known by that.
type Identity string

// The identities of clients.
const (
	// ByBoth: the hardware address and the client identifier. Two machines that send
	// one identifier are two clients, a machine that sends two is two as well.
	ByBoth Identity = "both"
	// ByClientID: the client identifier if it sends one, else the hardware address,
	// as RFC 2131 says. Two machines that send one identifier share an address.
	ByClientID Identity = "client-id"
	// ByMAC: the hardware address alone.
	ByMAC Identity = "mac"
)

// Route is a route that clients are told.
type Route struct {
	Dst     netip.Prefix
	Gateway netip.Addr
}

// Option is a DHCPv4 option as configured.
type Option struct {
	Code uint8
	// Value is what is sent. Empty: the option is not sent, nor what stands in its
	// place otherwise.
	Value []byte
	// Force sends it to clients, too, that don't ask for it.
	Force bool
}

// Range is a part of the pool, both ends included. The network's, broadcast's
// and our own address in it are never given away.
type Range struct {
	Start, End netip.Addr
	// LeaseTime is the lease time of addresses in the range. 0: that of Config.
	LeaseTime time.Duration
}

// Reservation sets an address aside for one client. It may lie outside all
// ranges.
type Reservation struct {
	// MAC is the client. Nil: unknown.
	MAC net.HardwareAddr
	// DUID is the client's DHCP unique identifier (RFC 8415, section 11). Empty:
	// unknown. Without MAC and DUID, the client that sends Name has the
	// reservation. DHCPv4 has no use for it.
	DUID []byte
	// Name is the client's host name: with a MAC or DUID it overrides what the
	// client says and may be empty; without them it is compared, ignoring case, with the
	// name in options 12 and 81, plain or with the network's domain.
	Name string
	// Addr is what the client gets.
	Addr netip.Addr
	// LeaseTime is the lease time. 0: that of the range or of Config.
	LeaseTime time.Duration
}

// Validate returns every fault of c, joined, or nil.
func (c *Config) Validate() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Interface == "" {
		fault("interface: empty")
	}
	if len(c.MAC) != hwAddrLen {
		fault("mac: %d bytes long, want %d", len(c.MAC), hwAddrLen)
	}
	if c.Store == nil {
		fault("store: nil")
	}
	if c.LeaseTime < 0 {
		fault("lease time: negative")
	}
	switch c.Identity {
	case "", ByBoth, ByClientID, ByMAC:
	default:
		fault("identity: %q, want %s, %s or %s", c.Identity, ByBoth, ByClientID, ByMAC)
	}
	errs = append(errs, c.validateAddrs(), validateOptions(c))
	for i := range c.Ranges {
		if err := c.Ranges[i].validate(c.Prefix); err != nil {
			fault("range %d: %w", i, err)
		}
	}
	for i := range c.Reservations {
		if err := c.Reservations[i].validate(); err != nil {
			fault("reservation %d: %w", i, err)
		}
	}
	return errors.Join(errs...)
}

// validateAddrs checks the subnet and our place in it.
func (c *Config) validateAddrs() error {
	switch {
	case !c.Prefix.IsValid() || !c.Prefix.Addr().Is4():
		return fmt.Errorf("prefix: %v is not an IPv4 prefix", c.Prefix)
	case !c.Prefix.Contains(c.Server):
		return fmt.Errorf("server: %v is not in %v", c.Server, c.Prefix)
	default:
		return nil
	}
}

// settable reports whether an option may be configured: those that the protocol
// itself needs may not.
func settable(code uint8) bool {
	switch code {
	case 0, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 61, 80, 81, 82, 255:
		return false
	default:
		return true
	}
}

// validateOptions checks what is sent to clients besides their address.
func validateOptions(c *Config) error {
	errs := []error{validateRoutes(c), validateBoot(c)}
	if c.Router.IsValid() && !c.Router.Is4() {
		errs = append(errs, fmt.Errorf("router: %v is not an IPv4 address", c.Router))
	}
	for _, a := range c.DNS {
		if !a.Is4() {
			errs = append(errs, fmt.Errorf("dns: %v is not an IPv4 address", a))
		}
	}
	for _, a := range c.NTP {
		if !a.Is4() {
			errs = append(errs, fmt.Errorf("ntp: %v is not an IPv4 address", a))
		}
	}
	if len(c.Domain) > maxName {
		errs = append(errs, fmt.Errorf("domain: longer than %d bytes", maxName))
	}
	// RFC 2132, section 5.1: "The minimum legal value for the MTU is 68."
	if c.MTU != 0 && (c.MTU < 68 || c.MTU > 65535) {
		errs = append(errs, fmt.Errorf("mtu: %d is not in 68..65535", c.MTU))
	}
	return errors.Join(errs...)
}

// validateRoutes checks the routes.
func validateRoutes(c *Config) error {
	var errs []error
	for _, r := range c.Routes {
		if !r.Dst.IsValid() || !r.Dst.Addr().Is4() || !r.Gateway.Is4() {
			errs = append(errs, fmt.Errorf("route: %v by %v is not of IPv4", r.Dst, r.Gateway))
		}
	}
	return errors.Join(errs...)
}

// validateBoot checks what clients boot from, and the configured options.
func validateBoot(c *Config) error {
	var errs []error
	if len(c.BootFile) > 255 {
		errs = append(errs, errors.New("boot file: longer than 255 bytes"))
	}
	if c.BootServer.IsValid() && !c.BootServer.Is4() {
		errs = append(errs, fmt.Errorf("boot server: %v is not an IPv4 address", c.BootServer))
	}
	for _, o := range c.Options {
		if !settable(o.Code) {
			errs = append(errs, fmt.Errorf("option %d: not for configuration", o.Code))
		}
	}
	return errors.Join(errs...)
}

func (r *Range) validate(p netip.Prefix) error {
	switch {
	case !p.Contains(r.Start) || !p.Contains(r.End):
		return fmt.Errorf("%v-%v is not in %v", r.Start, r.End, p)
	case r.End.Less(r.Start):
		return fmt.Errorf("%v-%v ends before it starts", r.Start, r.End)
	case r.LeaseTime < 0:
		return errors.New("lease time: negative")
	default:
		return nil
	}
}

func (r *Reservation) validate() error {
	switch {
	case r.MAC == nil && r.Name == "":
		return errors.New("neither mac nor name")
	case r.MAC != nil && len(r.MAC) != hwAddrLen:
		return fmt.Errorf("mac: %d bytes long, want %d", len(r.MAC), hwAddrLen)
	case !r.Addr.Is4():
		return fmt.Errorf("address: %v is not an IPv4 address", r.Addr)
	case r.LeaseTime < 0:
		return errors.New("lease time: negative")
	default:
		return nil
	}
}

// broadcastOf is the last address of p, an IPv4 prefix.
func broadcastOf(p netip.Prefix) netip.Addr {
	return advance(p.Masked().Addr(), 1<<(32-p.Bits())-1)
}
