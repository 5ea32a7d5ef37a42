package dnsd

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/pkg/dnsd/upstream"
	"github.com/vnetd/vnetd/pkg/dnsd/zone"
)

// Defaults of Config.
const (
	defaultPort       = 53
	defaultResolvConf = "/etc/resolv.conf"
)

// Keys of log attributes.
const (
	keyNetwork  = "network"
	keyIP       = "ip"
	keyUpstream = "upstream"
	keyPort     = "port"
	keyError    = "error"
)

// Config is what a network wants of its name server. The zero value of a field
// is its documented default; Network, Interface and Logger are fixed when the
// server is opened, and so are Addrs and the ports.
type Config struct {
	// Network is the network's name, for the log.
	Network string

	// Interface is the bridge that the sockets are bound to (SO_BINDTODEVICE):
	// queries that come in elsewhere are not seen. Empty: any interface.
	Interface string

	// Addrs are the gateway's addresses; at least one. Each gets a UDP and a TCP
	// socket. They need not be there yet (IP_FREEBIND).
	Addrs []netip.Addr

	// Domain is the network's domain, without a trailing dot. Empty: none.
	// Names answer plain and with the domain.
	Domain string

	// LocalOnly makes Domain ours alone: an unknown name in it does not exist
	// (libvirt's localOnly='yes'). Otherwise it is forwarded.
	LocalOnly bool

	// NoPlainNames keeps address queries for unknown names of a single label
	// from the upstream: they don't exist (libvirt's forwardPlainNames='no').
	NoPlainNames bool

	// Prefixes are the network's subnets. Their reverse names are ours: the
	// PTR of a free address does not exist.
	Prefixes []netip.Prefix

	// Static are the names that hold for as long as the configuration does. A
	// name that is here, and an address that is here, is never a dynamic
	// host's. Several hosts of one name make a name with several addresses; of
	// several names of one address the first is its PTR.
	Static []Host

	// HostTTL is the TTL of dynamic hosts that have none of their own.
	HostTTL time.Duration

	// TXT, SRV and CNAMEs are other records of static names.
	TXT    []TXT
	SRV    []SRV
	CNAMEs []CNAME

	// Records are records of any type.
	Records []Record

	// Addresses are what the names of whole domains have.
	Addresses []Address

	// LocalDomains are domains whose unknown names don't exist, as Domain with
	// LocalOnly.
	LocalDomains []string

	// Forwarders are the upstream servers. Without one for all names those that
	// ResolvConf names are asked.
	Forwarders []Forwarder

	// ResolvConf is the path of the host's resolv.conf. Empty:
	// /etc/resolv.conf. Looked at again while queries are forwarded, so a
	// change, a replaced file or link, and a file that appears later count
	// within a second.
	ResolvConf string

	// NoForward keeps queries from the host's resolvers: an isolated network.
	// What is neither local nor the matter of a Forwarder with an address is
	// refused.
	NoForward bool

	// StopRebind keeps upstreams' answers that have a private address from
	// guests: they get an empty one (dnsmasq's stop-dns-rebind).
	StopRebind bool

	// RebindLocalhost lets loopback addresses pass all the same.
	RebindLocalhost bool

	// RebindDomains are domains whose names may have private addresses, of which
	// a host's own networks have some.
	RebindDomains []string

	// Peers returns the networks whose hosts are named to clients too, see Peer; it is asked with
	// each query that has no answer here, and must not block. Nil: none.
	Peers func() []Peer

	// Gate is told what names have before clients are. Nil: there is none.
	Gate Gate

	// Port is the port to serve. 0: 53.
	Port int

	// OtherPort is served instead, on all of Addrs, when another program has
	// Port on one of them, as one that listens on all addresses has. The
	// caller leads queries there, see Server.Port. 0: there is none, and Open
	// fails.
	OtherPort int

	// Logger gets the server's messages. Nil: none are written.
	Logger *slog.Logger

	// Left is what a former process got from Sockets or Leave: in place of new sockets,
	// Open uses copies of those of these that are bound as they should be, and Run goes on
	// with the connections among them. They remain the caller's.
	Left []*os.File
}

// What package zone says of names and records.
type (
	Host    = zone.Host
	TXT     = zone.TXT
	SRV     = zone.SRV
	CNAME   = zone.CNAME
	Record  = zone.Record
	Address = zone.Address
	Zone    = zone.Zone
)

// What package upstream says of the servers that are asked.
type (
	Forwarder = upstream.Forwarder
	Upstream  = upstream.Status
	Asked     = upstream.Asked
)

