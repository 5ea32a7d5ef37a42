package ra

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/mdlayher/ndp"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// What advertisements say besides the settings: the values that guests get from
// dnsmasq as libvirt sets it up.
const (
	// RFC 4861, section 6.2.1: AdvDefaultLifetime is three times
	// MaxRtrAdvInterval, which is 600 seconds here.
	routerLifetime time.Duration = 3 * maxAdvertInterval
	advertHopLimit               = 64
)

// Config is what a Server shall advertise.
type Config struct {
	// Network is the network's name, for logs.
	Network string
	// Interface is the bridge. The socket is bound to it.
	Interface string
	// MAC is the bridge's hardware address, six bytes.
	MAC net.HardwareAddr
	// Prefixes are the subnets of the link, one for each IPv6 address of the
	// bridge. At least one.
	Prefixes []Prefix
	// Router says that guests may use us as their default router. False on
	// isolated networks.
	Router bool
	// DNS says that guests may ask us names: RDNSS (RFC 8106, section 5.1) is our
	// link-local address.
	DNS bool
	// Domain is the search list, DNSSL (RFC 8106, section 5.2). Empty: the option
	// is absent.
	Domain string
	// MTU is that of the link, at least 1280. 0: the option is absent.
	MTU int
	// Routes are further networks that guests reach through us (RFC 4191, section
	// 2.3). May be empty.
	Routes []netip.Prefix
	// Logger receives the log. Nil: slog.Default. Reconfigure ignores it.
	Logger *slog.Logger
	// Left is what a former process got from Sockets: in place of a new socket, Open
	// uses a copy of the one of these that is bound as it should be. They remain the
	// caller's. Reconfigure ignores it.
	Left []*os.File
}

// Prefix is one subnet of the link.
type Prefix struct {
	// Prefix is the subnet; bits of the host part are ignored.
	Prefix netip.Prefix
	// Managed says that addresses come from DHCPv6, Autonomous that guests make their
	// own (SLAAC, RFC 4862). Where both hold guests do both, or what they can: Android
	// has no DHCPv6. DHCP says that DHCPv6 has other things to tell, at least.
	Managed, Autonomous, DHCP bool
}

// Validate returns every fault of c, joined, or nil.
func (c *Config) Validate() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Interface == "" {
		fault("interface: empty")
	}
	if len(c.MAC) != dhcpd.HWAddrLen {
		fault("mac: %d bytes long, want %d", len(c.MAC), dhcpd.HWAddrLen)
	}
	if len(c.Prefixes) == 0 {
		fault("prefixes: none")
	}
	for i, p := range c.Prefixes {
		if !dhcpd.Is6(p.Prefix.Addr()) {
			fault("prefix %d: %v is not an IPv6 prefix", i, p.Prefix)
		}
	}
	for i, r := range c.Routes {
		if !dhcpd.Is6(r.Addr()) {
			fault("route %d: %v is not an IPv6 prefix", i, r)
		}
	}
	// RFC 8200, section 5: "IPv6 requires that every link in the Internet have an
	// MTU of 1280 octets or greater."
	if c.MTU != 0 && (c.MTU < 1280 || c.MTU > 65535) {
		fault("mtu: %d is not in 1280..65535", c.MTU)
	}
	return errors.Join(errs...)
}

// advert returns the Router Advertisement (RFC 4861, section 4.2) that c asks for,
// sent from the link-local address src. was is what guests may know of former settings; last is
// the one that takes the router and the resolver back.
func (c *Config) advert(src netip.Addr, was past, last bool) ([]byte, error) {
	managed := slices.ContainsFunc(c.Prefixes, func(p Prefix) bool { return p.Managed })
	ra := &ndp.RouterAdvertisement{
		CurrentHopLimit:      advertHopLimit,
		ManagedConfiguration: managed,
		OtherConfiguration:   slices.ContainsFunc(c.Prefixes, func(p Prefix) bool { return p.DHCP }),
	}
	// RFC 4861, section 6.2.5: a router that ceases to advertise sends final
	// advertisements "with a Router Lifetime field of zero".
	if c.Router && !last {
		ra.RouterLifetime = routerLifetime
	}
	ra.Options = append(c.prefixOptions(last), c.resolverOptions(src, was, last)...)
	if c.MTU != 0 {
		ra.Options = append(ra.Options, ndp.NewMTU(uint32(c.MTU)))
	}
	ra.Options = append(ra.Options, &ndp.LinkLayerAddress{Direction: ndp.Source, Addr: c.MAC})
	b, err := ndp.MarshalMessage(ra)
	if err != nil {
		return nil, fmt.Errorf("making a router advertisement: %w", err)
	}
	return b, nil
}

