package netdef

import (
	"net/netip"
	"strings"

	"github.com/vnetd/vnetd/pkg/dnsmasq"
	"github.com/vnetd/vnetd/pkg/netdef/announce"
	"github.com/vnetd/vnetd/pkg/netdef/policy"
	"github.com/vnetd/vnetd/pkg/netdef/schema"
	"github.com/vnetd/vnetd/pkg/netdef/span"
	"github.com/vnetd/vnetd/pkg/netdef/xmldoc"
)

// decodeDefinition decodes the root.
func decodeDefinition(e xmldoc.Element) *Network {
	e = e.At(e.Node, "network")
	e.Str("connections") // libvirt's live count: never read back
	n := &Network{
		Name:                e.Content("name"),
		UUID:                decodeUUID(e),
		Title:               e.Content("title"),
		Description:         e.Content("description"),
		IPv6:                xmldoc.Value(e, "ipv6", parseTristate) == Yes,
		TrustGuestRxFilters: xmldoc.Value(e, "trustGuestRxFilters", parseTristate),
		Forward:             decodeForward(e),
		Domain:              decodeDomain(e),
		DNS:                 decodeDNS(e),
		VLAN:                decodeVLAN(e),
		Bandwidth:           decodeBandwidth(e),
		VirtualPort:         decodeVirtualPort(e),
		Metadata:            decodeMetadata(e),
		Dnsmasq:             dnsmasq.Parse(decodeDnsmasqOptions(e)),
		HostAccess:          decodeHostAccess(e),
		BridgePolicy:        decodeBridgePolicy(e),
		Access:              decodeAccess(e),
		DHCPPolicy:          decodeDHCPPolicy(e),
		Guard:               decodeGuard(e),
		Inbound6:            decodeInbound6(e),
		Offload:             decodeOffload(e),
		Records:             decodeRecords(e),
		PortForwards:        decodePortForwards(e),
		Peers:               policy.DecodePeers(e),
		Rules:               policy.DecodeRules(e),
		Span:                span.Decode(e),
		Announce:            announce.Decode(e),
	}
	n.Chosen, n.ChosenBits = decodeSubnet(e)
	n.Uplink, n.UplinkVLAN = decodeUplink(e)
	n.Bridge = decodeBridge(e, n.Mode(), n.Uplink != "")
	if mtu, ok := e.First("mtu"); ok {
		n.MTU = xmldoc.Value(mtu, "size", parseUint[int](0, 65535))
	}
	if mac, ok := e.First("mac"); ok {
		n.MAC = xmldoc.Value(mac, "address", parseMAC)
	}
	if port, ok := e.First("port"); ok {
		n.Isolated = xmldoc.Value(port, "isolated", parseTristate)
	}
	for _, ip := range e.All("ip") {
		n.IPs = append(n.IPs, decodeIP(ip))
	}
	for _, route := range e.All("route") {
		n.Routes = append(n.Routes, decodeRoute(route))
	}
	for _, group := range e.All("portgroup") {
		n.PortGroups = append(n.PortGroups, decodePortGroup(group))
	}
	return n
}

// decodeUUID reads the <uuid> child; "" if absent or empty.
func decodeUUID(e xmldoc.Element) string {
	s := e.Content("uuid")
	if s == "" {
		return ""
	}
	u, err := parseUUID(s)
	if err != nil {
		e.Fault("uuid", s, err.Error())
	}
	return u
}

// decodeBridge decodes <bridge> of a network of that mode, with an uplink or without.
func decodeBridge(e xmldoc.Element, m Mode, uplink bool) Bridge {
	b := Bridge{STP: m.OwnsBridge()}
	e, ok := e.First("bridge")
	if !ok {
		return b
	}
	b.Name, b.Zone = e.Str("name"), e.Str("zone")
	b.Delay = xmldoc.Value(e, "delay", parseUint[int](0, maxDelay))
	if _, ok := e.Attr("macTableManager"); ok {
		b.MACTableManager = xmldoc.Value(e, "macTableManager", parseWord("kernel", "libvirt"))
	}
	b.STP = decodeSTP(e, m, uplink)
	return b
}

// decodeSTP decodes the attribute of <bridge>. virNetworkDefParseXML: anything but
// "off" is on; but the attribute has no place where the bridge is the host's.
// On a bridge with an uplink it is for the LAN's admin to ask for it.
func decodeSTP(e xmldoc.Element, m Mode, uplink bool) bool {
	stp := e.Str("stp")
	switch {
	case m.OwnsBridge():
		return stp != "off"
	case uplink && m == ModeBridge:
		return xmldoc.Value(e, "stp", parseWord("on", "off")) == "on"
	case stp != "" && knownMode(m):
		e.Fault("@stp", stp, "not allowed in mode "+string(m)+": the bridge is the host's")
	}
	return false
}

