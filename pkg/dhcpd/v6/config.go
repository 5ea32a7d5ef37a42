package v6

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// DefaultLeaseTime is the lease time of a Config that names none.
const DefaultLeaseTime = 24 * time.Hour

// Config is what a Server shall do, like Config of package v4.
type Config struct {
	// Network is the network's name: for logs, and the seed of the choice of
	// addresses.
	Network string
	// Interface is the bridge. The socket is bound to it.
	Interface string
	// MAC is the bridge's hardware address. Our DUID is made of it.
	MAC net.HardwareAddr
	// Server is our global address on the bridge. It is never given away.
	Server netip.Addr
	// Prefix is the subnet. Server lies in it.
	Prefix netip.Prefix
	// DNS is option 23. Empty: the option is absent.
	DNS []netip.Addr
	// Domain is the search list, option 24, and completes client names. Empty: the
	// option is absent.
	Domain string
	// Ranges is the pool. Empty: only reserved clients are served.
	Ranges []dhcpd.Range
	// Reservations are the static hosts, by DUID, MAC or name. Those that can't be
	// used are logged and ignored, as with v4.Config.
	Reservations []dhcpd.Reservation
	// LeaseTime is the valid lifetime of an address. 0: DefaultLeaseTime. See
	// dhcpd.Infinite.
	LeaseTime time.Duration
	// Identity is what tells one client from another. Empty: ByBoth.
	Identity dhcpd.Identity
	// Store, OnLease, OnStore, Logger and Left are as in v4.Config. The v4.Server of the
	// same network may have the same store and functions; those are called by both.
	Store   dhcpd.LeaseStore
	OnLease func(dhcpd.Event)
	OnStore func(error)
	Logger  *slog.Logger
	Left    []*os.File
}

// Validate returns every fault of c, joined, or nil.
func (c *Config) Validate() error {
	common := dhcpd.Settings{
		Interface: c.Interface, MAC: c.MAC, Prefix: c.Prefix, LeaseTime: c.LeaseTime,
		Ranges: c.Ranges, Reservations: c.Reservations, Store: c.Store,
	}
	return errors.Join(common.Validate(true), c.Identity.Validate(), c.validateAddrs())
}

// validateAddrs checks the subnet, our place in it, and what clients are told.
func (c *Config) validateAddrs() error {
	switch {
	case !c.Prefix.IsValid() || !dhcpd.Is6(c.Prefix.Addr()):
		return fmt.Errorf("prefix: %v is not an IPv6 prefix", c.Prefix)
	case !c.Prefix.Contains(c.Server):
		return fmt.Errorf("server: %v is not in %v", c.Server, c.Prefix)
	case len(c.Domain) > dhcpd.MaxName:
		return fmt.Errorf("domain: longer than %d bytes", dhcpd.MaxName)
	}
	for _, a := range c.DNS {
		if !dhcpd.Is6(a) {
			return fmt.Errorf("dns: %v is not an IPv6 address", a)
		}
	}
	return nil
}

// plan is what a Config asks of DHCPv6. It never changes
// but for its scope.
type plan struct {
	cfg  Config
	duid []byte // ours
	dhcpd.Scope
}

// newPlan derives the plan of a valid cfg.
func newPlan(cfg *Config, log *slog.Logger) *plan {
	p := &plan{cfg: *cfg, duid: dhcpd.ServerDUID(cfg.MAC)}
	length := cfg.LeaseTime
	if length == 0 {
		length = DefaultLeaseTime
	}
	p.Scope = dhcpd.Scope{
		Network: cfg.Network, Prefix: cfg.Prefix.Masked(), Domain: cfg.Domain,
		Ranges: cfg.Ranges, DefaultTime: length, Identity: cfg.Identity,
		// RFC 4291, section 2.6.1: the address with a zero interface identifier is the
		// routers' anycast address.
		Never: map[netip.Addr]bool{cfg.Server: true, cfg.Prefix.Masked().Addr(): true},
	}
	p.ReserveAll(cfg.Reservations, log)
	return p
}
