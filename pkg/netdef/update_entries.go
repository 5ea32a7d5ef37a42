package netdef

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/netdef/schema"
	"github.com/vnetd/vnetd/pkg/netdef/xmldoc"
)

// subnet returns the <ip> whose DHCP is updated: virNetworkIPDefByIndex.
func (up *updater) subnet() (*IP, error) {
	ips := up.n.IPs
	if up.Index >= 0 {
		if up.Index >= len(ips) {
			return nil, up.fail(ErrNoEntry, "network '%s' has no <ip> with index %d: it has %d, counted from 0",
				up.n.Name, up.Index, len(ips))
		}
		return &ips[up.Index], nil
	}
	for _, wanted := range []func(IP) bool{
		func(ip IP) bool { return ip.DHCP != nil },
		func(ip IP) bool { return ip.Address.Is4() },
		func(IP) bool { return true },
	} {
		if i := slices.IndexFunc(ips, wanted); i >= 0 {
			return &ips[i], nil
		}
	}
	return nil, up.fail(ErrNoEntry, "network '%s' has no <ip> to have DHCP on", up.n.Name)
}

// updateDHCP lets edit change the DHCP of the <ip> that is meant. One that is
// left without a range and a host is no more.
func (up *updater) updateDHCP(edit func(*DHCP) error) error {
	ip, err := up.subnet()
	if err != nil {
		return err
	}
	if ip.DHCP == nil {
		ip.DHCP = &DHCP{}
	}
	if err := edit(ip.DHCP); err != nil {
		return err
	}
	if len(ip.DHCP.Ranges) == 0 && len(ip.DHCP.Hosts) == 0 {
		ip.DHCP = nil
	}
	return nil
}

// dhcpHost updates the <host>s of DHCP: virNetworkDefUpdateIPDHCPHost. One is
// in the way of another by MAC, name or address, and found by any of them to
// be replaced. To be deleted it has all that is given.
func (up *updater) dhcpHost(e xmldoc.Element) error {
	h := decodeDHCPHost(e)
	if anonymous := h.MAC == nil && h.Name == "" && !h.IP.IsValid(); anonymous && len(up.faults) == 0 {
		up.faults.Add("host", "", "want a mac, name or ip to know the entry by")
	}
	if err := up.readable(); err != nil {
		return err
	}
	return up.updateDHCP(func(d *DHCP) (err error) {
		r := rule[DHCPHost]{conflict: h.collides, modify: h.collides, remove: h.covers}
		d.Hosts, err = change(up, d.Hosts, h, r, printDHCPHost)
		return err
	})
}

// collides reports whether h and o claim the same MAC, name or address.
func (h *DHCPHost) collides(o *DHCPHost) bool {
	return h.MAC != nil && bytes.Equal(h.MAC, o.MAC) || h.Name != "" && h.Name == o.Name || sameAddr(h.IP, o.IP)
}

// covers reports whether o has all that h has. libvirt takes any MAC for that
// of an entry without one, and so may delete another host than was meant.
func (h *DHCPHost) covers(o *DHCPHost) bool {
	return (h.MAC == nil || bytes.Equal(h.MAC, o.MAC)) && (h.Name == "" || h.Name == o.Name) &&
		(!h.IP.IsValid() || h.IP == o.IP)
}

// sameAddr reports whether a is an address and b the same.
func sameAddr(a, b netip.Addr) bool { return a.IsValid() && a == b }

// dhcpRange updates the <range>s of DHCP: virNetworkDefUpdateIPDHCPRange. Both
// ends identify one.
func (up *updater) dhcpRange(e xmldoc.Element) error {
	r := decodeDHCPRange(e)
	if len(up.faults) == 0 {
		c := checker{}
		c.present("range", r.Start, r.End)
		up.faults = c.Faults
	}
	if err := up.readable(); err != nil {
		return err
	}
	same := func(o *DHCPRange) bool { return o.Start == r.Start && o.End == r.End }
	return up.updateDHCP(func(d *DHCP) (err error) {
		d.Ranges, err = change(up, d.Ranges, r, rule[DHCPRange]{conflict: same, remove: same}, printDHCPRange)
		return err
	})
}

// updateDNS lets edit change <dns>. One that is left without anything to say
// is no more.
func (up *updater) updateDNS(edit func(*DNS) error) error {
	if up.n.DNS == nil {
		up.n.DNS = &DNS{}
	}
	d := up.n.DNS
	if err := edit(d); err != nil {
		return err
	}
	if d.silent() {
		up.n.DNS = nil
	}
	return nil
}

