package v6

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

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
	// Boots are what clients of certain kinds boot: the first that fits. May be empty.
	Boots []Boot
	// Tags says which clients have which tags. Besides, those with a reservation have
	// "known", and all have Interface and "dhcpv6". May be empty.
	Tags []dhcpd.TagRule
	// Options are as with v4.Config. May be empty.
	Options []dhcpd.Option
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
	return errors.Join(common.Validate(true), c.Identity.Validate(), c.validateAddrs(), c.validateOptions())
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

// maxURL is the length of the longest URL of a boot file, and maxValue that of any
// option, so that a reply has room for it.
const (
	maxURL   = 1024
	maxValue = 1024
)

// validateOptions checks what is sent to clients besides their address.
func (c *Config) validateOptions() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for i, b := range c.Boots {
		if b.URL == "" || len(b.URL) > maxURL {
			fault("boot %d: URL of %d bytes, want 1 to %d", i, len(b.URL), maxURL)
		}
	}
	for _, o := range c.Options {
		switch {
		case o.Encap == 0 && !settable(o.Code), o.Encap != 0 && o.Encap != byte(dhcpv6.OptionVendorOpts):
			fault("option %d: not for configuration", o.Code)
		case len(o.Value) > maxValue:
			fault("option %d: %d bytes, want at most %d", o.Code, len(o.Value), maxValue)
		}
	}
	for _, r := range c.Tags {
		if r.Mask != nil && len(r.Mask) != len(r.Value) {
			fault("tag %q: mask of %d bytes, value of %d", r.Tag, len(r.Mask), len(r.Value))
		}
	}
	return errors.Join(errs...)
}

// settable reports whether an option may be configured: those that the protocol
// itself needs may not (RFC 8415, section 21).
func settable(code uint16) bool {
	switch {
	case code <= 14, code >= 17 && code <= 20, code == 25, code == 26, code == 39:
		return false
	default:
		return true
	}
}

// plan is what a Config asks of DHCPv6. It never changes
// but for its scope.
type plan struct {
	cfg    Config
	duid   []byte // ours
	tagged bool   // a client's tags matter
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
	p.tagged = slices.ContainsFunc(cfg.Options, func(o dhcpd.Option) bool { return len(o.Tags) > 0 }) ||
		slices.ContainsFunc(cfg.Reservations, func(r dhcpd.Reservation) bool { return len(r.Tags) > 0 })
	return p
}
