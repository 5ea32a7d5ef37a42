package document

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vnetd/vnetd/pkg/netdef"
)

// Key is something of a network that can be set by a word.
type Key struct {
	Name string
	Help string // what it means, and its values
	set  func(d *Document, value string) error
}

// Keys lists what can be set, in the order in which one relies on the other.
func Keys() []Key {
	return []Key{
		{"mode", strings.Join(Modes(), ", "), (*Document).setMode},
		{"subnet", "auto, none, or a subnet of IPv4 as 192.168.50.0/24", subnetSetter(netdef.IPv4)},
		{"ipv6", "auto, none, or a subnet of IPv6 as fd00:50::/64", subnetSetter(netdef.IPv6)},
		{"dhcp", "what guests are given, as 192.168.50.10-192.168.50.99, or off", (*Document).setDHCP},
		{"domain", "the DNS domain of guests", (*Document).setDomain},
		{"dns", "servers that names are asked of, with commas", (*Document).setDNS},
		{"mtu", "bytes of the largest packet, as 1400", (*Document).setMTU},
		{"isolated", "yes: ports do not reach each other; no", func(d *Document, value string) error { return setYesNo(&d.n.Isolated, value) }},
		{"guard", "off, gateway or strict: what ports are kept from sending", (*Document).setGuard},
		{"inbound-ipv6", "yes or no: connections of IPv6 may begin outside", func(d *Document, value string) error { return setYesNo(&d.n.Inbound6, value) }},
	}
}

// Set changes what KEY=VALUE words say. An empty value is the default. The errors name
// the word and what is wanted in its place; d is partly changed then.
func (d *Document) Set(words []string) error {
	values := make(map[string]string)
	for _, w := range words {
		key, value, ok := strings.Cut(w, "=")
		if _, twice := values[key]; twice {
			return fmt.Errorf("%s is said twice", key)
		}
		if !ok || !slices.ContainsFunc(Keys(), func(k Key) bool { return k.Name == key }) {
			return fmt.Errorf("%q: want KEY=VALUE, and as the key one of %s", w, strings.Join(names(), ", "))
		}
		values[key] = value
	}
	for _, k := range Keys() {
		if value, said := values[k.Name]; said {
			if err := k.set(d, value); err != nil {
				return fmt.Errorf("%s: %w", k.Name, err)
			}
		}
	}
	return nil
}

// names lists the keys.
func names() []string {
	var all []string
	for _, k := range Keys() {
		all = append(all, k.Name)
	}
	return all
}

func (d *Document) setMode(value string) error {
	mode := netdef.Mode(value)
	switch {
	case !slices.Contains(Modes(), value):
		return oneOf(value, Modes()...)
	case value == "isolated":
		d.n.Forward = nil
		return nil
	case d.n.Forward == nil:
		d.n.Forward = &netdef.Forward{}
	}
	d.n.Forward.Mode = mode
	if mode != netdef.ModeNAT {
		d.n.Forward.NAT = nil
	}
	if !mode.OwnsBridge() {
		d.n.Bridge.STP, d.n.Bridge.Delay = false, 0
	}
	return nil
}

// subnetSetter sets the subnet of a family.
func subnetSetter(family netdef.Families) func(d *Document, value string) error {
	return func(d *Document, value string) error {
		if value == "auto" {
			if !slices.ContainsFunc(d.n.IPs, of(family)) {
				d.choose(family, true)
				d.translate6(family, true)
			}
			return nil
		}
		var ip *netdef.IP
		if value != "none" && value != "" {
			p, err := parseSubnet(family, value)
			if err != nil {
				return err
			}
			made := netdef.SubnetIP(p)
			ip = &made
		}
		if err := d.replace(family, ip); err != nil {
			return err
		}
		d.choose(family, false)
		d.translate6(family, ip != nil && ip.Address.IsPrivate())
		return nil
	}
}

// replace makes ip the only one of its family, none for nil. One with the same subnet
// stays as it is. What people have written for an <ip> is not thrown away.
func (d *Document) replace(family netdef.Families, ip *netdef.IP) error {
	at := slices.IndexFunc(d.n.IPs, of(family))
	if at < 0 {
		if ip != nil {
			d.n.IPs = append(d.n.IPs, *ip)
		}
		return nil
	}
	had := &d.n.IPs[at]
	switch reserved, boots := kept(had); {
	case slices.ContainsFunc(d.n.IPs[at+1:], of(family)):
		return errors.New("the network has several subnets of this family: change them with vnetctl edit")
	case ip != nil && had.Prefix().Masked() == ip.Prefix().Masked():
		return nil
	case reserved+boots > 0:
		return fmt.Errorf("%s has reserved addresses or boot files, which go with it: change it with vnetctl edit", had.Prefix().Masked())
	}
	d.n.IPs = slices.Delete(d.n.IPs, at, at+1)
	if ip != nil {
		d.n.IPs = slices.Insert(d.n.IPs, at, *ip)
	}
	return nil
}

// translate6 has a network of mode nat that has got a subnet of IPv6 keep what IPv4 of
// it is: guests reach the outside, and nobody outside them. Local addresses need
// translation for that.
func (d *Document) translate6(family netdef.Families, local bool) {
	f := d.n.Forward
	if family != netdef.IPv6 || d.n.Mode() != netdef.ModeNAT {
		return
	}
	if f.NAT == nil {
		f.NAT = &netdef.NAT{}
	}
	has := slices.ContainsFunc(d.n.IPs, of(netdef.IPv6))
	f.NAT.IPv6 = netdef.Unset
	switch {
	case local:
		f.NAT.IPv6 = netdef.Yes
	case has && d.n.Inbound6 == netdef.Unset:
		d.n.Inbound6 = netdef.No
	}
}

