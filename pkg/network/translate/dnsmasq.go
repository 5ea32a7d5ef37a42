package translate

import (
	"cmp"
	"net"
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
	"github.com/vnetd/vnetd/pkg/dhcpd/v6"
	"github.com/vnetd/vnetd/pkg/dnsd"
	"github.com/vnetd/vnetd/pkg/dnsmasq"
)

// addDnsmasqDHCP adds what lines of dnsmasq say of DHCPv4 to c.
func addDnsmasqDHCP(c *v4.Config, d *dnsmasq.DHCP) {
	c.Boots = dnsmasqBoots(d, c.Boots)
	addDnsmasqSettings(&c.Settings, d, d.Rules, d.Options)
}

// addDnsmasqDHCP6 is addDnsmasqDHCP for DHCPv6.
func addDnsmasqDHCP6(c *v6.Config, d *dnsmasq.DHCP) {
	addDnsmasqSettings(&c.Settings, d, d.Rules6, d.Options6)
}

// addDnsmasqSettings adds hosts, and the rules and options of one family.
func addDnsmasqSettings(s *dhcpd.Settings, d *dnsmasq.DHCP, rules []dnsmasq.Rule, opts []dnsmasq.Option) {
	s.Tags = append(s.Tags, dnsmasqRules(rules)...)
	s.Options = append(s.Options, dnsmasqOptions(opts, s.Server)...)
	s.Reservations = withDnsmasqHosts(s, d)
}

// dnsmasqRules are the rules of lines of dnsmasq.
func dnsmasqRules(all []dnsmasq.Rule) (rules []dhcpd.TagRule) {
	for _, r := range all {
		rules = append(rules, dhcpd.TagRule(r))
	}
	return rules
}

// dnsmasqOptions are the options of lines of dnsmasq on the link where server is our
// address.
func dnsmasqOptions(all []dnsmasq.Option, server netip.Addr) (opts []dhcpd.Option) {
	for _, o := range all {
		opts = append(opts, dhcpd.Option{
			Code: o.Code, Value: o.At(server), Force: o.Force, Tags: o.Tags, Encap: o.Encap, Enterprise: o.Enterprise, Vendor: o.Vendor,
		})
	}
	return opts
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

// withDnsmasqHosts are the reservations of s and the hosts of lines of dnsmasq: before them
// those that have an address, or none that anybody could have, and behind them those
// that have whatever is free. A later line comes before an earlier one.
func withDnsmasqHosts(s *dhcpd.Settings, d *dnsmasq.DHCP) []dhcpd.Reservation {
	var first, last []dhcpd.Reservation
	for _, h := range slices.Backward(d.Hosts) {
		r := dhcpd.Reservation{
			DUID: h.ID, Name: h.Name, LeaseTime: h.LeaseTime, Tags: h.Tags, Set: h.Set, Ignore: h.Ignore, NoID: h.NoID,
		}
		for i, m := range h.MACs {
			if i == 0 {
				r.MAC, r.Mask = m.Addr, m.Mask
			} else {
				r.Cards = append(r.Cards, dhcpd.Card{MAC: m.Addr, Mask: m.Mask})
			}
		}
		there := len(first)
		for _, a := range h.Addrs {
			if a.Is4() == s.Server.Is4() {
				r.Addr = inPrefix(a, s.Prefix)
				first = append(first, r)
			}
		}
		switch {
		case len(first) > there:
		case h.Ignore:
			first = append(first, r)
		default:
			last = append(last, r)
		}
	}
	return slices.Concat(first, s.Reservations, last)
}

// inPrefix returns a, or, if that is only the end of an IPv6 address, the one of prefix
// with that end.
func inPrefix(a netip.Addr, prefix netip.Prefix) netip.Addr {
	b := a.As16()
	if !a.Is6() || prefix.Bits() > 64 || [8]byte(b[:8]) != ([8]byte{}) {
		return a
	}
	net := prefix.Masked().Addr().As16()
	copy(b[:8], net[:8])
	return netip.AddrFrom16(b)
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
		c.Forwarders = append(c.Forwarders, dnsd.Forwarder{Domain: s.Domain, Addr: s.Addr, Port: s.Port})
	}
	c.LocalDomains = slices.Concat(c.LocalDomains, d.LocalDomains)
	c.HostTTL = cmp.Or(d.HostTTL, c.HostTTL)
	c.StopRebind = c.StopRebind || d.StopRebind
	c.RebindLocalhost = c.RebindLocalhost || d.RebindLocalhost
	c.RebindDomains = slices.Concat(c.RebindDomains, d.RebindDomains)
}