// maxDelay bounds the forward delay; the kernel keeps it in centiseconds.
const maxDelay = 1<<32/100 - 1

// decodeDomain decodes <domain>. One without a name does nothing: nil.
func decodeDomain(e xmldoc.Element) *Domain {
	e, ok := e.First("domain")
	if !ok {
		return nil
	}
	d := &Domain{
		Name:      e.Str("name"),
		LocalOnly: xmldoc.Value(e, "localOnly", parseTristate),
		Register:  xmldoc.Value(e, "register", parseTristate),
	}
	if d.Name == "" {
		e.Path = "" // unread again: listed in Ignored
		return nil
	}
	return d
}

// decodeDNS decodes <dns>; nil if it says nothing.
func decodeDNS(e xmldoc.Element) *DNS {
	e, ok := e.First("dns")
	if !ok {
		return nil
	}
	d := &DNS{
		Enable:            xmldoc.Value(e, "enable", parseTristate),
		ForwardPlainNames: xmldoc.Value(e, "forwardPlainNames", parseTristate),
	}
	for _, f := range e.All("forwarder") {
		d.Forwarders = append(d.Forwarders, Forwarder{
			Domain: f.Str("domain"), Addr: xmldoc.Value(f, "addr", parseAddr), Port: xmldoc.Value(f, "port", parseUint[uint16](1, 65535)),
		})
	}
	for _, t := range e.All("txt") {
		d.TXT = append(d.TXT, decodeTXT(t))
	}
	for _, s := range e.All("srv") {
		d.SRV = append(d.SRV, decodeSRV(s))
	}
	for _, h := range e.All("host") {
		d.Hosts = append(d.Hosts, decodeDNSHost(h))
	}
	if d.silent() {
		return nil
	}
	return d
}

// decodeTXT decodes one <txt>. The value may be empty but must be there.
func decodeTXT(e xmldoc.Element) TXT {
	val, ok := e.Attr("value")
	if !ok {
		e.Fault("@value", "", "missing, want the text of the record")
	}
	return TXT{Name: e.Str("name"), Value: val}
}

// decodeSRV decodes one <srv>.
func decodeSRV(e xmldoc.Element) SRV {
	s := SRV{
		Service: e.Str("service"), Protocol: e.Str("protocol"), Domain: e.Str("domain"), Target: e.Str("target"),
		Port:     xmldoc.Value(e, "port", parseUint[int](1, 65535)),
		Priority: xmldoc.Value(e, "priority", parseUint[int](0, 65535)),
		Weight:   xmldoc.Value(e, "weight", parseUint[int](0, 65535)),
	}
	for _, name := range []string{"port", "priority", "weight"} {
		if v, ok := e.Attr(name); ok && s.Target == "" {
			e.Fault("@"+name, v, "not allowed without target")
		}
	}
	return s
}

// decodeDNSHost decodes one <host> of <dns>.
func decodeDNSHost(e xmldoc.Element) DNSHost {
	h := DNSHost{IP: xmldoc.Value(e, "ip", parseAddr)}
	for _, name := range e.All("hostname") {
		h.Hostnames = append(h.Hostnames, string(name.Text))
	}
	return h
}

// decodeForward decodes <forward>. mode='none' is an isolated network: nil.
func decodeForward(e xmldoc.Element) *Forward {
	e, ok := e.First("forward")
	if !ok {
		return nil
	}
	f := &Forward{Mode: Mode(e.Str("mode")), Dev: e.Str("dev")}
	managed := e.Str("managed") // says nothing in other modes
	f.Managed = f.Mode == ModeHostdev && strings.EqualFold(managed, "yes")
	if f.Mode == "" {
		f.Mode = ModeNAT
	}
	for _, i := range e.All("interface") {
		i.Str("connections") // libvirt's live count
		f.Interfaces = append(f.Interfaces, i.Str("dev"))
	}
	f.NAT = decodeNAT(e, f.Mode)
	decodeHostdevPool(e, f)
	switch {
	case f.Dev == "" && len(f.Interfaces) > 0:
		f.Dev = f.Interfaces[0]
	case f.Dev != "" && len(f.Interfaces) == 0:
		f.Interfaces = []string{f.Dev}
	}
	if f.Mode == ModeIsolated {
		return nil
	}
	return f
}

