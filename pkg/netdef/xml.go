package netdef

import (
	"cmp"
	"strconv"
)

// XML prints n as virsh net-dumpxml --inactive does: libvirt's order of
// elements and attributes, single quotes, two spaces of indentation, a newline
// at the end. Parse reads it back to an equal network, Ignored excepted.
func (n *Network) XML() []byte { return n.print(0) }

// LiveXML prints n as virsh net-dumpxml does for an active network with that
// many guest interfaces: with the count unless it is 0, and with the ports of
// NAT as they are in effect.
func (n *Network) LiveXML(connections int) []byte {
	if n.Mode() == ModeNAT {
		n = n.Clone()
		n.livePorts()
	}
	return n.print(connections)
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

// print renders n with the count of connections unless it is 0.
func (n *Network) print(connections int) []byte {
	p := &printer{}
	var options, vnetd attr
	if len(n.Dnsmasq.Lines) > 0 {
		options = attr{"xmlns:dnsmasq", nsDnsmasq}
	}
	if n.extended() {
		vnetd = attr{"xmlns:vnetd", nsVnetd}
	}
	p.pair("network", func() { p.network(n) },
		options, vnetd,
		num("connections", connections),
		flag("ipv6", n.IPv6),
		opt("trustGuestRxFilters", n.TrustGuestRxFilters))
	return p.buf.Bytes()
}

// network prints what is inside <network>, in virNetworkDefFormatBuf's order.
func (p *printer) network(n *Network) {
	p.text("name", n.Name)
	p.text("uuid", n.UUID)
	p.text("title", n.Title)
	p.text("description", n.Description)
	if len(n.Metadata) > 0 {
		p.pair("metadata", func() { p.fragments(n.Metadata) })
	}
	p.forward(n)
	p.bridge(n)
	if n.MTU != 0 {
		p.leaf("mtu", num("size", n.MTU))
	}
	if n.MAC != nil {
		p.leaf("mac", opt("address", n.MAC.String()))
	}
	if d := n.Domain; d != nil {
		p.leaf("domain", opt("name", d.Name), opt("localOnly", d.LocalOnly), opt("register", d.Register))
	}
	p.dns(n.DNS)
	p.vlan(n.VLAN)
	p.bandwidth(n.Bandwidth)
	if n.Isolated != Unset {
		p.leaf("port", opt("isolated", n.Isolated))
	}
	for i := range n.IPs {
		p.ip(&n.IPs[i])
	}
	for i := range n.Routes {
		p.route(&n.Routes[i])
	}
	p.virtualPort(n.VirtualPort)
	for i := range n.PortGroups {
		p.portGroup(&n.PortGroups[i])
	}
	if len(n.Dnsmasq.Lines) > 0 {
		p.pair("dnsmasq:options", func() { p.dnsmasqOptions(n.Dnsmasq.Lines) })
	}
	p.extensions(n)
}

// forward prints <forward>, nothing for an isolated network.
func (p *printer) forward(n *Network) {
	f := n.Forward
	if f == nil {
		return
	}
	interfaces := f.Interfaces
	if len(interfaces) == 0 && f.Dev != "" {
		interfaces = []string{f.Dev}
	}
	dev := ""
	if len(interfaces) > 0 {
		dev = interfaces[0]
	}
	managed := attr{}
	if n.Mode() == ModeHostdev {
		managed = attr{"managed", yesNo(f.Managed)}
	}
	p.elem("forward", func() {
		p.hostdevDriver(f.Driver)
		p.nat(f.NAT)
		if f.PF != "" {
			p.leaf("pf", opt("dev", f.PF))
		}
		for i := range interfaces {
			p.forwardInterface(&interfaces[i])
		}
		for _, a := range f.Addresses {
			p.pciAddress(a, attr{"type", "pci"})
		}
	}, opt("dev", dev), opt("mode", n.Mode()), managed)
}

// forwardInterface prints <interface>.
func (p *printer) forwardInterface(dev *string) { p.leaf("interface", attr{"dev", *dev}) }

// nat prints <nat>, nothing if it says nothing.
func (p *printer) nat(n *NAT) {
	if n == nil || *n == (NAT{}) {
		return
	}
	p.elem("nat", func() {
		if a := n.Address; a != nil {
			p.leaf("address", addr("start", a.Start), addr("end", a.End))
		}
		if r := n.Port; r != nil {
			p.leaf("port", attr{"start", strconv.Itoa(int(r.Start))}, attr{"end", strconv.Itoa(int(r.End))})
		}
	}, opt("ipv6", n.IPv6))
}

// bridge prints <bridge>. STP and delay are the host's own affair where the
// network doesn't make the bridge. With an uplink they are only printed if they
// say something: libvirt's clients refuse them in mode bridge.
func (p *printer) bridge(n *Network) {
	b := n.Bridge
	if n.Mode().OwnsBridge() {
		stp := "off"
		if b.STP {
			stp = "on"
		}
		p.leaf("bridge", opt("name", b.Name), opt("zone", b.Zone), attr{"stp", stp},
			attr{"delay", strconv.Itoa(b.Delay)}, opt("macTableManager", b.MACTableManager))
		return
	}
	var stp, delay attr
	if n.OwnsBridge() {
		delay = num("delay", b.Delay)
		if b.STP {
			stp = attr{"stp", "on"}
		}
	}
	if b.Name != "" || b.MACTableManager != "" {
		p.leaf("bridge", opt("name", b.Name), opt("zone", b.Zone), stp, delay, opt("macTableManager", b.MACTableManager))
	}
}

// dns prints <dns>, nothing for nil.
func (p *printer) dns(d *DNS) {
	if d == nil {
		return
	}
	p.elem("dns", func() {
		for _, f := range d.Forwarders {
			p.leaf("forwarder", opt("domain", f.Domain), addr("addr", f.Addr), num("port", f.Port))
		}
		for i := range d.TXT {
			p.txt(&d.TXT[i])
		}
		for i := range d.SRV {
			p.srv(&d.SRV[i])
		}
		for i := range d.Hosts {
			p.dnsHost(&d.Hosts[i])
		}
	}, opt("enable", d.Enable), opt("forwardPlainNames", d.ForwardPlainNames))
}

// txt prints <txt>.
func (p *printer) txt(t *TXT) { p.leaf("txt", attr{"name", t.Name}, attr{"value", t.Value}) }

// srv prints <srv>.
func (p *printer) srv(s *SRV) {
	p.leaf("srv", opt("service", s.Service), opt("protocol", s.Protocol), opt("domain", s.Domain),
		opt("target", s.Target), num("port", s.Port), num("priority", s.Priority), num("weight", s.Weight))
}

// dnsHost prints <host> of <dns>.
func (p *printer) dnsHost(h *DNSHost) {
	p.pair("host", func() {
		for _, name := range h.Hostnames {
			p.text("hostname", name)
		}
	}, addr("ip", h.IP))
}

// ip prints <ip>, as a pair of tags even if it is empty.
func (p *printer) ip(ip *IP) {
	p.pair("ip", func() {
		if ip.TFTPRoot != "" {
			p.leaf("tftp", opt("root", ip.TFTPRoot))
		}
		if ip.DHCP != nil {
			p.elem("dhcp", func() { p.dhcp(ip.DHCP) })
		}
		p.raPolicy(ip.RA)
	}, opt("family", ip.Family), addr("address", ip.Address), addr("netmask", ip.Netmask),
		num("prefix", ip.PrefixLength), opt("localPtr", ip.LocalPtr))
}

// dhcp prints what is inside <dhcp>.
func (p *printer) dhcp(d *DHCP) {
	for i := range d.Ranges {
		p.dhcpRange(&d.Ranges[i])
	}
	for i := range d.Hosts {
		p.dhcpHost(&d.Hosts[i])
	}
	if b := d.Bootp; b != nil {
		p.leaf("bootp", opt("file", b.File), addr("server", b.Server))
	}
	for _, b := range d.Boots {
		p.leaf("vnetd:boot", opt("arch", b.Arch), opt("file", b.File), addr("server", b.Server), opt("http", b.HTTP))
	}
}

// dhcpRange prints <range>.
func (p *printer) dhcpRange(r *DHCPRange) {
	p.elem("range", func() { p.lease(r.Lease) }, addr("start", r.Start), addr("end", r.End))
}

// dhcpHost prints <host> of <dhcp>.
func (p *printer) dhcpHost(h *DHCPHost) {
	p.elem("host", func() { p.lease(h.Lease) },
		opt("mac", cmp.Or(h.WrittenMAC, h.MAC.String())), opt("id", h.ID), opt("name", h.Name), addr("ip", h.IP))
}

// lease prints <lease>, nothing for nil. An infinite one has no unit.
func (p *printer) lease(l *LeaseTime) {
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
	p.leaf("lease", attr{"expiry", strconv.FormatUint(l.Expiry, 10)}, opt("unit", unit))
}

// route prints <route>.
func (p *printer) route(r *Route) {
	length := attr{}
	if r.HasPrefixLength {
		length = attr{"prefix", strconv.Itoa(r.PrefixLength)}
	}
	p.leaf("route", opt("family", r.Family), addr("address", r.Address), addr("netmask", r.Netmask),
		length, addr("gateway", r.Gateway), num("metric", r.Metric))
}
