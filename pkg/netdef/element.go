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
)

// element is a node in the hands of the decoder: reading marks what was read,
// and a value that can't be read becomes a fault.
type element struct {
	*node
	faults *Faults
}

// at marks n as read under path.
func (e element) at(n *node, path string) element {
	n.path = path
	return element{node: n, faults: e.faults}
}

// first returns the first child of that name. Any further one is left unread,
// as libvirt does.
func (e element) first(name string) (element, bool) {
	for _, kid := range e.kids {
		if kid.name == name && kid.space == "" {
			return e.at(kid, e.path+"/"+name), true
		}
	}
	return element{}, false
}

// all returns the children of that name in order.
func (e element) all(name string) []element { return e.children("", name) }

// children is all for a namespace.
func (e element) children(space, name string) []element {
	var list []element
	for _, kid := range e.kids {
		if kid.name == name && kid.space == space {
			list = append(list, e.at(kid, fmt.Sprintf("%s/%s[%d]", e.path, kid.qname, len(list)+1)))
		}
	}
	return list
}

// attr returns an attribute and whether it is there.
func (e element) attr(name string) (string, bool) {
	for _, a := range e.attrs {
		if a.name == name && a.space == "" {
			a.used = true
			return a.value, true
		}
	}
	return "", false
}

// str returns an attribute as it is; empty and absent are the same.
func (e element) str(name string) string {
	s, _ := e.attr(name)
	return s
}

// content returns the text of the first child of that name; empty and absent
// are the same.
func (e element) content(name string) string {
	if kid, ok := e.first(name); ok {
		return string(kid.text)
	}
	return ""
}

// value reads an attribute with parse. It returns the zero value if the
// attribute is absent, and adds a fault if it can't be read.
func value[T any](e element, name string, parse func(string) (T, error)) T {
	var zero T
	s, ok := e.attr(name)
	if !ok {
		return zero
	}
	v, err := parse(s)
	if err != nil {
		e.fault("@"+name, s, err.Error())
		return zero
	}
	return v
}

// fault adds a fault at a place relative to e.
func (e element) fault(at, val, problem string) {
	e.faults.add(e.path+"/"+at, val, problem)
}

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
