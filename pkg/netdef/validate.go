package netdef

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"

	"github.com/vnetd/vnetd/internal/dnsname"
	"github.com/vnetd/vnetd/internal/ether"
)

// Validate returns every value in n that can't work, as Faults; nil if there
// is none. It needs no Complete: an empty UUID, MAC or bridge name is fine.
func (n *Network) Validate() error { return n.validate().err() }

// checker collects the faults of one network.
type checker struct {
	Faults
	n    *Network
	mode Mode
}

// validate is Validate with the faults' own type.
func (n *Network) validate() Faults {
	c := &checker{n: n, mode: n.Mode()}
	c.name()
	c.identity()
	c.forward()
	c.bridge()
	c.forwardMode()
	c.uplink()
	c.access()
	c.dhcpPolicy()
	c.mtu()
	c.domain()
	c.dns()
	c.records()
	c.addresses()
	c.ports()
	c.fragments()
	return c.Faults
}

// maxName bounds a name: it is part of file names, which end at 255 bytes.
const maxName = 200

// name checks the network's name, which is a file's name too.
func (c *checker) name() {
	const path = "network/name"
	switch name := c.n.Name; {
	case name == "":
		c.add(path, "", "missing, want a name")
	case name == "." || name == "..":
		c.add(path, name, "not a name for a file, which it becomes")
	case strings.Contains(name, "/"):
		c.add(path, name, "want a name without '/'")
	case strings.ContainsFunc(name, unicode.IsControl):
		c.add(path, name, "want a name without line breaks and control characters")
	case len(name) > maxName:
		c.addf(path, name, "the name has %d bytes, want at most %d", len(name), maxName)
	}
}

// identity checks what else tells the network from others.
func (c *checker) identity() {
	if u := c.n.UUID; u != "" {
		if canonical, err := parseUUID(u); err != nil || canonical != u {
			c.add("network/uuid", u, "not a UUID in canonical form")
		}
	}
	if strings.Contains(c.n.Title, "\n") {
		c.add("network/title", c.n.Title, "want a title on one line")
	}
	c.mac("network/mac/@address", c.n.MAC)
}

// mac checks an optional unicast address.
func (c *checker) mac(path string, mac []byte) {
	switch {
	case mac == nil:
	case len(mac) != 6:
		c.add(path, "", "not a MAC address of six octets")
	case mac[0]&1 == 1:
		c.add(path, fmtMAC(mac), "a multicast address, want the lowest bit of the first octet clear")
	case bytes.Equal(mac, make([]byte, 6)):
		c.add(path, fmtMAC(mac), "the address of no card, want one that is not all zero")
	}
}

// deviceName returns what is wrong with the name of a network device, "" if
// nothing is. The rules are those of ether.ValidName, and those of
// iptables, for which "eno+" is every name that begins so; "all" and "default"
// are taken by sysctl's directories.
func deviceName(name string) string {
	switch {
	case len(name) > ether.MaxName:
		return fmt.Sprintf("the name has %d bytes, want at most %d", len(name), ether.MaxName)
	case name == "." || name == ".." || name == "all" || name == "default":
		return "not a name for a network device"
	case strings.ContainsFunc(name, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
		return "want a name without blanks"
	case strings.ContainsAny(name, "/:%"):
		return "want a name without '/', ':' and '%'"
	case strings.ContainsAny(name, `"'\`) || strings.HasSuffix(name, "+") || name != strings.TrimLeft(name, "-!"):
		return "no name for a firewall rule, want it not to begin with '-' or '!' nor to end in '+', and without quotes and backslash"
	}
	return ""
}

// bridge checks the bridge of a network. Where the bridge is the host's, how
// it runs is not the network's to say.
func (c *checker) bridge() {
	const path = "network/bridge"
	b := c.n.Bridge
	name := b.Name
	if c.mode.OwnsBridge() {
		// A template's number has one to three digits; Complete sees to the length.
		name = strings.Replace(name, "%d", "0", 1)
	}
	if problem := deviceName(name); problem != "" {
		c.add(path+"/@name", b.Name, problem)
	}
	if c.mode.OwnsBridge() || !knownMode(c.mode) {
		return
	}
	if b.Delay != 0 && !c.n.OwnsBridge() {
		c.addf(path+"/@delay", fmt.Sprint(b.Delay), "not allowed in mode %s: the bridge is the host's", c.mode)
	}
	if b.Zone != "" {
		c.addf(path+"/@zone", b.Zone, "not allowed in mode %s: its traffic is not the network's to filter", c.mode)
	}
	if c.mode == ModeBridge {
		return
	}
	if b.Name != "" {
		c.addf(path+"/@name", b.Name, "not allowed in mode %s, which uses no bridge", c.mode)
	}
	if b.MACTableManager != "" {
		c.addf(path+"/@macTableManager", b.MACTableManager, "not allowed in mode %s, which uses no bridge", c.mode)
	}
}

// mtu checks the MTU against the kernel's bounds for a bridge and against
// IPv6: "every link in the Internet have an MTU of 1280 octets or greater"
// (RFC 8200 section 5).
func (c *checker) mtu() {
	const path = "network/mtu/@size"
	mtu := c.n.MTU
	switch {
	case mtu == 0:
	case mtu < 68 || mtu > 65535:
		c.add(path, fmt.Sprint(mtu), "want 68 to 65535")
	case mtu < 1280 && c.hasIPv6():
		c.add(path, fmt.Sprint(mtu), "want at least 1280, which the network's IPv6 needs")
	}
}

// hasIPv6 reports whether the network has an IPv6 address.
func (c *checker) hasIPv6() bool {
	for i := range c.n.IPs {
		if c.n.IPs[i].Address.Is6() {
			return true
		}
	}
	return false
}

// domain checks the DNS domain.
func (c *checker) domain() {
	d := c.n.Domain
	if d == nil {
		return
	}
	c.dnsRule("network/domain/@name", d.Name, dnsname.Host)
	if d.Register == Yes && d.LocalOnly != Yes {
		c.add("network/domain/@register", "yes", "only allowed with localOnly='yes'")
	}
}

// dnsRule adds a fault if name breaks a rule of internal/dnsname.
func (c *checker) dnsRule(path, name string, rule func(string) (string, error)) {
	if _, err := rule(name); err != nil {
		c.add(path, name, err.Error())
	}
}

// isAlnum reports whether r is an ASCII letter or digit.
func isAlnum(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

// fmtMAC renders an address of any length.
func fmtMAC(mac []byte) string {
	return strings.ReplaceAll(fmt.Sprintf("% x", mac), " ", ":")
}
