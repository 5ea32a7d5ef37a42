package netdef

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/pkg/netdef/policy"
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

// Key tells the forward from all others of its network: "tcp/8080-8089", with an
// address "tcp/192.0.2.1:8080".
func (f *PortForward) Key() string {
	if !f.Address.IsValid() {
		return f.Protocol + "/" + f.Ports.String()
	}
	return f.Protocol + "/" + f.AddressPorts()
}

// AddressPorts are the address and the ports, as "192.0.2.1:80" or "[2001:db8::1]:80-89".
func (f *PortForward) AddressPorts() string {
	host := f.Address.String()
	if f.Address.Is6() {
		host = "[" + host + "]"
	}
	return host + ":" + f.Ports.String()
}

// String is the range as a document has it: "80", or "80-89".
func (r PortRange) String() string { return policy.Ports(r).String() }

// ParsePortRange reads "80" or "80-89".
func ParsePortRange(s string) (PortRange, error) {
	p, err := policy.ParsePorts(s)
	if err != nil {
		return PortRange{}, errors.New("want a port from 1 to 65535, or a range like 8080-8089")
	}
	return PortRange(p), nil
}

// Target is what To is: one of an IP address, a MAC address and a name.
func (f *PortForward) Target() (addr netip.Addr, mac, name string) {
	if a, err := parseAddr(f.To); err == nil {
		return a, "", ""
	}
	if m, err := parseMAC(f.To); err == nil {
		return netip.Addr{}, m.String(), ""
	}
	return netip.Addr{}, "", f.To
}

// Covers reports whether the forward is for addresses of a family of this host, and of a
// target of that family.
func (f *PortForward) Covers(is4 bool) bool { return !f.Address.IsValid() || f.Address.Is4() == is4 }

// AnyAddress reports whether the forward is for every address of a family.
func (f *PortForward) AnyAddress() bool { return !f.Address.IsValid() || f.Address.IsUnspecified() }

// Rules is how many rules the forward takes of a firewall for each of its directions: one
// for each of its senders, and for each of its ports where the guest's are others.
func (f *PortForward) Rules() int {
	n := max(len(f.From), 1)
	if f.ToPort != 0 && f.ToPort != f.Ports.Start {
		n *= int(f.Ports.End-f.Ports.Start) + 1
	}
	return n
}

// Clashes reports whether something sent to this host would be for both forwards.
func (f *PortForward) Clashes(o *PortForward) bool {
	if f.Protocol != o.Protocol || !f.Ports.overlaps(o.Ports) {
		return false
	}
	switch {
	case !f.Address.IsValid() || !o.Address.IsValid():
		return true
	case f.Address.Is4() != o.Address.Is4():
		return false
	}
	return f.Address == o.Address || f.Address.IsUnspecified() || o.Address.IsUnspecified()
}

// portIndex finds the forwards among many that have a port, without a look at all of them.
type portIndex struct {
	all []PortForward
	// order are places in all, by the first port, and last is the highest port of those up
	// to each in that order.
	order []int
	last  []uint16
}

func indexPorts(all []PortForward) portIndex {
	x := portIndex{all: all, order: make([]int, len(all)), last: make([]uint16, len(all))}
	for i := range all {
		x.order[i] = i
	}
	slices.SortFunc(x.order, func(a, b int) int { return cmp.Compare(all[a].Ports.Start, all[b].Ports.Start) })
	for i, at := range x.order {
		x.last[i] = all[at].Ports.End
		if i > 0 {
			x.last[i] = max(x.last[i], x.last[i-1])
		}
	}
	return x
}

// clashing are the places of the forwards that clash with f, ascending; f itself is one where
// it is among them.
func (x *portIndex) clashing(f *PortForward) (places []int) {
	beyond, _ := slices.BinarySearchFunc(x.order, f.Ports.End, func(at int, port uint16) int {
		if x.all[at].Ports.Start <= port {
			return -1
		}
		return 1
	})
	for i := beyond - 1; i >= 0 && x.last[i] >= f.Ports.Start; i-- {
		if f.Clashes(&x.all[x.order[i]]) {
			places = append(places, x.order[i])
		}
	}
	slices.Sort(places)
	return places
}

// overlaps reports whether a port is in both ranges.
func (r PortRange) overlaps(o PortRange) bool { return r.Start <= o.End && o.Start <= r.End }

// DropHeld drops the forwards that have a holder: a definition has none.
func (n *Network) DropHeld() {
	n.PortForwards = slices.DeleteFunc(n.PortForwards, func(f PortForward) bool { return f.Holder != "" })
}

// natPorts is the range of <nat><port>, where it is written and not the default.
func (n *Network) natPorts() (r PortRange, ok bool) {
	if n.Forward == nil || n.Forward.NAT == nil || n.Forward.NAT.Port == nil {
		return PortRange{}, false
	}
	r = *n.Forward.NAT.Port
	return r, r != PortRange{Start: 1024, End: 65535}
}
