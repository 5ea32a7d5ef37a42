package netdef

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"github.com/vnetd/vnetd/pkg/netdef/schema"
	"github.com/vnetd/vnetd/pkg/netdef/xmldoc"
)

// XML prints n as virsh net-dumpxml --inactive does: libvirt's order of
// elements and attributes, single quotes, two spaces of indentation, a newline
// at the end. Parse reads it back to an equal network, Ignored excepted.
func (n *Network) XML() []byte { return n.print(Connections{}) }

// Connections are how many ports an active network has, and what its pool has.
type Connections struct {
	Ports int            // in all
	Devs  map[string]int // by the interface of the host that they are on
	// Interfaces or Addresses are what makes the pool of a network with a <pf>.
	Interfaces []string
	Addresses  []PCIAddress
}

// LiveXML prints n as virsh net-dumpxml does for an active network with those
// connections: with each count unless it is 0, with the functions of a <pf>, and with
// the ports of NAT as they are in effect.
func (n *Network) LiveXML(c Connections) []byte {
	switch {
	case n.Mode() == ModeNAT && masquerades(n):
		n = n.Clone()
		n.livePorts()
	case n.Forward != nil && n.Forward.PF != "":
		n = n.Clone()
		n.Forward.Interfaces, n.Forward.Addresses = c.Interfaces, c.Addresses
	}
	return n.print(c)
}

// masquerades reports whether anything of a NAT network is translated: networkAddFirewallRules of
// libvirt. IPv6 is where that is asked for.
func masquerades(n *Network) bool {
	nat6 := n.Forward.NAT != nil && n.Forward.NAT.IPv6 == Yes
	return slices.ContainsFunc(n.IPs, func(ip IP) bool { return nat6 || ip.Address.Is4() })
}

// livePorts makes the default port range of a NAT network explicit.
func (n *Network) livePorts() {
	if n.Forward.NAT == nil {
		n.Forward.NAT = &NAT{}
	}
	if n.Forward.NAT.Port == nil {
		n.Forward.NAT.Port = &PortRange{Start: 1024, End: 65535}
	}
}

// print renders n with its counts of connections, unless they are 0.
func (n *Network) print(c Connections) []byte {
	p := &xmldoc.Printer{}
	var options, vnetd xmldoc.Attr
	if len(n.Dnsmasq.Lines) > 0 {
		options = xmldoc.Always("xmlns:dnsmasq", schema.NamespaceDnsmasq)
	}
	if n.extended() {
		vnetd = xmldoc.Always("xmlns:vnetd", schema.NamespaceVnetd)
	}
	p.Pair("network", func() { printDefinition(p, n, c) },
		options, vnetd,
		xmldoc.Num("connections", c.Ports),
		xmldoc.Flag("ipv6", n.IPv6),
		xmldoc.Opt("trustGuestRxFilters", n.TrustGuestRxFilters))
	return p.Buf.Bytes()
}

// printDefinition prints what is inside <network>, in virNetworkDefFormatBuf's order.
func printDefinition(p *xmldoc.Printer, n *Network, c Connections) {
	p.Text("name", n.Name)
	p.Text("uuid", n.UUID)
	p.Text("title", n.Title)
	p.Text("description", n.Description)
	if len(n.Metadata) > 0 {
		p.Pair("metadata", func() { printFragments(p, n.Metadata) })
	}
	printForward(p, n, c)
	printBridge(p, n)
	if n.MTU != 0 {
		p.Leaf("mtu", xmldoc.Num("size", n.MTU))
	}
	if n.MAC != nil {
		p.Leaf("mac", xmldoc.Opt("address", n.MAC.String()))
	}
	if d := n.Domain; d != nil {
		p.Leaf("domain", xmldoc.Opt("name", d.Name), xmldoc.Opt("localOnly", d.LocalOnly), xmldoc.Opt("register", d.Register))
	}
	printDNS(p, n.DNS)
	printVLAN(p, n.VLAN)
	printBandwidth(p, n.Bandwidth)
	if n.Isolated != Unset {
		p.Leaf("port", xmldoc.Opt("isolated", n.Isolated))
	}
	for i := range n.IPs {
		printIP(p, &n.IPs[i])
	}
	for i := range n.Routes {
		printRoute(p, &n.Routes[i])
	}
	printVirtualPort(p, n.VirtualPort)
	for i := range n.PortGroups {
		printPortGroup(p, &n.PortGroups[i])
	}
	if len(n.Dnsmasq.Lines) > 0 {
		p.Pair("dnsmasq:options", func() { printDnsmasqOptions(p, n.Dnsmasq.Lines) })
	}
	printExtensions(p, n)
}

