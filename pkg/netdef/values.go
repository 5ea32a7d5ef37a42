package netdef

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/pkg/netdef/schema"
	"github.com/vnetd/vnetd/pkg/netdef/xmldoc"
)

// parseTristate reads yes or no.
func parseTristate(s string) (Tristate, error) {
	if t := Tristate(s); t == Yes || t == No {
		return t, nil
	}
	return Unset, errors.New("want yes or no")
}

// parseUint returns a reader of decimal numbers from low to high.
func parseUint[T ~int | ~uint8 | ~uint16 | ~uint32 | ~uint64](low, high uint64) func(string) (T, error) {
	return func(s string) (T, error) {
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil || v < low || v > high {
			return 0, fmt.Errorf("want a number from %d to %d", low, high)
		}
		return T(v), nil
	}
}

// parseWord returns a reader of one of words.
func parseWord(words ...string) func(string) (string, error) {
	return func(s string) (string, error) {
		if slices.Contains(words, s) {
			return s, nil
		}
		return "", fmt.Errorf("want %s", strings.Join(words, " or "))
	}
}

// parseAddr reads an IPv4 or IPv6 address. A zone is refused: it would name an
// interface of this host in a definition that may move to another.
func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, errors.New("not an IP address, want one like 192.0.2.1 or 2001:db8::1")
	}
	if a.Zone() != "" {
		return netip.Addr{}, errors.New("want an IP address without a zone")
	}
	return a, nil
}

// parseMAC reads six octets of one or two hexadecimal digits with colons
// between, as virMacAddrParse does.
func parseMAC(s string) (net.HardwareAddr, error) {
	parts := strings.Split(s, ":")
	mac := make(net.HardwareAddr, 0, 6)
	for _, p := range parts {
		v, err := strconv.ParseUint(p, 16, 8)
		if err != nil || len(p) > 2 || len(parts) != 6 {
			return nil, errors.New("not a MAC address, want six octets like 52:54:00:12:34:56")
		}
		mac = append(mac, byte(v))
	}
	return mac, nil
}

// parseUUID reads a UUID with or without hyphens and returns its canonical
// lower case form.
func parseUUID(s string) (string, error) {
	u, err := ether.ParseUUID(s)
	if err != nil {
		return "", err
	}
	return u.String(), nil
}

// What is wrong with a document.
type (
	Fault  = xmldoc.Fault
	Faults = xmldoc.Faults
)

// Prefix returns the route's destination; invalid if r is.
func (r *Route) Prefix() netip.Prefix {
	if r.Netmask.IsValid() {
		return prefixOf(r.Address, maskLength(r.Netmask))
	}
	if r.HasPrefixLength || r.Address.IsUnspecified() {
		return prefixOf(r.Address, r.PrefixLength)
	}
	return netip.Prefix{}
}

// Prefix returns the address with the length of its subnet, as libvirt finds
// it: from the netmask, from the prefix, or else from the address: class A, B
// or C in IPv4, 64 in IPv6. It is invalid if ip is.
func (ip *IP) Prefix() netip.Prefix {
	switch {
	case ip.PrefixLength > 0:
		return prefixOf(ip.Address, ip.PrefixLength)
	case ip.Netmask.IsValid():
		return prefixOf(ip.Address, maskLength(ip.Netmask))
	}
	return prefixOf(ip.Address, naturalLength(ip.Address))
}

// prefixOf is netip.PrefixFrom that is invalid for a negative length.
func prefixOf(a netip.Addr, length int) netip.Prefix {
	if p := netip.PrefixFrom(a, length); p.IsValid() {
		return p
	}
	return netip.Prefix{}
}

// maskLength returns the number of leading ones of an IPv4 netmask, or -1 if
// it is not a netmask.
func maskLength(mask netip.Addr) int {
	if !mask.Is4() {
		return -1
	}
	ones, size := net.IPMask(mask.AsSlice()).Size()
	if size == 0 {
		return -1
	}
	return ones
}

// naturalLength returns the length of a prefix that was not written: by class
// in IPv4 (RFC 791 section 3.2), 64 in IPv6; -1 if there is none.
func naturalLength(a netip.Addr) int {
	if a.Is6() {
		return 64
	}
	if !a.Is4() {
		return -1
	}
	switch first := a.As4()[0]; {
	case first < 128:
		return 8
	case first < 192:
		return 16
	case first < 224:
		return 24
	}
	return -1
}

// ours returns the only child of that name in vnetd's namespace, and adds a
// fault for each more.
func ours(e xmldoc.Element, name string) (xmldoc.Element, bool) {
	path := e.Path + "/vnetd:" + name
	var first *xmldoc.Node
	for _, kid := range e.Kids {
		switch {
		case kid.Space != schema.NamespaceVnetd || kid.Name != name:
		case first == nil:
			first = kid
		default:
			e.At(kid, path).KeepRaw = true // nothing inside is a fault of its own
			e.Faults.Addf(path, "", "only one <vnetd:%s> is allowed", name)
		}
	}
	if first == nil {
		return xmldoc.Element{}, false
	}
	return e.At(first, path), true
}
