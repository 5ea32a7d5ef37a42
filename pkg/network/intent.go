package network

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vnetd/vnetd/internal/dnsname"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/ra"
	"github.com/vnetd/vnetd/pkg/dhcpd/tftp"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
	"github.com/vnetd/vnetd/pkg/dhcpd/v6"
	"github.com/vnetd/vnetd/pkg/dnsd"
	"github.com/vnetd/vnetd/pkg/dnsd/resolved"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// gatewayName is the name under which every network's guests find their
// gateway.
const gatewayName = "gateway"

// unsupported lists what n asks for that can't be given yet. It is parsed, kept
// and printed, and keeps the network from starting: a network that silently
// lacks what its document says would be worse than none.
func unsupported(n *netdef.Network) error {
	var missing []error
	for _, feature := range []struct {
		asked bool
		path  string
	}{
		{!n.Mode().OwnsBridge() && n.Mode() != netdef.ModeBridge, fmt.Sprintf("network/forward/@mode: %q", n.Mode())},
		{n.Mode() == netdef.ModeBridge && n.Bridge.Name == "", "network/forward/@mode: 'bridge' without network/bridge/@name"},
		{n.Uplink != "" && (n.Bridge.STP || n.Bridge.Delay != 0), "network/bridge/@stp with network/vnetd:uplink"},
		{n.Uplink != "" && n.MTU != 0, "network/mtu with network/vnetd:uplink"},
		{n.VLAN != nil, "network/vlan"},
		{n.Bandwidth != nil, "network/bandwidth"},
		{n.VirtualPort != nil, "network/virtualport"},
	} {
		if feature.asked {
			missing = append(missing, api.Errorf(api.Unsupported, "%s is not available in this version of vnetd", feature.path))
		}
	}
	return errors.Join(missing...)
}

// bridgeConfig is what n asks of pkg/bridge.
func bridgeConfig(n *netdef.Network) bridge.Config {
	c := bridge.Config{
		Name:         n.Bridge.Name,
		MAC:          n.MAC,
		STP:          n.Bridge.STP,
		ForwardDelay: time.Duration(n.Bridge.Delay) * time.Second,
		MTU:          n.MTU,
		Alias:        markOf(n),
		MACTable:     managesMACs(n),
	}
	for i := range n.IPs {
		c.Addrs = append(c.Addrs, n.IPs[i].Prefix())
	}
	for i := range n.Routes {
		r := &n.Routes[i]
		c.Routes = append(c.Routes, bridge.Route{Prefix: r.Prefix(), Gateway: r.Gateway, Metric: uint32(r.Metric)})
	}
	return c
}

// managesMACs tells whether vnetd, not the kernel, keeps the bridge's table of
// guests' MAC addresses.
func managesMACs(n *netdef.Network) bool { return n.Bridge.MACTableManager == "libvirt" }

// portConfig is how a port of n is plugged in; isolated is its own wish.
func portConfig(n *netdef.Network, isolated bool) bridge.PortConfig {
	return bridge.PortConfig{
		Isolated:   isolated || n.Isolated == netdef.Yes,
		NoLearning: managesMACs(n),
		NoFlood:    managesMACs(n),
	}
}

// forwards tells which families the host must forward for n: those it has
// addresses of, unless it is isolated.
func forwards(n *netdef.Network) (v4, v6 bool) {
	if n.Mode() == netdef.ModeIsolated {
		return false, false
	}
	for i := range n.IPs {
		if n.IPs[i].Address.Is4() {
			v4 = true
		} else {
			v6 = true
		}
	}
	return v4, v6
}

// firewallNetwork is what n asks of pkg/firewall.
func firewallNetwork(n *netdef.Network) firewall.Network {
	f := firewall.Network{Bridge: n.Bridge.Name, Mode: firewall.Mode(n.Mode()), IPv6: n.IPv6, Zone: n.Bridge.Zone}
	if n.Forward != nil {
		f.Dev = n.Forward.Dev
		if nat := n.Forward.NAT; nat != nil {
			f.NATIPv6 = nat.IPv6 == netdef.Yes
			if nat.Port != nil {
				f.NATPorts = firewall.PortRange{Start: nat.Port.Start, End: nat.Port.End}
			}
			if nat.Address != nil {
				f.NATAddrs = firewall.AddrRange{Start: nat.Address.Start, End: nat.Address.End}
			}
		}
	}
	for i := range n.IPs {
		ip := &n.IPs[i]
		f.Subnets = append(f.Subnets, ip.Prefix())
		if ip.Address.Is4() {
			f.DHCP = f.DHCP || servesDHCP(ip)
			f.TFTP = f.TFTP || ip.TFTPRoot != ""
		}
	}
	return f
}

