package translate

import (
	"cmp"
	"net/netip"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/ra"
	"github.com/vnetd/vnetd/pkg/dhcpd/tftp"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
	"github.com/vnetd/vnetd/pkg/dhcpd/v6"
	"github.com/vnetd/vnetd/pkg/dnsmasq"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// ServesDHCP reports whether DHCP is served for an <ip>: it has a range or a host.
func ServesDHCP(ip *netdef.IP) bool {
	return ip.DHCP != nil && len(ip.DHCP.Ranges)+len(ip.DHCP.Hosts) > 0
}

// DHCPIP is the IPv4 <ip> for which DHCP is served, nil when there is none. A
// valid definition has at most one of each family.
func DHCPIP(n *netdef.Network) *netdef.IP { return findDHCP(n, netip.Addr.Is4) }

// DHCP6IP is DHCPIP for IPv6.
func DHCP6IP(n *netdef.Network) *netdef.IP { return findDHCP(n, netip.Addr.Is6) }

func findDHCP(n *netdef.Network, family func(netip.Addr) bool) *netdef.IP {
	for i := range n.IPs {
		if ip := &n.IPs[i]; family(ip.Address) && ServesDHCP(ip) {
			return ip
		}
	}
	return nil
}

// DHCP is what n, which has a DHCPIP and is as it can be served, asks of pkg/dhcpd; the caller adds the
// store, the event function and the logger.
func DHCP(n *netdef.Network) v4.Config {
	ip := DHCPIP(n)
	c := v4.Config{Settings: dhcpSettings(n, ip), MTU: n.MTU}
	if Reaches(n) {
		c.Router = ip.Address
	}
	c.Boots = boots(ip.DHCP.Boots)
	if b := ip.DHCP.Bootp; b != nil {
		c.BootFile, c.BootServer = b.File, b.Server
	}
	for i := range n.Routes {
		if r := &n.Routes[i]; r.Gateway.Is4() {
			c.Routes = append(c.Routes, v4.Route{Dst: r.Prefix(), Gateway: r.Gateway})
		}
	}
	for i := range c.Reservations {
		c.Reservations[i].DUID = nil // libvirt knows clients of DHCPv4 by MAC and name
	}
	addDnsmasqDHCP(&c, &n.Dnsmasq.DHCP)
	return c
}

// DHCP6 is DHCP for DHCPv6.
func DHCP6(n *netdef.Network) v6.Config {
	ip := DHCP6IP(n)
	c := v6.Config{Settings: dhcpSettings(n, ip), Boots: boots6(ip.DHCP.Boots)}
	addDnsmasqDHCP6(&c, &n.Dnsmasq.DHCP)
	return c
}

// dhcpSettings are what both families ask alike for an <ip> of n.
func dhcpSettings(n *netdef.Network, ip *netdef.IP) dhcpd.Settings {
	return dhcpd.Settings{
		Network:      n.Name,
		Interface:    n.Bridge.Name,
		MAC:          n.MAC,
		Server:       ip.Address,
		Prefix:       ip.Prefix(),
		DNS:          resolvers(n, ip),
		Domain:       Domain(n),
		Ranges:       ranges(ip.DHCP),
		Reservations: reservations(ip.DHCP),
		Identity:     dhcpd.Identity(n.DHCPPolicy.Identity),
		PerPort:      MostAddresses(n, Guard(n, false)),
	}
}

// resolvers are the DNS servers that guests on ip are told of.
func resolvers(n *netdef.Network, ip *netdef.IP) []netip.Addr {
	if !ServesDNS(n) {
		return nil
	}
	return []netip.Addr{ip.Address}
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
		if duid, ok := dnsmasq.ParseDUID(h.ID); ok {
			r.DUID = duid // one that is no DUID is matched by what else the element says
		}
		rs = append(rs, r)
	}
	return rs
}

// leaseTime is l as dhcpd takes it; zero, its default, when l is nil.
func leaseTime(l *netdef.LeaseTime) time.Duration {
	d, infinite := l.Duration()
	if infinite {
		return dhcpd.Infinite
	}
	return d
}

// defaultMTU is that of a bridge of which the document says nothing.
const defaultMTU = 1500

// RA is what n, which has an IPv6 address and is as it can be served, asks of router advertisements;
// the caller adds the logger.
func RA(n *netdef.Network) ra.Config {
	c := ra.Config{
		Network:   n.Name,
		Interface: n.Bridge.Name,
		MAC:       n.MAC,
		Router:    Reaches(n),
		DNS:       ServesDNS(n),
		Domain:    Domain(n),
		MTU:       cmp.Or(n.MTU, defaultMTU),
	}
	for i := range n.IPs {
		if ip := &n.IPs[i]; ip.Address.Is6() {
			c.Prefixes = append(c.Prefixes, ra.Prefix{
				Prefix: ip.Prefix().Masked(), DHCP: ServesDHCP(ip), Managed: ip.Managed(), Autonomous: ip.Autonomous(),
			})
		}
	}
	for i := range n.Routes {
		if r := &n.Routes[i]; r.Gateway.Is6() {
			c.Routes = append(c.Routes, r.Prefix())
		}
	}
	return c
}

// TFTPIP is the IPv4 <ip> whose files are served, nil when there is none.
func TFTPIP(n *netdef.Network) *netdef.IP {
	for i := range n.IPs {
		if ip := &n.IPs[i]; ip.TFTPRoot != "" && ip.Address.Is4() {
			return ip
		}
	}
	return nil
}

// TFTP is what n, which has a TFTPIP, asks of TFTP; the caller adds the
// logger.
func TFTP(n *netdef.Network) tftp.Config {
	ip := TFTPIP(n)
	return tftp.Config{Network: n.Name, Interface: n.Bridge.Name, Addr: ip.Address, Root: ip.TFTPRoot}
}