// parseSubnet reads a subnet, by its own address or by that of the host in it.
func parseSubnet(family netdef.Families, value string) (netip.Prefix, error) {
	example, most := "192.168.50.0/24", 30
	if family == netdef.IPv6 {
		example, most = "fd00:50::/64", 112
	}
	p, err := netip.ParsePrefix(value)
	switch {
	case err != nil || p.Addr().Is4() != (family == netdef.IPv4):
		return p, fmt.Errorf("%q is no subnet of %s: want auto, none, or one as %s", value, family, example)
	case p.Bits() == 0 || p.Bits() > most:
		return p, fmt.Errorf("%s has no room for guests: want a prefix of 1 to %d bits, as %s", value, most, example)
	case !unicast(p.Masked()):
		return p, fmt.Errorf("%s has no addresses that guests can use everywhere: want a subnet as %s", value, example)
	case p.Addr() != p.Masked().Addr() && p.Addr() != p.Masked().Addr().Next():
		return p, fmt.Errorf("%s is an address in %v, where the host has the first one: want the subnet", value, p.Masked())
	}
	return p.Masked(), nil
}

// unicast reports whether a subnet's addresses are of use beyond a link and a host: not so are those
// of RFC 6890 for "this network", loopback, the link and what is reserved, and groups.
func unicast(subnet netip.Prefix) bool {
	first, reserved := subnet.Addr(), netip.MustParsePrefix("240.0.0.0/4")
	thisNetwork := netip.MustParsePrefix("0.0.0.0/8")
	return first.Next().IsGlobalUnicast() && !thisNetwork.Overlaps(subnet) && !reserved.Overlaps(subnet)
}

// setDHCP sets the range of the <ip> that it is in.
func (d *Document) setDHCP(value string) error {
	if value == "off" || value == "" {
		for i := range d.n.IPs {
			if reserved, _ := kept(&d.n.IPs[i]); reserved > 0 {
				return fmt.Errorf("%v has reserved addresses: change it with vnetctl edit", d.n.IPs[i].Prefix().Masked())
			}
			d.n.IPs[i].DHCP = nil
		}
		return nil
	}
	first, last, ok := strings.Cut(value, "-")
	start, err := netip.ParseAddr(first)
	end, errEnd := netip.ParseAddr(last)
	if !ok || err != nil || errEnd != nil {
		return fmt.Errorf("%q is no range: want off, or one as 192.168.50.10-192.168.50.99", value)
	}
	for i := range d.n.IPs {
		ip := &d.n.IPs[i]
		if !ip.Prefix().Contains(start) {
			continue
		}
		if ip.DHCP == nil {
			ip.DHCP = &netdef.DHCP{}
		}
		ip.DHCP.Ranges = []netdef.DHCPRange{{Start: start, End: end}}
		return nil
	}
	return fmt.Errorf("%s is in no subnet of the network, which has %s", first, strings.Join(d.Subnets(), ", "))
}

func (d *Document) setDomain(value string) error {
	switch {
	case value == "":
		d.n.Domain = nil
	case d.n.Domain == nil:
		d.n.Domain = &netdef.Domain{Name: value}
	default:
		d.n.Domain.Name = value
	}
	return nil
}

// setDNS sets the servers for all names; those for one domain stay.
func (d *Document) setDNS(value string) error {
	if d.n.DNS == nil {
		d.n.DNS = &netdef.DNS{}
	}
	dns := d.n.DNS
	dns.Forwarders = slices.DeleteFunc(dns.Forwarders, func(f netdef.Forwarder) bool { return f.Domain == "" })
	if value == "" {
		if len(dns.Forwarders)+len(dns.TXT)+len(dns.SRV)+len(dns.Hosts) == 0 && dns.Enable == netdef.Unset && dns.ForwardPlainNames == netdef.Unset {
			d.n.DNS = nil // as before there was one
		}
		return nil
	}
	for text := range strings.SplitSeq(value, ",") {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("%q is no address: want some as 192.0.2.53,2001:db8::53", text)
		}
		dns.Forwarders = append(dns.Forwarders, netdef.Forwarder{Addr: a})
	}
	return nil
}

func (d *Document) setMTU(value string) error {
	if value == "" {
		d.n.MTU = 0
		return nil
	}
	n, err := strconv.ParseUint(value, 10, 16)
	if err != nil {
		return fmt.Errorf("%q: want a number of bytes, up to 65535", value)
	}
	d.n.MTU = int(n)
	return nil
}

func (d *Document) setGuard(value string) error {
	levels := []string{"off", "gateway", "strict"}
	switch {
	case value == "":
		d.n.Guard = netdef.Guard{}
	case !slices.Contains(levels, value):
		return oneOf(value, levels...)
	default:
		d.n.Guard.Level = value
	}
	return nil
}

// setYesNo sets what is yes, no or not said.
func setYesNo(t *netdef.Tristate, value string) error {
	if value != "" && value != "yes" && value != "no" {
		return oneOf(value, "yes", "no")
	}
	*t = netdef.Tristate(value)
	return nil
}