// servesDHCP tells whether DHCP is served for an <ip>: it has a range or a host.
func servesDHCP(ip *netdef.IP) bool {
	return ip.DHCP != nil && len(ip.DHCP.Ranges)+len(ip.DHCP.Hosts) > 0
}

// dhcpIP is the IPv4 <ip> for which DHCP is served, nil when there is none. A
// valid definition has at most one of each family.
func dhcpIP(n *netdef.Network) *netdef.IP { return findDHCP(n, netip.Addr.Is4) }

// dhcp6IP is dhcpIP for IPv6.
func dhcp6IP(n *netdef.Network) *netdef.IP { return findDHCP(n, netip.Addr.Is6) }

func findDHCP(n *netdef.Network, family func(netip.Addr) bool) *netdef.IP {
	for i := range n.IPs {
		if ip := &n.IPs[i]; family(ip.Address) && servesDHCP(ip) {
			return ip
		}
	}
	return nil
}

// hasIPv6 tells whether n has an IPv6 address, and so advertises itself.
func hasIPv6(n *netdef.Network) bool {
	return slices.ContainsFunc(n.IPs, func(ip netdef.IP) bool { return ip.Address.Is6() })
}

// domainOf is n's DNS domain as it is on the wire, empty for none.
func domainOf(n *netdef.Network) string {
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

// resolvers are the DNS servers that guests on ip are told of.
func resolvers(n *netdef.Network, ip *netdef.IP) []netip.Addr {
	if !servesDNS(n) {
		return nil
	}
	return []netip.Addr{ip.Address}
}

// dhcpConfig is what n, which has a dhcpIP, asks of pkg/dhcpd; the caller adds the
// store, the event function and the logger.
func dhcpConfig(n *netdef.Network) v4.Config {
	n, _ = n.Served()
	ip := dhcpIP(n)
	c := v4.Config{
		Network:      n.Name,
		Interface:    n.Bridge.Name,
		MAC:          n.MAC,
		Server:       ip.Address,
		Prefix:       ip.Prefix(),
		DNS:          resolvers(n, ip),
		Domain:       domainOf(n),
		MTU:          n.MTU,
		Ranges:       ranges(ip.DHCP),
		Reservations: reservations(ip.DHCP),
		Identity:     dhcpd.Identity(n.DHCPPolicy.Identity),
	}
	if n.Mode() != netdef.ModeIsolated {
		c.Router = ip.Address
	}
	if b := ip.DHCP.Bootp; b != nil {
		c.BootFile, c.BootServer = b.File, b.Server
	}
	for i := range n.Routes {
		if r := &n.Routes[i]; r.Gateway.Is4() {
			c.Routes = append(c.Routes, v4.Route{Dst: r.Prefix(), Gateway: r.Gateway})
		}
	}
	o, _ := v4.ParseDnsmasqOptions(n.DnsmasqOptions)
	o.Apply(&c)
	return c
}

// dhcp6Config is dhcpConfig for DHCPv6.
func dhcp6Config(n *netdef.Network) v6.Config {
	n, _ = n.Served()
	ip := dhcp6IP(n)
	c := v6.Config{
		Network:      n.Name,
		Interface:    n.Bridge.Name,
		MAC:          n.MAC,
		Server:       ip.Address,
		Prefix:       ip.Prefix(),
		DNS:          resolvers(n, ip),
		Domain:       domainOf(n),
		Ranges:       ranges(ip.DHCP),
		Reservations: reservations(ip.DHCP),
	}
	o, _ := v4.ParseDnsmasqOptions(n.DnsmasqOptions)
	c.Reservations = append(o.Reservations6(), c.Reservations...)
	return c
}

// ranges are the pools of a <dhcp>.
func ranges(d *netdef.DHCP) []dhcpd.Range {
	var rs []dhcpd.Range
	for _, r := range d.Ranges {
		rs = append(rs, dhcpd.Range{Start: r.Start, End: r.End, LeaseTime: leaseTime(r.Lease)})
	}
	return rs
}

// reservations are the hosts of a <dhcp>.
func reservations(d *netdef.DHCP) []dhcpd.Reservation {
	var rs []dhcpd.Reservation
	for _, h := range d.Hosts {
		if h.Anonymous() {
			continue // of a document that can't be served whole
		}
		r := dhcpd.Reservation{MAC: h.MAC, Name: ascii(h.Name), Addr: h.IP, LeaseTime: leaseTime(h.Lease)}
		if h.ID != "" {
			// One that is no DUID is matched by what else the element says.
			r.DUID, _ = dhcpd.ParseDUID(h.ID)
		}
		rs = append(rs, r)
	}
	return rs
}

// defaultMTU is that of a bridge of which the document says nothing.
const defaultMTU = 1500

// raConfig is what n, which has an IPv6 address, asks of router advertisements;
// the caller adds the logger.
func raConfig(n *netdef.Network) ra.Config {
	n, _ = n.Served()
	c := ra.Config{
		Network:   n.Name,
		Interface: n.Bridge.Name,
		MAC:       n.MAC,
		Router:    n.Mode() != netdef.ModeIsolated,
		DNS:       servesDNS(n),
		Domain:    domainOf(n),
		MTU:       cmp.Or(n.MTU, defaultMTU),
	}
	for i := range n.IPs {
		if ip := &n.IPs[i]; ip.Address.Is6() {
			c.Prefixes = append(c.Prefixes, ra.Prefix{Prefix: ip.Prefix().Masked(), DHCP: servesDHCP(ip)})
		}
	}
	for i := range n.Routes {
		if r := &n.Routes[i]; r.Gateway.Is6() {
			c.Routes = append(c.Routes, r.Prefix())
		}
	}
	return c
}

// tftpIP is the IPv4 <ip> whose files are served, nil when there is none.
func tftpIP(n *netdef.Network) *netdef.IP {
	for i := range n.IPs {
		if ip := &n.IPs[i]; ip.TFTPRoot != "" && ip.Address.Is4() {
			return ip
		}
	}
	return nil
}

// tftpConfig is what n, which has a tftpIP, asks of TFTP; the caller adds the
// logger.
func tftpConfig(n *netdef.Network) tftp.Config {
	ip := tftpIP(n)
	return tftp.Config{Network: n.Name, Interface: n.Bridge.Name, Addr: ip.Address, Root: ip.TFTPRoot}
}

// hasDomain tells whether n has names that the host's resolver can be told of.
func hasDomain(n *netdef.Network) bool { return servesDNS(n) && domainOf(n) != "" }

// registerConfig is what the host's resolver is told of n; the caller adds the
// logger.
func registerConfig(n *netdef.Network) resolved.Config {
	c := dnsConfig(n)
	return resolved.Config{Addrs: gateways(n), Domain: c.Domain, Prefixes: c.Prefixes}
}

// gateways are the addresses of n's <ip> elements.
func gateways(n *netdef.Network) []netip.Addr {
	var all []netip.Addr
	for i := range n.IPs {
		all = append(all, n.IPs[i].Address)
	}
	return all
}

// notUnderstood lists the lines of <dnsmasq:options> that mean nothing to DHCP
// nor to DNS.
func notUnderstood(n *netdef.Network) []string {
	_, forDHCP := v4.ParseDnsmasqOptions(n.DnsmasqOptions)
	_, forDNS := dnsd.ParseDnsmasqOptions(n.DnsmasqOptions)
	return slices.DeleteFunc(forDHCP, func(line string) bool { return !slices.Contains(forDNS, line) })
}

// linkLocal is the address that the kernel gives the bridge: of its MAC address
// (RFC 4291 appendix A). Guests learn it as their resolver.
func linkLocal(n *netdef.Network) netip.Addr {
	m := n.MAC
	a := [16]byte{0xfe, 0x80, 8: m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]}
	return netip.AddrFrom16(a).WithZone(n.Bridge.Name)
}