// Peer is another network whose hosts a server names to its own clients: the addresses of
// names in its domain, and the names of addresses in its subnets.
type Peer struct {
	Domain   string // without a trailing dot
	Prefixes []netip.Prefix
	// Zone finds what the server of that network knows, see Server.Zone; nil while it has none.
	Zone func() *Zone
}

// Gate opens the way to what names have. Its methods may be called concurrently.
type Gate interface {
	// Watches reports whether Open is to be told of a name, which is in lower case and has no
	// dot at its end. It must not block.
	Watches(name string) bool
	// Open is told which addresses the name has, and for how long: clients are told when it
	// returns. It takes no longer than clients wait.
	Open(name string, addrs []Lifetime)
}

// Lifetime is an address and how long it may be kept.
type Lifetime struct {
	Addr netip.Addr
	TTL  time.Duration
}

// zone is what c says of names.
func (c Config) zone() zone.Config {
	z := zone.Config{
		Domain: c.Domain, LocalOnly: c.LocalOnly, NoPlainNames: c.NoPlainNames,
		Prefixes: c.Prefixes, Static: c.Static, HostTTL: c.HostTTL,
		TXT: c.TXT, SRV: c.SRV, CNAMEs: c.CNAMEs, Records: c.Records, Addresses: c.Addresses,
		LocalDomains: c.LocalDomains, Forwards: c.forwards(),
	}
	if len(c.Addrs) > 0 {
		z.Own = c.Addrs[0]
	}
	for _, f := range c.Forwarders {
		if f.Domain != "" {
			z.Forwarded = append(z.Forwarded, f.Domain)
		}
	}
	return z
}

// forwards reports whether c has an upstream for any name.
func (c Config) forwards() bool {
	return !c.NoForward || slices.ContainsFunc(c.Forwarders, func(f Forwarder) bool { return f.Addr.IsValid() || f.Host })
}

// withDefaults returns c with its defaults in place and its addresses unmapped.
// It shares nothing with c that anyone may change.
func (c Config) withDefaults() Config {
	if c.Port == 0 {
		c.Port = defaultPort
	}
	if c.ResolvConf == "" {
		c.ResolvConf = defaultResolvConf
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Domain = strings.TrimSuffix(c.Domain, ".")
	c.Addrs = slices.Clone(c.Addrs)
	for i, a := range c.Addrs {
		c.Addrs[i] = a.Unmap()
	}
	c.Prefixes = slices.Clone(c.Prefixes)
	c.Static = slices.Clone(c.Static)
	for i := range c.Static {
		c.Static[i].Addr = c.Static[i].Addr.Unmap()
	}
	c.Addresses = slices.Clone(c.Addresses)
	for i := range c.Addresses {
		c.Addresses[i].Addr = c.Addresses[i].Addr.Unmap()
	}
	c.Forwarders = slices.Clone(c.Forwarders)
	for i := range c.Forwarders {
		f := &c.Forwarders[i]
		f.Addr = f.Addr.Unmap()
		if f.Port == 0 {
			f.Port = defaultPort
		}
	}
	return c
}

// Validate returns every fault of c, joined, or nil.
func (c Config) Validate() error {
	c = c.withDefaults()
	errs := []error{c.validateServers(), c.zone().Validate()}
	if len(c.Interface) > ether.MaxName {
		errs = append(errs, fmt.Errorf("interface %q: name too long", c.Interface))
	}
	for _, port := range []int{c.Port, c.OtherPort} {
		if port < 0 || port > 0xffff {
			errs = append(errs, fmt.Errorf("port %d: out of range", port))
		}
	}
	return errors.Join(errs...)
}

// validateServers returns the faults of where c serves and whom it asks.
func (c Config) validateServers() error {
	var errs []error
	if len(c.Addrs) == 0 {
		errs = append(errs, errors.New("addrs: no address to serve on"))
	}
	for i, a := range c.Addrs {
		if !a.IsValid() {
			errs = append(errs, fmt.Errorf("addrs[%d]: no address", i))
		}
	}
	for i, d := range c.RebindDomains {
		errs = append(errs, zone.CheckNames(fmt.Sprintf("rebindDomains[%d]", i), d))
	}
	for i, f := range c.Forwarders {
		errs = append(errs, validateForwarder(f, fmt.Sprintf("forwarders[%d]", i)))
	}
	return errors.Join(errs...)
}

// validateForwarder returns the faults of f, which stands at path.
func validateForwarder(f Forwarder, path string) error {
	switch {
	case f.Domain != "":
		return zone.CheckNames(path, f.Domain)
	case !f.Addr.IsValid():
		return fmt.Errorf("%s: neither a domain nor an address", path)
	}
	return nil
}