// dnsHost updates the <host>s of <dns>: virNetworkDefUpdateDNSHost. The address
// identifies one; to be deleted, any of its names does too.
func (up *updater) dnsHost(e xmldoc.Element) error {
	h := decodeDNSHost(e)
	if !h.IP.IsValid() && len(up.faults) == 0 && (up.Command != CommandDelete || len(h.Hostnames) == 0) {
		up.faults.Add("host/@ip", "", "missing, want an IP address")
	}
	if err := up.readable(); err != nil {
		return err
	}
	same := func(o *DNSHost) bool { return sameAddr(h.IP, o.IP) }
	named := func(o *DNSHost) bool {
		return same(o) || slices.ContainsFunc(h.Hostnames, func(name string) bool { return slices.Contains(o.Hostnames, name) })
	}
	return up.updateDNS(func(d *DNS) (err error) {
		r := rule[DNSHost]{conflict: same, modify: same, remove: named, unique: true}
		d.Hosts, err = change(up, d.Hosts, h, r, printDNSHost)
		return err
	})
}

// dnsTXT updates the <txt>s: virNetworkDefUpdateDNSTxt. The name identifies one.
func (up *updater) dnsTXT(e xmldoc.Element) error {
	t := TXT{Name: e.Str("name")}
	if up.Command != CommandDelete {
		t = decodeTXT(e)
	}
	if t.Name == "" {
		up.faults.Add("txt/@name", "", "missing, want the name of the record")
	}
	if err := up.readable(); err != nil {
		return err
	}
	same := func(o *TXT) bool { return o.Name == t.Name }
	return up.updateDNS(func(d *DNS) (err error) {
		d.TXT, err = change(up, d.TXT, t, rule[TXT]{conflict: same, modify: same, remove: same}, printTXT)
		return err
	})
}

// dnsSRV updates the <srv>s: virNetworkDefUpdateDNSSrv. One matches that has
// every name that is given; port, priority and weight don't count. Where libvirt
// is new enough the only one that matches can be replaced, as here.
func (up *updater) dnsSRV(e xmldoc.Element) error {
	s := decodeSRV(e)
	if err := up.readable(); err != nil {
		return err
	}
	matches := func(o *SRV) bool {
		return (s.Service == "" || s.Service == o.Service) && (s.Protocol == "" || s.Protocol == o.Protocol) &&
			(s.Domain == "" || s.Domain == o.Domain) && (s.Target == "" || s.Target == o.Target)
	}
	return up.updateDNS(func(d *DNS) (err error) {
		d.SRV, err = change(up, d.SRV, s, rule[SRV]{conflict: matches, modify: matches, remove: matches, unique: true}, printSRV)
		return err
	})
}

// record updates the <vnetd:record>s. One has a name, which matches with the domain and
// without, a type and a value; it is the type's only one of the name where it is replaced.
func (up *updater) record(e xmldoc.Element) error {
	e.Space = schema.NamespaceVnetd // as it is in the document
	r := decodeRecord(e)
	faultUnknown(e)
	if r.Name == "" {
		up.faults.Add("record/@name", "", "missing, want the name of the record")
	}
	if r.Type == "" && up.Command != CommandDelete {
		up.faults.Add("record/@type", "", "missing, want the type of the record")
	}
	if err := up.readable(); err != nil {
		return err
	}
	typed := func(o *Record) bool {
		return strings.EqualFold(up.n.RecordName(o.Name), up.n.RecordName(r.Name)) && (r.Type == "" || r.Type == o.Type)
	}
	same := func(o *Record) bool { return typed(o) && (r.Value == "" || r.Value == o.Value) }
	list, err := change(up, up.n.Records, r, rule[Record]{conflict: same, modify: typed, remove: same, unique: true}, printRecord)
	if err != nil {
		return err
	}
	up.n.Records = list
	return nil
}

// forwardInterface updates the <interface>s of <forward>:
// virNetworkDefUpdateForwardInterface. The first of them is the network's dev.
func (up *updater) forwardInterface(e xmldoc.Element) error {
	dev := e.Str("dev")
	if dev == "" {
		return Faults{{Path: "interface/@dev", Problem: "missing, want the name of an interface"}}
	}
	f := up.n.Forward
	if f == nil {
		return up.fail(ErrNoEntry, "network '%s' is isolated: it has no <forward> to have an interface", up.n.Name)
	}
	same := func(o *string) bool { return *o == dev }
	list, err := change(up, f.Interfaces, dev, rule[string]{conflict: same, remove: same}, printForwardInterface)
	if err != nil {
		return err
	}
	f.Interfaces, f.Dev = list, ""
	if len(list) > 0 {
		f.Dev = list[0]
	}
	return nil
}

// portGroup updates the <portgroup>s: virNetworkDefUpdatePortGroup. The name
// identifies one.
func (up *updater) portGroup(e xmldoc.Element) error {
	g := decodePortGroup(e)
	if g.Name == "" {
		up.faults.Add("portgroup/@name", "", "missing, want a name")
	}
	if err := up.readable(); err != nil {
		return err
	}
	same := func(o *PortGroup) bool { return o.Name == g.Name }
	list, err := change(up, up.n.PortGroups, g, rule[PortGroup]{conflict: same, modify: same, remove: same}, printPortGroup)
	if err != nil {
		return err
	}
	up.n.PortGroups = list
	return nil
}
