package netdef

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"unicode"

	"github.com/vnetd/vnetd/internal/ether"
)

// checker collects the faults of one network.
type checker struct {
	Faults
	n    *Network
	mode Mode
	all  bool // also of more than xmldoc.MaxFaults, for a comparison
}

// Add adds a fault.
func (c *checker) Add(path, value, problem string) {
	if c.all {
		c.Faults = append(c.Faults, Fault{Path: path, Value: value, Problem: problem})
		return
	}
	c.Faults.Add(path, value, problem)
}

// Addf adds a fault whose problem is formatted.
func (c *checker) Addf(path, value, format string, args ...any) {
	c.Add(path, value, fmt.Sprintf(format, args...))
}

// checkMAC checks an optional unicast address.
func checkMAC(c *checker, path string, mac []byte) {
	switch {
	case mac == nil:
	case len(mac) != 6:
		c.Add(path, "", "not a MAC address of six octets")
	case mac[0]&1 == 1:
		c.Add(path, fmtMAC(mac), "a multicast address, want the lowest bit of the first octet clear")
	case bytes.Equal(mac, make([]byte, 6)):
		c.Add(path, fmtMAC(mac), "the address of no card, want one that is not all zero")
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

// hasIPv6 reports whether the network has an IPv6 address.
func (c *checker) hasIPv6() bool {
	for i := range c.n.IPs {
		if c.n.IPs[i].Address.Is6() {
			return true
		}
	}
	return false
}

// dnsRule adds a fault if name breaks a rule of internal/dnsname.
func (c *checker) dnsRule(path, name string, rule func(string) (string, error)) {
	if _, err := rule(name); err != nil {
		c.Add(path, name, err.Error())
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

// checkDevice checks the name of a device of the host that must be there.
func checkDevice(c *checker, path, dev string) {
	if dev == "" {
		c.Add(path, "", "missing, want the name of an interface")
	} else if problem := deviceName(dev); problem != "" {
		c.Add(path, dev, problem)
	}
}

// maxRange is the most addresses that a range may have: virSocketAddrGetRange.
const maxRange = 65536

// present checks that both ends of a range are there.
func (c *checker) present(path string, start, end netip.Addr) bool {
	if !start.IsValid() {
		c.Add(path+"/@start", "", "missing, want an IP address")
	}
	if !end.IsValid() {
		c.Add(path+"/@end", "", "missing, want an IP address")
	}
	return start.IsValid() && end.IsValid()
}

// order checks that a range runs forward within one family and is not too
// large.
func (c *checker) order(path string, r AddressRange) {
	switch count := rangeSize(r.Start, r.End); {
	case r.Start.BitLen() != r.End.BitLen():
		c.Addf(path+"/@end", r.End.String(), "want an address of the same family as the start %s", r.Start)
	case r.End.Less(r.Start):
		c.Addf(path+"/@end", r.End.String(), "before the start %s: the range is reversed", r.Start)
	case count > maxRange:
		c.Addf(path+"/@end", r.End.String(), "more than %d addresses after the start %s", maxRange, r.Start)
	}
}

// rangeSize returns the number of addresses of a range, or maxRange+1 if it is
// larger than that. It is only meaningful for start <= end of one family.
func rangeSize(start, end netip.Addr) uint64 {
	a, b := start.As16(), end.As16()
	if [8]byte(a[:8]) != [8]byte(b[:8]) {
		return maxRange + 1
	}
	return min(binary.BigEndian.Uint64(b[8:])-binary.BigEndian.Uint64(a[8:]), maxRange) + 1
}
