package translate

import (
	"cmp"
	"net"
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
	"github.com/vnetd/vnetd/pkg/dnsd"
	"github.com/vnetd/vnetd/pkg/dnsmasq"
)

// addDnsmasqDHCP adds what lines of dnsmasq say of DHCPv4 to c. Their hosts come
// before those of c, as the later line wins in dnsmasq's configuration.
func addDnsmasqDHCP(c *v4.Config, d *dnsmasq.DHCP) {
	c.Boots = dnsmasqBoots(d, c.Boots)
	for _, r := range d.Rules {
		c.Tags = append(c.Tags, v4.TagRule(r))
	}
	for _, o := range d.Options {
		c.Options = append(c.Options, v4.Option{
			Code: o.Code, Value: o.At(c.Server), Force: o.Force, Tags: o.Tags, Encap: o.Encap, Enterprise: o.Enterprise, Vendor: o.Vendor,
		})
	}
	c.Reservations = append(dnsmasqHosts(d, netip.Addr.Is4), c.Reservations...)
}

// dnsmasqBoots are those of lines of dnsmasq and others: first the lines with tags, then
// the others, then lines without tags, of which there may be none; a later line before
// an earlier one.
func dnsmasqBoots(d *dnsmasq.DHCP, others []v4.Boot) []v4.Boot {
	var tagged, plain []v4.Boot
	for _, b := range slices.Backward(d.Boots) {
		boot := v4.Boot{Any: true, Tags: b.Tags, File: b.File, Name: b.Name, Server: b.Server}
		if len(b.Tags) > 0 {
			tagged = append(tagged, boot)
		} else {
			plain = append(plain, boot)
		}
	}
	return slices.Concat(tagged, others, plain)
}

// dnsmasqHosts are the hosts of one family of lines of dnsmasq.
func dnsmasqHosts(d *dnsmasq.DHCP, family func(netip.Addr) bool) []dhcpd.Reservation {
	var rs []dhcpd.Reservation
	for _, h := range d.Hosts {
		if family(h.Addr) {
			rs = append(rs, dhcpd.Reservation{MAC: h.MAC, DUID: h.ID, Name: h.Name, Addr: h.Addr, LeaseTime: h.LeaseTime})
		}
	}
	return rs
}

// FormatLeases is a lease file of dnsmasq with the leases that are bound of a bridge
// with that hardware address.
func FormatLeases(held []dhcpd.Lease, mac net.HardwareAddr) string {
	var leases []dnsmasq.Lease
	for _, l := range held {
		if l.State == dhcpd.StateBound {
			leases = append(leases, dnsmasq.Lease{
				Addr: l.Addr, MAC: l.MAC, ClientID: l.ClientID, DUID: l.DUID, IAID: l.IAID, Hostname: l.Hostname, Expiry: l.Expiry,
			})
		}
	}
	return dnsmasq.FormatLeases(leases, dhcpd.ServerDUID(mac))
}

// ParseLeases reads a lease file of dnsmasq, or the one that libvirt keeps.
func ParseLeases(text string) ([]dhcpd.Lease, error) {
	read, err := dnsmasq.ParseLeases(text)
	leases := make([]dhcpd.Lease, 0, len(read))
	for _, l := range read {
		leases = append(leases, dhcpd.Lease{
			Addr: l.Addr, MAC: l.MAC, ClientID: l.ClientID, DUID: l.DUID, IAID: l.IAID, Hostname: l.Hostname, Expiry: l.Expiry,
			State: dhcpd.StateBound,
		})
	}
	return leases, err
}

// addDnsmasqDNS adds what lines of dnsmasq say of names to c.
func addDnsmasqDNS(c *dnsd.Config, d *dnsmasq.DNS) {
	for _, h := range d.Hosts {
		c.Static = append(c.Static, dnsd.Host{Name: h.Name, Addr: h.Addr, TTL: h.TTL})
	}
	for _, t := range d.TXT {
		c.TXT = append(c.TXT, dnsd.TXT(t))
	}
	for _, s := range d.SRV {
		c.SRV = append(c.SRV, dnsd.SRV(s))
	}
	for _, n := range d.CNAMEs {
		c.CNAMEs = append(c.CNAMEs, dnsd.CNAME(n))
	}
	for _, a := range d.Addresses {
		c.Addresses = append(c.Addresses, dnsd.Address(a))
	}
	for _, s := range d.Servers {
		c.Forwarders = append(c.Forwarders, dnsd.Forwarder(s))
	}
	c.LocalDomains = slices.Concat(c.LocalDomains, d.LocalDomains)
	c.HostTTL = cmp.Or(d.HostTTL, c.HostTTL)
	c.StopRebind = c.StopRebind || d.StopRebind
	c.RebindLocalhost = c.RebindLocalhost || d.RebindLocalhost
	c.RebindDomains = slices.Concat(c.RebindDomains, d.RebindDomains)
}
