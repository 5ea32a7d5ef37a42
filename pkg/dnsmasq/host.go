package dnsmasq

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Host is a dhcp-host, of both families.
type Host struct {
	MACs  []MAC  // each of them is the client; empty: not said
	ID    []byte // of the client, in DHCPv6 its DUID; nil: not said
	Name  string // what the client is called, or known by if there is neither MAC nor ID
	Addrs []netip.Addr
	// LeaseTime is that of the client; 0: not said.
	LeaseTime time.Duration
	Set       []string // tags that the client gets
	Tags      []string // as those of Option
	Ignore    bool     // the client is not answered
	NoID      bool     // the client's identifier in DHCPv4 counts for nothing
}

// MAC is a hardware address.
type MAC struct {
	Addr net.HardwareAddr
	Mask []byte // has a zero for each byte of Addr that may be any; nil: none may
}

// host reads a host with its hardware addresses or identifier, addresses of both
// families, a name, a lease time and tags, in any order.
func (d *DHCP) host(s string) bool {
	var h Host
	for _, f := range fieldsOf(s) {
		if !h.field(f) {
			return false
		}
	}
	if len(h.MACs) == 0 && h.ID == nil && h.Name == "" {
		return false // it is nobody's
	}
	for _, a := range h.Addrs {
		if a.Is6() && h.ID != nil && (len(h.ID) < minDUID || len(h.ID) > maxDUID) {
			return false
		}
	}
	if h.onlyTags() {
		d.tag(&h)
		return true
	}
	d.Hosts = append(d.Hosts, h)
	return true
}

// onlyTags reports whether h does nothing but give tags to clients with certain hardware
// addresses, whatever else is said of them.
func (h *Host) onlyTags() bool {
	return len(h.MACs) > 0 && h.ID == nil && h.Name == "" && len(h.Addrs) == 0 && h.LeaseTime == 0 && len(h.Tags) == 0 && !h.Ignore && !h.NoID
}

// tag gives the clients of h their tags, as clients that are known have them.
func (d *DHCP) tag(h *Host) {
	for _, m := range h.MACs {
		for _, tag := range append([]string{"known"}, h.Set...) {
			r := Rule{Tag: tag, Value: m.Addr, Mask: m.Mask, Step: -1}
			d.Rules, d.Rules6 = append(d.Rules, r), append(d.Rules6, r)
		}
	}
}

// field takes over one field.
func (h *Host) field(f string) bool {
	if a, ok := hostAddr(f); ok {
		h.Addrs = append(h.Addrs, a)
		return a.IsValid()
	}
	if tag := tagOf(f, "set:", "net:"); tag != "" {
		h.Set = append(h.Set, tag)
		return true
	}
	if tag := tagOf(f, "tag:"); tag != "" {
		h.Tags = append(h.Tags, tag)
		return true
	}
	if id, ok := strings.CutPrefix(f, "id:"); ok {
		return h.id(id)
	}
	if mac, mask, ok := pattern(strings.TrimPrefix(f, "1-")); ok && len(mac) == macLen {
		h.MACs = append(h.MACs, MAC{mac, mask})
		return true
	}
	if f == "ignore" {
		h.Ignore = true
		return true
	}
	if d, ok := leaseTime(f); ok && h.LeaseTime == 0 {
		h.LeaseTime = d
		return true
	}
	if h.Name != "" || !isHostName(f) {
		return false
	}
	h.Name = f
	return true
}

// id takes over the identifier of a client: hexadecimal bytes, or text.
func (h *Host) id(s string) bool {
	if s == "*" {
		h.NoID = true
		return true
	}
	if h.ID != nil || s == "" {
		return false
	}
	if !strings.Contains(s, ":") {
		h.ID = []byte(shown(s))
		return len(h.ID) <= maxClientID
	}
	var ok bool
	h.ID, ok = parseBytes(s)
	return ok && len(h.ID) <= maxClientID
}

// hostAddr reads an IPv4 address, or an IPv6 address in brackets, and reports
// whether f is to be one. One that is none is the zero address.
func hostAddr(f string) (netip.Addr, bool) {
	if inner, ok := strings.CutPrefix(f, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		a, err := netip.ParseAddr(inner)
		if err != nil || !ok || !a.Is6() || a.Is4In6() || a.Zone() != "" {
			return netip.Addr{}, true
		}
		return a, true
	}
	a, err := netip.ParseAddr(f)
	return a, err == nil && a.Is4()
}

// leaseTime reads seconds, or a number of minutes, hours, days or weeks; "infinite"
// is for ever.
func leaseTime(s string) (time.Duration, bool) {
	if s == "infinite" {
		return Infinite, true
	}
	n, ok := seconds(s)
	return min(time.Duration(n)*time.Second, Infinite), ok && n != 0
}

// seconds reads a number of seconds or of a longer unit.
func seconds(s string) (uint64, bool) {
	unit := uint64(1)
	if s != "" {
		units := map[byte]uint64{'s': 1, 'm': 60, 'h': 3600, 'd': 86400, 'w': 604800}
		if u, ok := units[s[len(s)-1]|0x20]; ok {
			s, unit = s[:len(s)-1], u
		}
	}
	n, err := strconv.ParseUint(s, 10, 32)
	return n * unit, err == nil
}
