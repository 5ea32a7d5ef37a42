package dnsmasq

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Infinite is the lease time of a lease that never ends, as it is on the wire (RFC
// 2132 section 9.2, RFC 8415 section 7.7).
const Infinite = (1<<32 - 1) * time.Second

// DHCP is what lines say of DHCP, in the order of the lines. Of options of one code
// the last one counts whose tags a client has, and one with tags before one without;
// of boot files it is the same.
type DHCP struct {
	Options []Option
	Hosts   []Host
	Boots   []Boot
	Rules   []Rule
}

// Rule sets a tag for the clients that send what it describes.
type Rule struct {
	Tag string
	// Option is the option that is looked at; 0: the hardware address.
	Option uint8
	// Value is what stands in it: nil, anything.
	Value []byte
	// Mask has a zero for each byte of Value that counts for nothing. Nil: all count.
	Mask []byte
	// Step is how far apart the places are at which Value may stand. 0: it stands at
	// the beginning; negative: it is all that stands there.
	Step int
}

// Boot is a dhcp-boot.
type Boot struct {
	Tags   []string   // as those of Option
	File   string     // at most 255 bytes
	Name   string     // of the server; empty: not said
	Server netip.Addr // zero: not said
}

// parsers are those of the lines about DHCP.
func parsers() map[string]func(*DHCP, string) bool {
	return map[string]func(*DHCP, string) bool{
		"dhcp-option":       func(d *DHCP, s string) bool { return d.option(s, false) },
		"dhcp-option-force": func(d *DHCP, s string) bool { return d.option(s, true) },
		"dhcp-host":         (*DHCP).host,
		"dhcp-boot":         (*DHCP).boot,
		"dhcp-mac":          (*DHCP).mac,
		"dhcp-match":        (*DHCP).match,
		"dhcp-vendorclass":  func(d *DHCP, s string) bool { return d.class(s, 60) },
		"dhcp-userclass":    func(d *DHCP, s string) bool { return d.class(s, 77) },
	}
}

// tagOf returns the tag behind one of prefixes, "" for none.
func tagOf(field string, prefixes ...string) string {
	for _, p := range prefixes {
		if tag, ok := strings.CutPrefix(field, p); ok {
			return shown(tag)
		}
	}
	return ""
}

// mac reads set:TAG,HARDWARE ADDRESS.
func (d *DHCP) mac(s string) bool {
	set, addr, _ := cutField(s)
	value, mask, ok := pattern(addr)
	tag := tagOf(set, "set:", "net:")
	d.Rules = append(d.Rules, Rule{Tag: tag, Value: value, Mask: mask, Step: -1})
	return ok && tag != "" && len(value) == macLen
}

// class reads set:TAG,TEXT, where the text stands anywhere in an option.
func (d *DHCP) class(s string, option uint8) bool {
	set, text, _ := cutField(s)
	tag := tagOf(set, "set:", "net:")
	d.Rules = append(d.Rules, Rule{Tag: tag, Option: option, Value: []byte(shown(text)), Step: 1})
	return tag != "" && text != "" && !strings.HasPrefix(text, "enterprise:")
}

// match reads set:TAG,OPTION,VALUE. The value may be missing.
func (d *DHCP) match(s string) bool {
	set, rest, _ := cutField(s)
	tag := tagOf(set, "set:", "net:")
	code, value, given := cutField(rest)
	r := Rule{Tag: tag, Option: codeOf(code)}
	if tag == "" || r.Option == 0 {
		return false
	}
	if !given {
		d.Rules = append(d.Rules, r)
		return true
	}
	if bytes, mask, ok := pattern(value); ok && strings.Contains(value, ":") {
		r.Value, r.Mask = bytes, mask
	} else {
		v, ok := valueOf(r.Option, value)
		if r.Value, r.Step = v.bytes, 1; !v.text {
			r.Step = max(len(v.bytes), 1)
		}
		if !ok || len(r.Value) == 0 {
			return false
		}
	}
	d.Rules = append(d.Rules, r)
	return true
}

// pattern reads hexadecimal bytes of one or two digits with colons between them,
// where * is any byte. The mask is nil when there is none.
func pattern(s string) (value, mask []byte, ok bool) {
	for part := range strings.SplitSeq(s, ":") {
		if part == "*" {
			value, mask = append(value, 0), append(mask, 0)
			continue
		}
		b, err := strconv.ParseUint(part, 16, 8)
		if err != nil || len(part) > 2 {
			return nil, nil, false
		}
		value, mask = append(value, byte(b)), append(mask, 0xff)
	}
	if !slices.Contains(mask, 0) {
		mask = nil
	}
	return value, mask, true
}

// boot reads [tag:TAG,]FILE[,[SERVER NAME][,SERVER ADDRESS]].
func (d *DHCP) boot(s string) bool {
	var b Boot
	fields := fieldsOf(s)
	for len(fields) > 0 && tagOf(fields[0], "tag:", "net:") != "" {
		b.Tags = append(b.Tags, tagOf(fields[0], "tag:", "net:"))
		fields = fields[1:]
	}
	if len(fields) == 0 || len(fields) > 3 {
		return false
	}
	fields = append(fields, "", "")
	b.File, b.Name = shown(fields[0]), shown(fields[1])
	if fields[2] != "" {
		a, err := netip.ParseAddr(fields[2])
		if b.Server = a; err != nil || !a.Is4() {
			return false
		}
	}
	d.Boots = append(d.Boots, b)
	return b.File != "" && len(b.File) <= 255 && len(b.Name) < 64
}

// Host is an address that a dhcp-host sets aside, of either family.
type Host struct {
	MAC       net.HardwareAddr // nil: not said
	ID        []byte           // of the client, in DHCPv6 its DUID; nil: not said
	Name      string           // what the client is known by if there is neither MAC nor ID
	Addr      netip.Addr
	LeaseTime time.Duration // 0: not said
}

// hostLine is a dhcp-host on the way.
type hostLine struct {
	Host
	addrs []netip.Addr
	tags  []string // to be set
	mask  []byte   // of MAC
}

// host reads a host with its hardware address or identifier, addresses of both
// families, a name, a lease time and tags to set, in any order.
func (d *DHCP) host(s string) bool {
	var h hostLine
	for _, f := range fieldsOf(s) {
		if !h.field(f) {
			return false
		}
	}
	if !h.complete() {
		return false
	}
	for _, tag := range h.tags {
		r := Rule{Tag: tag, Value: h.MAC, Mask: h.mask, Step: -1}
		if h.MAC == nil {
			r.Option, r.Value = optionClientID, h.ID
		}
		d.Rules = append(d.Rules, r)
	}
	for _, a := range h.addrs {
		if h.Addr = a; a.Is6() && h.ID != nil && (len(h.ID) < minDUID || len(h.ID) > maxDUID) {
			return false
		}
		d.Hosts = append(d.Hosts, h.Host)
	}
	return true
}

// complete reports whether the line says who has what, as far as it can be given.
func (h *hostLine) complete() bool {
	known := h.MAC != nil || h.ID != nil
	switch {
	case len(h.tags) > 0 && !known: // who has a name is only known later
		return false
	case h.mask != nil && len(h.addrs) > 0: // several clients can't have one address
		return false
	case len(h.addrs) > 0:
		return known || h.Name != ""
	}
	return len(h.tags) > 0 && h.Name == "" && h.LeaseTime == 0
}

// field takes over one field.
func (h *hostLine) field(f string) bool {
	if a, ok := hostAddr(f); ok {
		h.addrs = append(h.addrs, a)
		return a.IsValid()
	}
	if tag := tagOf(f, "set:", "net:"); tag != "" {
		h.tags = append(h.tags, tag)
		return true
	}
	if id, ok := strings.CutPrefix(f, "id:"); ok {
		return h.id(id)
	}
	if mac, mask, ok := pattern(strings.TrimPrefix(f, "1-")); ok && len(mac) == macLen {
		multiple := h.MAC != nil
		h.MAC, h.mask = mac, mask
		return !multiple
	}
	if d, ok := leaseTime(f); ok && h.LeaseTime == 0 {
		h.LeaseTime = d
		return true
	}
	if h.Name != "" || f == "ignore" || !isHostName(f) {
		return false
	}
	h.Name = f
	return true
}

// id takes over the identifier of a client: hexadecimal bytes, or text.
func (h *hostLine) id(s string) bool {
	if h.ID != nil || s == "" || s == "*" {
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