// printForward prints <forward>, nothing for an isolated network.
func printForward(p *xmldoc.Printer, n *Network, c Connections) {
	f := n.Forward
	if f == nil {
		return
	}
	interfaces := f.Interfaces
	if len(interfaces) == 0 && f.Dev != "" {
		interfaces = []string{f.Dev}
	}
	dev := ""
	if len(interfaces) > 0 && f.PF == "" {
		dev = interfaces[0]
	}
	managed := xmldoc.Attr{}
	if n.Mode() == ModeHostdev {
		managed = xmldoc.Always("managed", yesNo(f.Managed))
	}
	p.Elem("forward", func() {
		printHostdevDriver(p, f.Driver)
		printNAT(p, f.NAT)
		if f.PF != "" {
			p.Leaf("pf", xmldoc.Opt("dev", f.PF))
		}
		for _, dev := range interfaces {
			p.Leaf("interface", xmldoc.Always("dev", dev), xmldoc.Num("connections", c.Devs[dev]))
		}
		for _, a := range f.Addresses {
			printPCIAddress(p, a, xmldoc.Always("type", "pci"))
		}
	}, xmldoc.Opt("dev", dev), xmldoc.Opt("mode", n.Mode()), managed)
}

// printForwardInterface prints <interface>.
func printForwardInterface(p *xmldoc.Printer, dev *string) {
	p.Leaf("interface", xmldoc.Always("dev", *dev))
}

// printNAT prints <nat>, nothing if it says nothing.
func printNAT(p *xmldoc.Printer, n *NAT) {
	if n == nil || *n == (NAT{}) {
		return
	}
	p.Elem("nat", func() {
		if a := n.Address; a != nil {
			p.Leaf("address", xmldoc.Addr("start", a.Start), xmldoc.Addr("end", a.End))
		}
		if r := n.Port; r != nil {
			p.Leaf("port", xmldoc.Always("start", strconv.Itoa(int(r.Start))), xmldoc.Always("end", strconv.Itoa(int(r.End))))
		}
	}, xmldoc.Opt("ipv6", n.IPv6))
}

// printBridge prints <bridge>. STP and delay are the host's own affair where the
// network doesn't make the bridge. With an uplink they are only printed if they
// say something: libvirt's clients refuse them in mode bridge.
func printBridge(p *xmldoc.Printer, n *Network) {
	b := n.Bridge
	if n.Mode().OwnsBridge() {
		stp := "off"
		if b.STP {
			stp = "on"
		}
		p.Leaf("bridge", xmldoc.Opt("name", b.Name), xmldoc.Opt("zone", b.Zone), xmldoc.Always("stp", stp),
			xmldoc.Always("delay", strconv.Itoa(b.Delay)), xmldoc.Opt("macTableManager", b.MACTableManager))
		return
	}
	var stp, delay xmldoc.Attr
	if n.OwnsBridge() {
		delay = xmldoc.Num("delay", b.Delay)
		if b.STP {
			stp = xmldoc.Always("stp", "on")
		}
	}
	if b.Name != "" || b.MACTableManager != "" {
		p.Leaf("bridge", xmldoc.Opt("name", b.Name), xmldoc.Opt("zone", b.Zone), stp, delay, xmldoc.Opt("macTableManager", b.MACTableManager))
	}
}

// printDNS prints <dns>, nothing for nil.
func printDNS(p *xmldoc.Printer, d *DNS) {
	if d == nil {
		return
	}
	p.Elem("dns", func() {
		for _, f := range d.Forwarders {
			p.Leaf("forwarder", xmldoc.Opt("domain", f.Domain), xmldoc.Addr("addr", f.Addr), xmldoc.Num("port", f.Port))
		}
		for i := range d.TXT {
			printTXT(p, &d.TXT[i])
		}
		for i := range d.SRV {
			printSRV(p, &d.SRV[i])
		}
		for i := range d.Hosts {
			printDNSHost(p, &d.Hosts[i])
		}
	}, xmldoc.Opt("enable", d.Enable), xmldoc.Opt("forwardPlainNames", d.ForwardPlainNames))
}