// decodeNAT decodes <nat> of a network of that mode. One that says nothing is the
// same as none, as in libvirt: nil.
func decodeNAT(e xmldoc.Element, m Mode) *NAT {
	e, ok := e.Only("nat")
	if !ok {
		return nil
	}
	if m != ModeNAT && knownMode(m) {
		e.Faults.Addf(e.Path, "", "only allowed in mode nat, not in %s", m)
	}
	n := &NAT{IPv6: xmldoc.Value(e, "ipv6", parseTristate)}
	if a, ok := e.Only("address"); ok {
		n.Address = &AddressRange{Start: xmldoc.Value(a, "start", parseAddr), End: xmldoc.Value(a, "end", parseAddr)}
	}
	if p, ok := e.Only("port"); ok {
		port := parseUint[uint16](0, 65535)
		n.Port = &PortRange{Start: p.Required("start", port), End: p.Required("end", port)}
	}
	if *n == (NAT{}) {
		return nil
	}
	return n
}

// decodeIP decodes one <ip>.
func decodeIP(e xmldoc.Element) IP {
	before := len(*e.Faults)
	ip := IP{
		Family:       e.Str("family"),
		Address:      xmldoc.Value(e, "address", parseAddr),
		Netmask:      xmldoc.Value(e, "netmask", parseAddr),
		PrefixLength: xmldoc.Value(e, "prefix", parseUint[int](0, 128)),
	}
	if len(*e.Faults) > before {
		// The subnet is not known: nothing inside can be checked against it.
		ip.Address, ip.Netmask, ip.PrefixLength = netip.Addr{}, netip.Addr{}, 0
	}
	ip.LocalPtr = xmldoc.Value(e, "localPtr", parseTristate)
	if tftp, ok := e.First("tftp"); ok {
		ip.TFTPRoot = tftp.Str("root")
	}
	if dhcp, ok := e.First("dhcp"); ok {
		ip.DHCP = decodeDHCP(dhcp)
	}
	ip.RA = decodeRAPolicy(e)
	return ip
}

// decodeDHCP decodes <dhcp>. Without a range and a host it does nothing: nil.
func decodeDHCP(e xmldoc.Element) *DHCP {
	d := &DHCP{}
	for _, r := range e.All("range") {
		d.Ranges = append(d.Ranges, decodeDHCPRange(r))
	}
	for _, h := range e.All("host") {
		d.Hosts = append(d.Hosts, decodeDHCPHost(h))
	}
	for _, b := range e.Children(schema.NamespaceVnetd, "boot") {
		d.Boots = append(d.Boots, decodeBoot(b))
	}
	if len(d.Ranges) == 0 && len(d.Hosts) == 0 {
		return nil
	}
	for _, b := range e.All("bootp") { // the last one counts: virNetworkDHCPDefParseXML
		d.Bootp = &Bootp{File: b.Str("file"), Server: xmldoc.Value(b, "server", parseAddr)}
	}
	return d
}

// decodeDHCPRange decodes one <range>.
func decodeDHCPRange(e xmldoc.Element) DHCPRange {
	return DHCPRange{Start: xmldoc.Value(e, "start", parseAddr), End: xmldoc.Value(e, "end", parseAddr), Lease: decodeLease(e)}
}

// decodeDHCPHost decodes one <host> of <dhcp>.
func decodeDHCPHost(e xmldoc.Element) DHCPHost {
	h := DHCPHost{
		MAC: xmldoc.Value(e, "mac", parseMAC), ID: e.Str("id"), Name: e.Str("name"),
		IP: xmldoc.Value(e, "ip", parseAddr), Lease: decodeLease(e),
	}
	if written := e.Str("mac"); h.MAC != nil && written != h.MAC.String() {
		h.WrittenMAC = written
	}
	if name, ok := e.Attr("name"); ok && name == "" {
		e.Fault("@name", "", "empty, want a host name")
	}
	return h
}

// decodeLease decodes the <lease> child; nil if there is none or it says nothing.
func decodeLease(e xmldoc.Element) *LeaseTime {
	e, ok := e.First("lease")
	if !ok {
		return nil
	}
	if _, ok := e.Attr("expiry"); !ok {
		return nil
	}
	l := &LeaseTime{Expiry: xmldoc.Value(e, "expiry", parseUint[uint64](0, 1<<63))}
	l.Unit = xmldoc.Value(e, "unit", parseWord("seconds", "minutes", "hours"))
	if l.Unit == "" {
		l.Unit = "minutes"
	}
	if l.Expiry == 0 {
		l.Unit = "" // not printed: an infinite lease has no unit
	}
	return l
}

// decodeRoute decodes one <route>.
func decodeRoute(e xmldoc.Element) Route {
	r := Route{
		Family:       e.Str("family"),
		Address:      xmldoc.Value(e, "address", parseAddr),
		Netmask:      xmldoc.Value(e, "netmask", parseAddr),
		PrefixLength: xmldoc.Value(e, "prefix", parseUint[int](0, 128)),
		Gateway:      xmldoc.Value(e, "gateway", parseAddr),
		Metric:       xmldoc.Value(e, "metric", parseUint[int](1, 1<<32-1)),
	}
	_, r.HasPrefixLength = e.Attr("prefix")
	return r
}