// prefixOptions returns the Prefix Information options (RFC 4861, section 4.6.2) and
// the Route Information options. Prefixes are for ever, as the bridge's addresses
// are: guests keep their addresses over a restart of the network.
func (c *Config) prefixOptions(last bool) []ndp.Option {
	var opts []ndp.Option
	for _, p := range c.Prefixes {
		opts = append(opts, &ndp.PrefixInformation{
			PrefixLength:                   uint8(p.Prefix.Bits()),
			OnLink:                         true,
			AutonomousAddressConfiguration: p.Autonomous,
			ValidLifetime:                  ndp.Infinity,
			PreferredLifetime:              ndp.Infinity,
			Prefix:                         p.Prefix.Masked().Addr(),
		})
	}
	lifetime := routerLifetime
	if last {
		lifetime = 0
	}
	for _, r := range c.Routes {
		opts = append(opts, &ndp.RouteInformation{
			PrefixLength: uint8(r.Bits()), Prefix: r.Masked().Addr(), RouteLifetime: lifetime,
		})
	}
	return opts
}

// maxFormer is of how many former domains guests are told that they are no more: with the
// longest of names an advertisement fits into the least MTU.
const maxFormer = 3

// past is what guests were told of names by former settings of a running server. They have it for
// ever, unless they are told that it is no more.
type past struct {
	dns     bool     // that they may ask us
	domains []string // latest last; none is the present one
}

// after is the past once the settings were was and are is.
func (p past) after(was, is *Config) past {
	now := is.searchList()
	all := slices.DeleteFunc(append(slices.Clone(p.domains), was.searchList()), func(d string) bool {
		return d == "" || strings.EqualFold(d, now)
	})
	return past{p.dns || was.DNS, all[max(0, len(all)-maxFormer):]}
}

// searchList is the domain as DNSSL has it, empty where there is none.
func (c *Config) searchList() string {
	if domain := strings.Trim(c.Domain, "."); dhcpd.ValidDomain(domain) {
		return domain
	}
	return ""
}

// resolverOptions returns RDNSS and DNSSL. What is no more has no lifetime.
//
// RFC 8106, section 5.1: "a value of zero means that the RDNSS addresses MUST no
// longer be used." Section 5.2 says the same of DNSSL.
func (c *Config) resolverOptions(src netip.Addr, was past, last bool) []ndp.Option {
	var opts []ndp.Option
	lifetime := func(is bool) time.Duration {
		if is && !last {
			return ndp.Infinity
		}
		return 0
	}
	if c.DNS || was.dns {
		opts = append(opts, &ndp.RecursiveDNSServer{Lifetime: lifetime(c.DNS), Servers: []netip.Addr{src}})
	}
	if len(was.domains) > 0 {
		opts = append(opts, &ndp.DNSSearchList{Lifetime: lifetime(false), DomainNames: was.domains})
	}
	if domain := c.searchList(); domain != "" {
		opts = append(opts, &ndp.DNSSearchList{Lifetime: lifetime(true), DomainNames: []string{domain}})
	}
	return opts
}

// checkSolicit says why a message is no valid Router Solicitation.
//
// RFC 4861, section 6.1.1: "A router MUST silently discard any received Router
// Solicitation messages that do not satisfy all of the following validity
// checks". The kernel checked the checksum.
func checkSolicit(m solicit) error {
	switch {
	// "The IP Hop Limit field has a value of 255, i.e., the packet could not
	// possibly have been forwarded by a router."
	case m.hopLimit != ndpHopLimit:
		return fmt.Errorf("hop limit is %d", m.hopLimit)
	case len(m.payload) < 2 || m.payload[1] != 0:
		return errors.New("code is not 0")
	}
	msg, err := ndp.ParseMessage(m.payload)
	if err != nil {
		return err
	}
	rs, ok := msg.(*ndp.RouterSolicitation)
	if !ok {
		return fmt.Errorf("type is %v", msg.Type())
	}
	// "If the IP source address is the unspecified address, there is no source
	// link-layer address option in the message."
	if m.src.IsUnspecified() && slices.ContainsFunc(rs.Options, isSourceAddr) {
		return errors.New("a source link-layer address without a source")
	}
	return nil
}

func isSourceAddr(o ndp.Option) bool {
	l, ok := o.(*ndp.LinkLayerAddress)
	return ok && l.Direction == ndp.Source
}
