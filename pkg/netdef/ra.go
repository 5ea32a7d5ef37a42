package netdef

// slaacBits is the length of the prefixes of which guests can make addresses (RFC 4862,
// section 5.5.3; RFC 2464, section 4: interface identifiers have 64 bits).
const slaacBits = 64

// RAPolicy is what router advertisements say of the subnet of an IPv6 <ip>, as far as
// its prefix length and <dhcp> are not to say.
type RAPolicy struct {
	Autonomous Tristate // guests make addresses of it by themselves
	Managed    Tristate // guests are told to ask DHCPv6
}

// Autonomous tells whether guests on an IPv6 <ip> shall make addresses by themselves: by
// default where there is no <dhcp>, and the prefix has a length of which they can.
func (ip *IP) Autonomous() bool {
	if ip.RA.Autonomous != Unset {
		return ip.RA.Autonomous == Yes
	}
	return ip.DHCP == nil && ip.Prefix().Bits() == slaacBits
}

// Managed tells whether guests on an IPv6 <ip> shall ask DHCPv6: by default where there
// is <dhcp>.
func (ip *IP) Managed() bool {
	return ip.DHCP != nil && ip.RA.Managed != No
}

// Addressless tells whether guests on an IPv6 <ip> find no address, although nothing says
// that they shall have none.
func (ip *IP) Addressless() bool {
	return ip.Address.Is6() && ip.DHCP == nil && ip.RA.Autonomous == Unset && !ip.Autonomous()
}

// raPolicy decodes <vnetd:ra>.
func (e element) raPolicy() RAPolicy {
	e, ok := e.ours("ra")
	if !ok {
		return RAPolicy{}
	}
	return RAPolicy{Autonomous: value(e, "autonomous", parseTristate), Managed: value(e, "managed", parseTristate)}
}

// raPolicy prints <vnetd:ra>.
func (p *printer) raPolicy(r RAPolicy) {
	if r != (RAPolicy{}) {
		p.leaf("vnetd:ra", opt("autonomous", r.Autonomous), opt("managed", r.Managed))
	}
}

// raPolicy checks <vnetd:ra>.
func (c *checker) raPolicy(path string, ip *IP) {
	switch {
	case ip.RA == (RAPolicy{}) || !ip.Address.IsValid():
		return
	case ip.Address.Is4():
		c.add(path, "", "not allowed in an IPv4 <ip>")
		return
	case !c.mode.OwnsBridge():
		c.addf(path, "", "not allowed in mode %s: the network advertises nothing", c.mode)
		return
	}
	if bits := ip.Prefix().Bits(); ip.RA.Autonomous == Yes && bits != slaacBits {
		c.addf(path+"/@autonomous", string(Yes), "guests can make addresses of a prefix of %d bits only, this one has %d: want another prefix, or <dhcp>", slaacBits, bits)
	}
	if ip.RA.Managed == Yes && ip.DHCP == nil {
		c.add(path+"/@managed", string(Yes), "want <dhcp> with a range or a host: there is no DHCPv6 to ask")
	}
}