// printTXT prints <txt>.
func printTXT(p *xmldoc.Printer, t *TXT) {
	p.Leaf("txt", xmldoc.Always("name", t.Name), xmldoc.Always("value", t.Value))
}

// printSRV prints <srv>.
func printSRV(p *xmldoc.Printer, s *SRV) {
	p.Leaf("srv", xmldoc.Opt("service", s.Service), xmldoc.Opt("protocol", s.Protocol), xmldoc.Opt("domain", s.Domain),
		xmldoc.Opt("target", s.Target), xmldoc.Num("port", s.Port), xmldoc.Num("priority", s.Priority), xmldoc.Num("weight", s.Weight))
}

// printDNSHost prints <host> of <dns>.
func printDNSHost(p *xmldoc.Printer, h *DNSHost) {
	p.Pair("host", func() {
		for _, name := range h.Hostnames {
			p.Text("hostname", name)
		}
	}, xmldoc.Addr("ip", h.IP))
}

// printIP prints <ip>, as a pair of tags even if it is empty.
func printIP(p *xmldoc.Printer, ip *IP) {
	p.Pair("ip", func() {
		if ip.TFTPRoot != "" {
			p.Leaf("tftp", xmldoc.Opt("root", ip.TFTPRoot))
		}
		if ip.DHCP != nil {
			p.Elem("dhcp", func() { printDHCP(p, ip.DHCP) })
		}
		printRAPolicy(p, ip.RA)
	}, xmldoc.Opt("family", ip.Family), xmldoc.Addr("address", ip.Address), xmldoc.Addr("netmask", ip.Netmask),
		xmldoc.Num("prefix", ip.PrefixLength), xmldoc.Opt("localPtr", ip.LocalPtr))
}

// printDHCP prints what is inside <dhcp>.
func printDHCP(p *xmldoc.Printer, d *DHCP) {
	for i := range d.Ranges {
		printDHCPRange(p, &d.Ranges[i])
	}
	for i := range d.Hosts {
		printDHCPHost(p, &d.Hosts[i])
	}
	if b := d.Bootp; b != nil {
		p.Leaf("bootp", xmldoc.Opt("file", b.File), xmldoc.Addr("server", b.Server))
	}
	for _, b := range d.Boots {
		p.Leaf("vnetd:boot", xmldoc.Opt("arch", b.Arch), xmldoc.Opt("file", b.File), xmldoc.Addr("server", b.Server), xmldoc.Opt("http", b.HTTP))
	}
}

// printDHCPRange prints <range>.
func printDHCPRange(p *xmldoc.Printer, r *DHCPRange) {
	p.Elem("range", func() { printLease(p, r.Lease) }, xmldoc.Addr("start", r.Start), xmldoc.Addr("end", r.End))
}

// printDHCPHost prints <host> of <dhcp>.
func printDHCPHost(p *xmldoc.Printer, h *DHCPHost) {
	p.Elem("host", func() { printLease(p, h.Lease) },
		xmldoc.Opt("mac", cmp.Or(h.WrittenMAC, h.MAC.String())), xmldoc.Opt("id", h.ID), xmldoc.Opt("name", h.Name), xmldoc.Addr("ip", h.IP))
}

// printLease prints <lease>, nothing for nil. An infinite one has no unit.
func printLease(p *xmldoc.Printer, l *LeaseTime) {
	if l == nil {
		return
	}
	unit := l.Unit
	switch {
	case l.Expiry == 0:
		unit = ""
	case unit == "":
		unit = "minutes"
	}
	p.Leaf("lease", xmldoc.Always("expiry", strconv.FormatUint(l.Expiry, 10)), xmldoc.Opt("unit", unit))
}

// printRoute prints <route>.
func printRoute(p *xmldoc.Printer, r *Route) {
	length := xmldoc.Attr{}
	if r.HasPrefixLength {
		length = xmldoc.Always("prefix", strconv.Itoa(r.PrefixLength))
	}
	p.Leaf("route", xmldoc.Opt("family", r.Family), xmldoc.Addr("address", r.Address), xmldoc.Addr("netmask", r.Netmask),
		length, xmldoc.Addr("gateway", r.Gateway), xmldoc.Num("metric", r.Metric))
}