// leaseTime is l as dhcpd takes it; zero, its default, when l is nil.
func leaseTime(l *netdef.LeaseTime) time.Duration {
	d, infinite := l.Duration()
	if infinite {
		return dhcpd.Infinite
	}
	return d
}

// servesDNS tells whether DNS is served on n: it has an address and
// <dns enable='no'/> is not there.
func servesDNS(n *netdef.Network) bool {
	return len(n.IPs) > 0 && (n.DNS == nil || n.DNS.Enable != netdef.No)
}

// dnsConfig is what n asks of pkg/dnsd; the caller adds the resolvers and the
// logger.
func dnsConfig(n *netdef.Network) dnsd.Config {
	n, _ = n.Served()
	c := dnsd.Config{
		Network:   n.Name,
		Interface: n.Bridge.Name,
		NoForward: n.Mode() == netdef.ModeIsolated,
	}
	if n.Domain != nil {
		c.Domain, c.LocalOnly = domainOf(n), n.Domain.LocalOnly == netdef.Yes
	}
	c.Addrs = gateways(n)
	for i := range n.IPs {
		c.Prefixes = append(c.Prefixes, n.IPs[i].Prefix().Masked())
	}
	if hasIPv6(n) {
		c.Addrs = append(c.Addrs, linkLocal(n))
	}
	c.Static = staticNames(n)
	addRecords(&c, n.DNS)
	o, _ := dnsd.ParseDnsmasqOptions(n.DnsmasqOptions)
	return o.AddTo(c)
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
