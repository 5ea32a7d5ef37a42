package v6

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// DefaultLeaseTime is the lease time of a Config that names none.
const DefaultLeaseTime = 24 * time.Hour

// Config is what a Server shall do.
type Config struct {
	dhcpd.Settings
	// Boots are what clients of certain kinds boot: the first that fits. May be empty.
	Boots []Boot
}

// Validate returns every fault of c, joined, or nil.
func (c *Config) Validate() error {
	return errors.Join(c.Settings.Validate(true), c.validateOptions())
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
	cfg     Config
	duid    []byte  // ours
	shared  options // what all are told who want it
	tagged  bool    // a client's tags matter
	scratch []byte  // a message that goes into a relay's
	dhcpd.Scope
}

// newPlan derives the plan of a valid cfg.
func newPlan(cfg *Config, log *slog.Logger) *plan {
	p := &plan{cfg: *cfg, duid: dhcpd.ServerDUID(cfg.MAC), shared: sharedOptions(cfg)}
	length := cfg.LeaseTime
	if length == 0 {
		length = DefaultLeaseTime
	}
	p.Scope = dhcpd.Scope{
		Network: cfg.Network, Prefix: cfg.Prefix.Masked(), Domain: cfg.Domain,
		Ranges: cfg.Ranges, DefaultTime: length, Identity: cfg.Identity, PerPort: cfg.PerPort,
		// RFC 4291, section 2.6.1: the address with a zero interface identifier is the
		// routers' anycast address.
		Never: map[netip.Addr]bool{cfg.Server: true, cfg.Prefix.Masked().Addr(): true},
	}
	p.Lend(cfg.Lender)
	p.ReserveAll(cfg.Reservations, log)
	p.tagged = slices.ContainsFunc(cfg.Options, func(o dhcpd.Option) bool { return len(o.Tags) > 0 }) ||
		slices.ContainsFunc(cfg.Reservations, func(r dhcpd.Reservation) bool { return len(r.Tags) > 0 })
	return p
}