// printFragments prints what was kept as text.
func printFragments(p *xmldoc.Printer, list []Fragment) {
	for _, f := range list {
		p.Margin()
		p.Buf.WriteString(xmldoc.FormatElement(f.XML, nil, p.Indent) + "\n")
	}
}

// printDnsmasqOptions prints what is inside <dnsmasq:options>.
func printDnsmasqOptions(p *xmldoc.Printer, list []string) {
	for _, o := range list {
		p.Leaf("dnsmasq:option", xmldoc.Always("value", o))
	}
}

// printVLAN prints <vlan>, nothing for nil.
func printVLAN(p *xmldoc.Printer, v *VLAN) {
	if v == nil {
		return
	}
	p.Pair("vlan", func() {
		for _, t := range v.Tags {
			p.Leaf("tag", xmldoc.Always("id", strconv.Itoa(t.ID)), xmldoc.Opt("nativeMode", t.NativeMode))
		}
	}, xmldoc.Flag("trunk", v.Trunk))
}

// printBandwidth prints <bandwidth>, nothing for nil.
func printBandwidth(p *xmldoc.Printer, b *Bandwidth, attrs ...xmldoc.Attr) {
	if b == nil {
		return
	}
	p.Pair("bandwidth", func() {
		printRate(p, "inbound", b.Inbound)
		printRate(p, "outbound", b.Outbound)
	}, attrs...)
}

// printRate prints one direction of a <bandwidth>, nothing for nil.
func printRate(p *xmldoc.Printer, name string, r *Rate) {
	if r == nil {
		return
	}
	p.Leaf(name, xmldoc.Num("average", r.Average), xmldoc.Num("peak", r.Peak), xmldoc.Num("floor", r.Floor), xmldoc.Num("burst", r.Burst))
}

// printVirtualPort prints <virtualport>, nothing for nil.
func printVirtualPort(p *xmldoc.Printer, v *VirtualPort) {
	if v == nil {
		return
	}
	p.Elem("virtualport", func() {
		if params := *v; params != (VirtualPort{Type: v.Type}) {
			p.Leaf("parameters", id("managerid", v.ManagerID), id("typeid", v.TypeID), id("typeidversion", v.TypeIDVersion),
				xmldoc.Opt("instanceid", v.InstanceID), xmldoc.Opt("interfaceid", v.InterfaceID), xmldoc.Opt("profileid", v.ProfileID))
		}
	}, xmldoc.Opt("type", v.Type))
}

// id is a number that may be 0 or absent.
func id(name string, v *int) xmldoc.Attr {
	if v == nil {
		return xmldoc.Attr{}
	}
	return xmldoc.Always(name, strconv.Itoa(*v))
}

// printPortGroup prints <portgroup>.
func printPortGroup(p *xmldoc.Printer, g *PortGroup) {
	p.Pair("portgroup", func() {
		printVLAN(p, g.VLAN)
		printVirtualPort(p, g.VirtualPort)
		printBandwidth(p, g.Bandwidth)
	}, xmldoc.Always("name", g.Name), xmldoc.Flag("default", g.Default), xmldoc.Opt("trustGuestRxFilters", g.TrustGuestRxFilters))
}

// printHostdevDriver prints <driver>, nothing for nil.
func printHostdevDriver(p *xmldoc.Printer, d *HostdevDriver) {
	if d != nil {
		p.Leaf("driver", xmldoc.Opt("name", d.Name), xmldoc.Opt("model", d.Model))
	}
}

// printPCIAddress prints <address>, with attributes before the device's.
func printPCIAddress(p *xmldoc.Printer, a PCIAddress, attrs ...xmldoc.Attr) {
	p.Leaf("address", append(attrs, xmldoc.Always("domain", fmt.Sprintf("0x%04x", a.Domain)), xmldoc.Always("bus", fmt.Sprintf("0x%02x", a.Bus)),
		xmldoc.Always("slot", fmt.Sprintf("0x%02x", a.Slot)), xmldoc.Always("function", fmt.Sprintf("0x%x", a.Function)))...)
}

// yesNo renders a bool as libvirt does.
func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
