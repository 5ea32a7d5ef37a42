package network

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dnsd"
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
		{n.Mode() == netdef.ModeBridge && n.Bridge.Name == "", "network/forward/interface: a pool of interfaces"},
		{len(n.Routes) > 0, "network/route"},
		{n.VLAN != nil, "network/vlan"},
		{n.Bandwidth != nil, "network/bandwidth"},
		{n.VirtualPort != nil, "network/virtualport"},
		{n.Isolated == netdef.Yes, "network/port/@isolated"},
		{n.Bridge.MACTableManager == "libvirt", "network/bridge/@macTableManager: 'libvirt'"},
		{len(n.DnsmasqOptions) > 0, "network/dnsmasq:options"},
		{n.DNS != nil && len(n.DNS.Forwarders) > 0, "network/dns/forwarder"},
		{n.DNS != nil && len(n.DNS.TXT) > 0, "network/dns/txt"},
		{n.DNS != nil && len(n.DNS.SRV) > 0, "network/dns/srv"},
		{slices.ContainsFunc(n.IPs, func(ip netdef.IP) bool { return ip.TFTPRoot != "" }), "network/ip/tftp"},
		{slices.ContainsFunc(n.IPs, func(ip netdef.IP) bool { return ip.DHCP != nil && ip.DHCP.Bootp != nil }), "network/ip/dhcp/bootp"},
		{slices.ContainsFunc(n.IPs, func(ip netdef.IP) bool { return !ip.Address.Is4() && servesDHCP(&ip) }), "network/ip/dhcp (IPv6)"},
	} {
		if feature.asked {
			missing = append(missing, Errorf(Unsupported, "%s is not available in this version of vnetd", feature.path))
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
	}
	for i := range n.IPs {
		c.Addrs = append(c.Addrs, n.IPs[i].Prefix())
	}
	return c
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
	f := firewall.Network{Bridge: n.Bridge.Name, Mode: firewall.Mode(n.Mode()), IPv6: n.IPv6}
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
// valid definition has at most one.
func dhcpIP(n *netdef.Network) *netdef.IP {
	for i := range n.IPs {
		if ip := &n.IPs[i]; ip.Address.Is4() && servesDHCP(ip) {
			return ip
		}
	}
	return nil
}

// dhcpConfig is what n asks of pkg/dhcpd for ip, one of its elements; the
// caller adds the store, the event function and the logger.
func dhcpConfig(n *netdef.Network, ip *netdef.IP) dhcpd.Config {
	c := dhcpd.Config{
		Network:   n.Name,
		Interface: n.Bridge.Name,
		MAC:       n.MAC,
		Server:    ip.Address,
		Prefix:    ip.Prefix(),
		MTU:       n.MTU,
	}
	if n.Mode() != netdef.ModeIsolated {
		c.Router = ip.Address
	}
	if servesDNS(n) {
		c.DNS = []netip.Addr{ip.Address}
	}
	if n.Domain != nil {
		c.Domain = n.Domain.Name
	}
	for _, r := range ip.DHCP.Ranges {
		c.Ranges = append(c.Ranges, dhcpd.Range{Start: r.Start, End: r.End, LeaseTime: leaseTime(r.Lease)})
	}
	for _, h := range ip.DHCP.Hosts {
		c.Reservations = append(c.Reservations, dhcpd.Reservation{
			MAC: h.MAC, Name: h.Name, Addr: h.IP, LeaseTime: leaseTime(h.Lease),
		})
	}
	return c
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
	c := dnsd.Config{
		Network:   n.Name,
		Interface: n.Bridge.Name,
		NoForward: n.Mode() == netdef.ModeIsolated,
	}
	if n.Domain != nil {
		c.Domain, c.LocalOnly = n.Domain.Name, n.Domain.LocalOnly == netdef.Yes
	}
	if n.DNS != nil {
		c.NoPlainNames = n.DNS.ForwardPlainNames == netdef.No
	}
	for i := range n.IPs {
		ip := &n.IPs[i]
		c.Addrs = append(c.Addrs, ip.Address)
		c.Prefixes = append(c.Prefixes, ip.Prefix().Masked())
	}
	c.Static = staticNames(n)
	return c
}

// staticNames are the names that the document gives to addresses: those of
// <dns><host> and of DHCP's <host>, and gatewayName where none of them took it.
func staticNames(n *netdef.Network) []dnsd.Host {
	var hosts []dnsd.Host
	if n.DNS != nil {
		for _, h := range n.DNS.Hosts {
			for _, name := range h.Hostnames {
				hosts = append(hosts, dnsd.Host{Name: name, Addr: h.IP})
			}
		}
	}
	for i := range n.IPs {
		if n.IPs[i].DHCP == nil {
			continue
		}
		for _, h := range n.IPs[i].DHCP.Hosts {
			if h.Name != "" {
				hosts = append(hosts, dnsd.Host{Name: h.Name, Addr: h.IP})
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
