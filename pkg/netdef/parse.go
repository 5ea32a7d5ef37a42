package netdef

import "github.com/vnetd/vnetd/pkg/dnsmasq"

// Parse reads a <network> document. The error is of type Faults: either one
// fault with its line if the text is not acceptable XML, or every value that
// can't be read together with everything that Validate finds in the rest.
// Unknown elements and attributes are dropped and listed in Ignored. Without an
// error the network may still be invalid: see Validate. Values beyond the
// bounds of documents (4 MiB, 64 levels) are refused.
func Parse(src []byte) (*Network, error) {
	root, err := parseTree(src)
	if err != nil {
		return nil, Faults{asFault(err)}
	}
	if root.name != "network" || root.space != "" {
		return nil, Faults{{Problem: "the document is a <" + oneLine(root.qname) + ">, want <network>"}}
	}
	return decodeNetwork(root)
}

// decodeNetwork decodes a <network>, wherever it stands. Its errors are Parse's.
func decodeNetwork(root *node) (*Network, error) {
	var faults Faults
	e := element{node: root, faults: &faults}
	n := e.network()
	e.unknownExtensions()
	if len(faults) > 0 {
		return nil, faults.merge(n.validate())
	}
	n.Ignored = root.unused(nil)
	return n, nil
}

// network decodes the root.
func (e element) network() *Network {
	e = e.at(e.node, "network")
	e.str("connections") // libvirt's live count: never read back
	n := &Network{
		Name:                e.content("name"),
		UUID:                e.uuid(),
		Title:               e.content("title"),
		Description:         e.content("description"),
		IPv6:                value(e, "ipv6", parseTristate) == Yes,
		TrustGuestRxFilters: value(e, "trustGuestRxFilters", parseTristate),
		Forward:             e.forward(),
		Domain:              e.domain(),
		DNS:                 e.dns(),
		VLAN:                e.vlan(),
		Bandwidth:           e.bandwidth(),
		VirtualPort:         e.virtualPort(),
		Metadata:            e.metadata(),
		Dnsmasq:             dnsmasq.Parse(e.dnsmasqOptions()),
		Uplink:              e.uplink(),
		Access:              e.access(),
		DHCPPolicy:          e.dhcpPolicy(),
		Records:             e.records(),
	}
	n.Bridge = e.bridge(n.Mode(), n.Uplink != "")
	if mtu, ok := e.first("mtu"); ok {
		n.MTU = value(mtu, "size", parseUint[int](0, 65535))
	}
	if mac, ok := e.first("mac"); ok {
		n.MAC = value(mac, "address", parseMAC)
	}
	if port, ok := e.first("port"); ok {
		n.Isolated = value(port, "isolated", parseTristate)
	}
	for _, ip := range e.all("ip") {
		n.IPs = append(n.IPs, ip.ip())
	}
	for _, route := range e.all("route") {
		n.Routes = append(n.Routes, route.route())
	}
	for _, group := range e.all("portgroup") {
		n.PortGroups = append(n.PortGroups, group.portGroup())
	}
	return n
}

// uuid reads the <uuid> child; "" if absent or empty.
func (e element) uuid() string {
	s := e.content("uuid")
	if s == "" {
		return ""
	}
	u, err := parseUUID(s)
	if err != nil {
		e.fault("uuid", s, err.Error())
	}
	return u
}

// bridge decodes <bridge> of a network of that mode, with an uplink or without.
func (e element) bridge(m Mode, uplink bool) Bridge {
	b := Bridge{STP: m.OwnsBridge()}
	e, ok := e.first("bridge")
	if !ok {
		return b
	}
	b.Name, b.Zone = e.str("name"), e.str("zone")
	b.Delay = value(e, "delay", parseUint[int](0, maxDelay))
	if _, ok := e.attr("macTableManager"); ok {
		b.MACTableManager = value(e, "macTableManager", parseWord("kernel", "libvirt"))
	}
	b.STP = e.stp(m, uplink)
	return b
}

// stp decodes the attribute of <bridge>. virNetworkDefParseXML: anything but
// "off" is on; but the attribute has no place where the bridge is the host's.
// On a bridge with an uplink it is for the LAN's admin to ask for it.
func (e element) stp(m Mode, uplink bool) bool {
	stp := e.str("stp")
	switch {
	case m.OwnsBridge():
		return stp != "off"
	case uplink && m == ModeBridge:
		return value(e, "stp", parseWord("on", "off")) == "on"
	case stp != "" && knownMode(m):
		e.fault("@stp", stp, "not allowed in mode "+string(m)+": the bridge is the host's")
	}
	return false
}

// maxDelay bounds the forward delay; the kernel keeps it in centiseconds.
const maxDelay = 1<<32/100 - 1

// domain decodes <domain>. One without a name does nothing: nil.
func (e element) domain() *Domain {
	e, ok := e.first("domain")
	if !ok {
		return nil
	}
	d := &Domain{
		Name:      e.str("name"),
		LocalOnly: value(e, "localOnly", parseTristate),
		Register:  value(e, "register", parseTristate),
	}
	if d.Name == "" {
		e.path = "" // unread again: listed in Ignored
		return nil
	}
	return d
}
