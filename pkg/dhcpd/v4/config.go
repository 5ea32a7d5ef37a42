package v4

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// DefaultLeaseTime is the lease time of a Config that names none.
const DefaultLeaseTime = time.Hour

// Config is what a Server shall do. It states intent; the zero value of a field
// that is not said to be optional is an error.
type Config struct {
	dhcpd.Settings

	// Router is option 3. Zero: the option is absent, as on isolated networks.
	Router netip.Addr
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
	// Boots are what clients of certain kinds boot instead: the first that fits.
	Boots []Boot
	// Probe asks by ARP who has an address before it is offered for the first time,
	// which takes half a second; other clients don't wait for it. An address that
	// somebody has is not given for a while.
	Probe bool
}

// Route is a route that clients are told.
type Route struct {
	Dst     netip.Prefix
	Gateway netip.Addr
}

// maxBootFile is the length of the longest boot file's name.
const maxBootFile = 255

// maxServerName is the length of the longest name in "sname", which a NUL ends.
const maxServerName = 63

// Boot is what clients of one kind boot.
type Boot struct {
	// Archs are the architectures that it is for, as option 93 numbers them (RFC 4578,
	// section 2.1). Empty: any.
	Archs []uint16
	// IPXE says that it is for iPXE alone, which tells by options 175 or 77.
	IPXE bool
	// HTTP says that File is a URL, for clients of UEFI's HTTP boot, which tell by option
	// 60 (UEFI specification, section 24.7) and take no other file.
	HTTP bool
	// Any says that it is for whatever clients have Tags, by HTTP or not.
	Any bool
	// Tags are as those of an Option.
	Tags []string
	// File and Server are as BootFile and BootServer of Config.
	File   string
	Server netip.Addr
	// Name is the server's, for the header and option 66; at most 63 bytes. Empty: its
	// address.
	Name string
}

// Validate returns every fault of c, joined, or nil.
func (c *Config) Validate() error {
	return errors.Join(c.Settings.Validate(false), validateOptions(c))
}

// settable reports whether an option may be configured: those that the protocol
// itself needs may not.
func settable(code uint16) bool {
	switch code {
	case 0, 50, 51, 52, 53, 54, 55, 56, 57, 61, 80, 81, 82, 255:
		return false
	default:
		return true
	}
}

// validateOptions checks what is sent to clients besides their address.
func validateOptions(c *Config) error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, r := range c.Routes {
		if !r.Dst.IsValid() || !r.Dst.Addr().Is4() || !r.Gateway.Is4() {
			fault("route: %v by %v is not of IPv4", r.Dst, r.Gateway)
		}
	}
	for i := range c.Options {
		if err := validateOption(&c.Options[i]); err != nil {
			errs = append(errs, err)
		}
	}
	// RFC 2132, section 5.1: "The minimum legal value for the MTU is 68."
	if c.MTU != 0 && (c.MTU < 68 || c.MTU > 65535) {
		fault("mtu: %d is not in 68..65535", c.MTU)
	}
	return errors.Join(append(errs, validateBoots(c), validateServers(c))...)
}

// validateBoots checks what clients boot.
func validateBoots(c *Config) error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(c.BootFile) > maxBootFile {
		fault("boot file: longer than %d bytes", maxBootFile)
	}
	for i, b := range c.Boots {
		if b.File == "" || len(b.File) > maxBootFile {
			fault("boot %d: file of %d bytes, want 1 to %d", i, len(b.File), maxBootFile)
		}
		if len(b.Name) > maxServerName {
			fault("boot %d: name of the server longer than %d bytes", i, maxServerName)
		}
	}
	return errors.Join(errs...)
}

// validateOption checks one option.
func validateOption(o *dhcpd.Option) error {
	code := o.Code
	if o.Encap != 0 {
		code = uint16(o.Encap)
	}
	switch {
	case !settable(code) || o.Code > 255:
		return fmt.Errorf("option %d: not for configuration", code)
	case len(o.Value) > 255 || o.Encap != 0 && len(o.Value) > 252:
		return fmt.Errorf("option %d: %d bytes have no room in it", code, len(o.Value))
	case isTimer(o) && len(o.Value) != 4:
		return fmt.Errorf("option %d: %d bytes, want 4", code, len(o.Value))
	}
	return nil
}

// validateServers checks the addresses of other machines that clients are told.
func validateServers(c *Config) error {
	var errs []error
	check := func(what string, addrs ...netip.Addr) {
		for _, a := range addrs {
			if !a.Is4() {
				errs = append(errs, fmt.Errorf("%s: %v is not an IPv4 address", what, a))
			}
		}
	}
	if c.BootServer.IsValid() {
		check("boot server", c.BootServer)
	}
	if c.Router.IsValid() {
		check("router", c.Router)
	}
	for _, b := range c.Boots {
		if b.Server.IsValid() {
			check("boot server", b.Server)
		}
	}
	check("ntp", c.NTP...)
	return errors.Join(errs...)
}
