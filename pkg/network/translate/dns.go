package translate

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vnetd/vnetd/internal/dnsname"
	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/pkg/dnsd"
	"github.com/vnetd/vnetd/pkg/dnsd/resolved"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// gatewayName is the name under which every network's guests find their
// gateway.
const gatewayName = "gateway"

// OtherDNSPort is where DNS is served when another program of the host has port
// 53 of all addresses. It is the same for all networks and at all times, so that
// the rules that lead there are known without a record of them.
const OtherDNSPort = 10053

// Redirectable reports whether guests' queries can be led to another port: n has
// rules.
func Redirectable(n *netdef.Network) bool {
	switch n.Mode() {
	case netdef.ModeNAT, netdef.ModeRoute, netdef.ModeIsolated:
		return true
	}
	return false
}

// OtherDNS is where n's names are served instead of at port 53.
func OtherDNS(n *netdef.Network) []netip.AddrPort {
	var all []netip.AddrPort
	for _, a := range nameServers(n) {
		all = append(all, netip.AddrPortFrom(a, OtherDNSPort))
	}
	return all
}

// ServesDNS reports whether DNS is served on n: it has an address and
// <dns enable='no'/> is not there.
func ServesDNS(n *netdef.Network) bool {
	return len(n.IPs) > 0 && (n.DNS == nil || n.DNS.Enable != netdef.No)
}

// Domain is n's DNS domain as it is on the wire, empty for none.
func Domain(n *netdef.Network) string {
	if n.Domain == nil {
		return ""
	}
	return ascii(n.Domain.Name)
}

// ascii is a name of a document as it is on the wire, empty for one that can't be
// there.
func ascii(name string) string {
	wire, err := dnsname.Record(name)
	if err != nil {
		return ""
	}
	return wire
}

// nameServers are the addresses of n at which names are served.
func nameServers(n *netdef.Network) []netip.Addr {
	addrs := Gateways(n)
	if HasIPv6(n) {
		addrs = append(addrs, linkLocal(n))
	}
	return addrs
}

// Prefixes are the subnets of n.
func Prefixes(n *netdef.Network) []netip.Prefix {
	var all []netip.Prefix
	for i := range n.IPs {
		all = append(all, n.IPs[i].Prefix().Masked())
	}
	return all
}

// DNS is what n, which is as it can be served, asks of pkg/dnsd; the caller adds the resolvers and the
// logger.
func DNS(n *netdef.Network) dnsd.Config {
	c := dnsd.Config{
		Network:   n.Name,
		Interface: n.Bridge.Name,
		NoForward: n.Mode() == netdef.ModeIsolated,
		Addrs:     nameServers(n),
		Prefixes:  Prefixes(n),
	}
	if n.Domain != nil {
		c.Domain, c.LocalOnly = Domain(n), n.Domain.LocalOnly == netdef.Yes
	}
	c.Static = staticNames(n)
	addRecords(&c, n.DNS)
	for _, r := range n.Records {
		c.Records = append(c.Records, dnsd.Record{
			Name: ascii(n.RecordName(r.Name)), Type: r.Type, Value: r.Value, TTL: time.Duration(r.TTL) * time.Second,
		})
	}
	addDnsmasqDNS(&c, &n.Dnsmasq.DNS)
	if c.NoForward {
		for _, domain := range askedByName(n) {
			c.Forwarders = append(c.Forwarders, dnsd.Forwarder{Domain: domain, Host: true})
		}
	}
	return c
}

// linkLocal is the address that the kernel gives the bridge. Guests learn it as their
// resolver.
func linkLocal(n *netdef.Network) netip.Addr {
	return ether.LinkLocal(n.MAC).WithZone(n.Bridge.Name)
}

// addRecords adds what <dns> says of records and forwarders.
func addRecords(c *dnsd.Config, d *netdef.DNS) {
	if d == nil {
		return
	}
	c.NoPlainNames = d.ForwardPlainNames == netdef.No
	for _, r := range d.TXT {
		c.TXT = append(c.TXT, dnsd.TXT{Name: ascii(r.Name), Value: r.Value})
	}
	for _, r := range d.SRV {
		c.SRV = append(c.SRV, dnsd.SRV{
			Service: r.Service, Protocol: r.Protocol, Domain: ascii(r.Domain), Target: ascii(r.Target),
			Port: uint16(r.Port), Priority: uint16(r.Priority), Weight: uint16(r.Weight),
		})
	}
	for _, f := range d.Forwarders {
		c.Forwarders = append(c.Forwarders, dnsd.Forwarder{Domain: ascii(f.Domain), Addr: f.Addr, Port: f.Port})
	}
}

// staticNames are the names that the document gives to addresses: those of
// <dns><host> and of DHCP's <host>, and gatewayName where none of them took it.
func staticNames(n *netdef.Network) []dnsd.Host {
	var hosts []dnsd.Host
	if n.DNS != nil {
		for _, h := range n.DNS.Hosts {
			for _, name := range h.Hostnames {
				hosts = append(hosts, dnsd.Host{Name: ascii(name), Addr: h.IP})
			}
		}
	}
	for i := range n.IPs {
		if n.IPs[i].DHCP == nil {
			continue
		}
		for _, h := range n.IPs[i].DHCP.Hosts {
			if h.Name != "" {
				hosts = append(hosts, dnsd.Host{Name: ascii(h.Name), Addr: h.IP})
			}
		}
	}
	if slices.ContainsFunc(hosts, func(h dnsd.Host) bool { return strings.EqualFold(h.Name, gatewayName) }) {
		return hosts
	}
	for i := range n.IPs {
		hosts = append(hosts, dnsd.Host{Name: gatewayName, Addr: n.IPs[i].Address})
	}
	return hosts
}

// NameOwner describes what in n's document a name of one label is given to, plain or with the
// domain; empty for nothing.
func NameOwner(n *netdef.Network, label string) string {
	c := DNS(n)
	is := func(name string) bool {
		name, label := strings.ToLower(name), strings.ToLower(label)
		return name == label || name == label+"."+strings.ToLower(c.Domain)
	}
	for _, h := range c.Static {
		if is(h.Name) {
			return "the host " + h.Addr.String()
		}
	}
	for _, a := range c.CNAMEs {
		if is(a.Name) {
			return "an alias of " + a.Target
		}
	}
	for _, r := range c.Records {
		if is(r.Name) {
			return "a record " + r.Type
		}
	}
	if slices.ContainsFunc(c.TXT, func(t dnsd.TXT) bool { return is(t.Name) }) {
		return "a record TXT"
	}
	return ""
}

// HasDomain reports whether n has names that the host's resolver can be told of.
func HasDomain(n *netdef.Network) bool { return ServesDNS(n) && Domain(n) != "" }

// Resolved is what the host's resolver is told of n; the caller adds the
// logger.
func Resolved(n *netdef.Network) resolved.Config {
	return resolved.Config{Addrs: Gateways(n), Domain: Domain(n), Prefixes: Prefixes(n)}
}
