package dhcpd

import (
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"
)

// DefaultLeaseTime6 is the lease time of a Config6 that names none.
const DefaultLeaseTime6 = 24 * time.Hour

// maxDUID is the length of the longest DUID, with its type (RFC 8415, section
// 11.1).
const maxDUID = 130

// Config6 is what a Server6 shall do, like Config for DHCPv4.
type Config6 struct {
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
	Ranges []Range
	// Reservations are the static hosts, by DUID, MAC or name. Those that can't be
	// used are logged and ignored, as with Config.
	Reservations []Reservation
	// LeaseTime is the valid lifetime of an address. 0: DefaultLeaseTime6. See
	// Infinite.
	LeaseTime time.Duration
	// Store, OnLease, OnStore, Logger and Left are as in Config. The Server of the same
	// network may have the same store and functions; those are called by both.
	Store   LeaseStore
	OnLease func(Event)
	OnStore func(error)
	Logger  *slog.Logger
	Left    []*os.File
}

// Validate returns every fault of c, joined, or nil.
func (c *Config6) Validate() error {
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
	errs = append(errs, c.validateAddrs())
	for i := range c.Ranges {
		if err := c.Ranges[i].validate(c.Prefix); err != nil {
			fault("range %d: %w", i, err)
		}
	}
	for i := range c.Reservations {
		if err := c.Reservations[i].validate6(); err != nil {
			fault("reservation %d: %w", i, err)
		}
	}
	return errors.Join(errs...)
}

// validateAddrs checks the subnet, our place in it, and what clients are told.
func (c *Config6) validateAddrs() error {
	switch {
	case !c.Prefix.IsValid() || !is6(c.Prefix.Addr()):
		return fmt.Errorf("prefix: %v is not an IPv6 prefix", c.Prefix)
	case !c.Prefix.Contains(c.Server):
		return fmt.Errorf("server: %v is not in %v", c.Server, c.Prefix)
	case len(c.Domain) > maxName:
		return fmt.Errorf("domain: longer than %d bytes", maxName)
	}
	for _, a := range c.DNS {
		if !is6(a) {
			return fmt.Errorf("dns: %v is not an IPv6 address", a)
		}
	}
	return nil
}

func (r *Reservation) validate6() error {
	switch {
	case r.byName() && r.Name == "":
		return errors.New("neither duid nor mac nor name")
	case r.MAC != nil && len(r.MAC) != hwAddrLen:
		return fmt.Errorf("mac: %d bytes long, want %d", len(r.MAC), hwAddrLen)
	case len(r.DUID) > maxDUID:
		return fmt.Errorf("duid: longer than %d bytes", maxDUID)
	case !is6(r.Addr):
		return fmt.Errorf("address: %v is not an IPv6 address", r.Addr)
	case r.LeaseTime < 0:
		return errors.New("lease time: negative")
	default:
		return nil
	}
}

// ParseDUID reads a DUID as the id attribute of a <host> has it: hex bytes of one
// or two digits with colons between them, as in 0:3:0:1:52:54:0:12:34:56.
func ParseDUID(s string) ([]byte, error) {
	var duid []byte
	for part := range strings.SplitSeq(s, ":") {
		if len(part) == 1 {
			part = "0" + part
		}
		b, err := hex.DecodeString(part)
		if err != nil || len(b) != 1 {
			return nil, fmt.Errorf("reading DUID %q: %q is no byte", s, part)
		}
		duid = append(duid, b...)
	}
	if len(duid) < 3 || len(duid) > maxDUID {
		return nil, fmt.Errorf("reading DUID %q: %d bytes long, want 3 to %d", s, len(duid), maxDUID)
	}
	return duid, nil
}

// serverDUID is the DUID of a server on a bridge with that hardware address: one of
// type DUID-LL (RFC 8415, section 11.4).
func serverDUID(mac net.HardwareAddr) []byte { return append([]byte{0, duidLL, 0, etherType}, mac...) }

// plan6 is what a Config6 asks of DHCPv6. It never changes
// but for its space.
type plan6 struct {
	cfg  Config6
	duid []byte // ours
	space
}

// newPlan6 derives the plan of a valid cfg.
func newPlan6(cfg *Config6, log *slog.Logger) *plan6 {
	p := &plan6{cfg: *cfg, duid: serverDUID(cfg.MAC)}
	length := cfg.LeaseTime
	if length == 0 {
		length = DefaultLeaseTime6
	}
	p.space = space{
		network: cfg.Network, prefix: cfg.Prefix.Masked(), domain: cfg.Domain,
		ranges: cfg.Ranges, length: length,
		// RFC 4291, section 2.6.1: the address with a zero interface identifier is the
		// routers' anycast address.
		never: map[netip.Addr]bool{cfg.Server: true, cfg.Prefix.Masked().Addr(): true},
	}
	p.reserveAll(cfg.Reservations, log)
	return p
}
