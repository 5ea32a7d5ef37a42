package netdef

import "net/netip"

// ip decodes one <ip>.
func (e element) ip() IP {
	before := len(*e.faults)
	ip := IP{
		Family:       e.str("family"),
		Address:      value(e, "address", parseAddr),
		Netmask:      value(e, "netmask", parseAddr),
		PrefixLength: value(e, "prefix", parseUint[int](0, 128)),
	}
	if len(*e.faults) > before {
		// The subnet is not known: nothing inside can be checked against it.
		ip.Address, ip.Netmask, ip.PrefixLength = netip.Addr{}, netip.Addr{}, 0
	}
	ip.LocalPtr = value(e, "localPtr", parseTristate)
	if tftp, ok := e.first("tftp"); ok {
		ip.TFTPRoot = tftp.str("root")
	}
	if dhcp, ok := e.first("dhcp"); ok {
		ip.DHCP = dhcp.dhcp()
	}
	ip.RA = e.raPolicy()
	return ip
}

// dhcp decodes <dhcp>. Without a range and a host it does nothing: nil.
func (e element) dhcp() *DHCP {
	d := &DHCP{}
	for _, r := range e.all("range") {
		d.Ranges = append(d.Ranges, r.dhcpRange())
	}
	for _, h := range e.all("host") {
		d.Hosts = append(d.Hosts, h.dhcpHost())
	}
	for _, b := range e.children(nsVnetd, "boot") {
		d.Boots = append(d.Boots, b.boot())
	}
	if len(d.Ranges) == 0 && len(d.Hosts) == 0 {
		return nil
	}
	if b, ok := e.first("bootp"); ok {
		d.Bootp = &Bootp{File: b.str("file"), Server: value(b, "server", parseAddr)}
	}
	return d
}

// dhcpRange decodes one <range>.
func (e element) dhcpRange() DHCPRange {
	return DHCPRange{Start: value(e, "start", parseAddr), End: value(e, "end", parseAddr), Lease: e.lease()}
}

// dhcpHost decodes one <host> of <dhcp>.
func (e element) dhcpHost() DHCPHost {
	h := DHCPHost{
		MAC: value(e, "mac", parseMAC), ID: e.str("id"), Name: e.str("name"),
		IP: value(e, "ip", parseAddr), Lease: e.lease(),
	}
	if written := e.str("mac"); h.MAC != nil && written != h.MAC.String() {
		h.WrittenMAC = written
	}
	if name, ok := e.attr("name"); ok && name == "" {
		e.fault("@name", "", "empty, want a host name")
	}
	return h
}

// lease decodes the <lease> child; nil if there is none or it says nothing.
func (e element) lease() *LeaseTime {
	e, ok := e.first("lease")
	if !ok {
		return nil
	}
	if _, ok := e.attr("expiry"); !ok {
		return nil
	}
	l := &LeaseTime{Expiry: value(e, "expiry", parseUint[uint64](0, 1<<63))}
	l.Unit = value(e, "unit", parseWord("seconds", "minutes", "hours"))
	if l.Unit == "" {
		l.Unit = "minutes"
	}
	if l.Expiry == 0 {
		l.Unit = "" // not printed: an infinite lease has no unit
	}
	return l
}

// route decodes one <route>.
func (e element) route() Route {
	r := Route{
		Family:       e.str("family"),
		Address:      value(e, "address", parseAddr),
		Netmask:      value(e, "netmask", parseAddr),
		PrefixLength: value(e, "prefix", parseUint[int](0, 128)),
		Gateway:      value(e, "gateway", parseAddr),
		Metric:       value(e, "metric", parseUint[int](1, 1<<32-1)),
	}
	_, r.HasPrefixLength = e.attr("prefix")
	return r
}
