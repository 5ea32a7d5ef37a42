package netdef

// dns decodes <dns>; nil if it says nothing.
func (e element) dns() *DNS {
	e, ok := e.first("dns")
	if !ok {
		return nil
	}
	d := &DNS{
		Enable:            value(e, "enable", parseTristate),
		ForwardPlainNames: value(e, "forwardPlainNames", parseTristate),
	}
	for _, f := range e.all("forwarder") {
		d.Forwarders = append(d.Forwarders, Forwarder{
			Domain: f.str("domain"), Addr: value(f, "addr", parseAddr), Port: value(f, "port", parseUint[uint16](1, 65535)),
		})
	}
	for _, t := range e.all("txt") {
		d.TXT = append(d.TXT, t.txt())
	}
	for _, s := range e.all("srv") {
		d.SRV = append(d.SRV, s.srv())
	}
	for _, h := range e.all("host") {
		d.Hosts = append(d.Hosts, h.dnsHost())
	}
	if d.silent() {
		return nil
	}
	return d
}

// silent reports whether d says nothing: the same as no <dns>.
func (d *DNS) silent() bool {
	return d.Enable == Unset && d.ForwardPlainNames == Unset && d.records() == 0
}

// records counts the elements inside.
func (d *DNS) records() int {
	return len(d.Forwarders) + len(d.TXT) + len(d.SRV) + len(d.Hosts)
}

// txt decodes one <txt>. The value may be empty but must be there.
func (e element) txt() TXT {
	val, ok := e.attr("value")
	if !ok {
		e.fault("@value", "", "missing, want the text of the record")
	}
	return TXT{Name: e.str("name"), Value: val}
}

// srv decodes one <srv>.
func (e element) srv() SRV {
	s := SRV{
		Service: e.str("service"), Protocol: e.str("protocol"), Domain: e.str("domain"), Target: e.str("target"),
		Port:     value(e, "port", parseUint[int](1, 65535)),
		Priority: value(e, "priority", parseUint[int](0, 65535)),
		Weight:   value(e, "weight", parseUint[int](0, 65535)),
	}
	for _, name := range []string{"port", "priority", "weight"} {
		if v, ok := e.attr(name); ok && s.Target == "" {
			e.fault("@"+name, v, "not allowed without target")
		}
	}
	return s
}

// dnsHost decodes one <host> of <dns>.
func (e element) dnsHost() DNSHost {
	h := DNSHost{IP: value(e, "ip", parseAddr)}
	for _, name := range e.all("hostname") {
		h.Hostnames = append(h.Hostnames, string(name.text))
	}
	return h
}
