package dnsmasq

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Option is a dhcp-option or dhcp-option-force.
type Option struct {
	Code uint16
	// Value is nil when the option is not to be sent, nor what stands in its place
	// otherwise; empty when it is sent without a value.
	Value []byte
	Addrs bool // Value is a list of addresses, in which some mean our own, see At
	Force bool // it is sent to clients, too, that don't ask for it

	// Tags are those that a client must have; behind a ! one that it must not have.
	Tags []string
	// Encap is the option in which this one stands as a part; 0: in none.
	Encap uint8
	// Enterprise is whose part of Encap this one is in, when that is option 125 of DHCPv4
	// or 17 of DHCPv6.
	Enterprise uint32
	// Vendor is what stands in the vendor class (option 60) of clients that are sent
	// this one in option 43, when Encap is that; "": all.
	Vendor string
}

// Options with a meaning of their own.
const (
	optionVendor          = 43
	optionT1              = 58
	optionT2              = 59
	optionVendorClass     = 60
	optionTFTPServer      = 66
	optionBootFile        = 67
	optionUserClass       = 77
	optionSearch          = 119
	optionSIP             = 120
	optionRoutes          = 121
	optionEnterpriseClass = 124
	optionEnterprises     = 125
	optionMSRoutes        = 249

	option6UserClass   = 15
	option6VendorClass = 16
	option6Vendors     = 17
	option6NTP         = 56
)

// At returns the value of the option on the link where server is our address, of the
// option's family; nil when it is not to be sent. In a list of addresses 0.0.0.0 and ::
// mean our own, and fd00:: as well if that is a unique local one (RFC 4193): else it
// means none.
func (o *Option) At(server netip.Addr) []byte {
	if !o.Addrs {
		return o.Value
	}
	if server.Is4() {
		value := slices.Clone(o.Value)
		for a := range slices.Chunk(value, net.IPv4len) {
			if [net.IPv4len]byte(a) == ([net.IPv4len]byte{}) {
				copy(a, server.AsSlice())
			}
		}
		return value
	}
	var value []byte
	for raw := range slices.Chunk(o.Value, net.IPv6len) {
		a := netip.AddrFrom16([net.IPv6len]byte(raw))
		switch {
		case a.IsUnspecified():
			a = server
		case a != uniqueLocal:
		case server.IsPrivate():
			a = server
		default:
			continue
		}
		if o.Code == option6NTP {
			value = append(value, ntpSource(a)...)
		}
		value = append(value, a.AsSlice()...)
	}
	return value
}

// uniqueLocal is written for our own unique local address, linkLocal for the link-local
// one.
var (
	uniqueLocal = netip.MustParseAddr("fd00::")
	linkLocal   = netip.MustParseAddr("fe80::")
)

// ntpSource returns what stands before an address of a time server (RFC 5908, sections
// 4.1 and 4.2): its kind and length.
func ntpSource(a netip.Addr) []byte {
	if a.IsMulticast() {
		return []byte{0, 2, 0, net.IPv6len}
	}
	return []byte{0, 1, 0, net.IPv6len}
}

// option reads [tag:TAG,][encap:OPTION,|vi-encap:ENTERPRISE,|vendor:CLASS,]OPTION[,VALUE].
func (d *DHCP) option(s string, force bool) bool {
	o := Option{Force: force}
	code, rest, given := cutField(s)
	for o.prefix(code) {
		code, rest, given = cutField(rest)
	}
	number, v6, ok := codeOf(code)
	if o.Code = number; v6 {
		ok = ok && o.set6(rest, given)
		d.Options6 = append(d.Options6, o)
		return ok
	}
	if o.Encap != 0 {
		ok = o.setPart(code, rest, given)
	} else {
		ok = ok && o.set(rest, given)
	}
	d.Options = append(d.Options, o)
	return ok && len(o.Value) <= maxValue(&o)
}

// set takes over the value of an option, which may not be given.
func (o *Option) set(s string, given bool) bool {
	if !settable(o.Code) {
		return false
	}
	v, ok := value{bytes: []byte{}}, true
	if given {
		v, ok = valueOf(o.Code, false, s)
	}
	o.Value, o.Addrs = v.bytes, v.addrs
	switch {
	case len(o.Value) == 0 && defaulted(o.Code):
		o.Value = nil
	case len(o.Value) > 0 && (o.Code == optionTFTPServer || o.Code == optionBootFile):
		o.Value = append(o.Value, 0) // as the firmware of old cards wants it
	case o.Code == optionT1 || o.Code == optionT2:
		ok = ok && len(o.Value) == 4
	}
	return ok
}

// set6 is set for DHCPv6.
func (o *Option) set6(s string, given bool) bool {
	code := o.Code
	switch o.Encap {
	case optionEnterprises:
		o.Encap, code = option6Vendors, 0
	case 0:
		if !settable6(code) {
			return false
		}
	default:
		return false // nothing else stands in another option there
	}
	v, ok := value{bytes: []byte{}}, true
	if given {
		v, ok = valueOf(code, true, s)
	}
	o.Value, o.Addrs = v.bytes, v.addrs
	return ok && len(o.Value) <= maxValue6
}

// setPart is set for a part of an option, whose numbers have no meaning of their own.
func (o *Option) setPart(code, s string, given bool) bool {
	n, err := strconv.ParseUint(code, 10, 8)
	v, ok := value{bytes: []byte{}}, true
	if given {
		v, ok = valueOf(0, false, s)
	}
	o.Code, o.Value, o.Addrs = uint16(n), v.bytes, false
	return ok && err == nil && n != 0 && n != 255 && settable(uint16(o.Encap))
}

// maxValue6 is how long a value of DHCPv6 may be, so that a reply has room for it beside
// what a client needs.
const maxValue6 = 1024

// maxValue returns how long a value may be, for the option to have room in its own.
func maxValue(o *Option) int {
	switch o.Encap {
	case 0:
		return 255
	case optionEnterprises:
		return 250
	default:
		return 252
	}
}

// prefix takes over what stands before the number or name of an option, and reports
// whether f is of that.
func (o *Option) prefix(f string) bool {
	if tag := tagOf(f, "tag:", "net:"); tag != "" {
		o.Tags = append(o.Tags, tag)
		return true
	}
	if o.Encap != 0 {
		return false
	}
	if class, ok := strings.CutPrefix(f, "vendor:"); ok && class != "" {
		o.Encap, o.Vendor = optionVendor, shown(class)
		return true
	}
	if n, ok := strings.CutPrefix(f, "encap:"); ok {
		code, err := strconv.ParseUint(n, 10, 8)
		o.Encap = uint8(code)
		return err == nil && code != 0 && code != 255
	}
	if n, ok := strings.CutPrefix(f, "vi-encap:"); ok {
		enterprise, err := strconv.ParseUint(n, 10, 32)
		o.Encap, o.Enterprise = optionEnterprises, uint32(enterprise)
		return err == nil
	}
	return false
}

// codeOf reads a number or one of dnsmasq's names, of DHCPv6 behind "option6:". It
// reports whether s is one.
func codeOf(s string) (code uint16, v6, ok bool) {
	known, largest := knownOptions(), uint64(254)
	if s, v6 = strings.CutPrefix(s, "option6:"); v6 {
		known, largest = knownOptions6(), 1<<16-1
	}
	name, named := strings.CutPrefix(s, "option:")
	if named && v6 {
		return 0, v6, false
	}
	for _, o := range known {
		if (named || v6) && o.name == name && name != "" {
			return o.code, v6, true
		}
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), v6, err == nil && n != 0 && n <= largest
}

// settable reports whether an option may be configured: those that the protocol
// itself needs may not.
func settable(code uint16) bool {
	switch code {
	case 0, 50, 51, 52, 53, 54, 55, 56, 57, 61, 80, 81, 82, 255:
		return false
	default:
		return true
	}
}

// settable6 is settable for DHCPv6 (RFC 8415, section 21).
func settable6(code uint16) bool {
	switch {
	case code <= 14, code >= 17 && code <= 20, code == 25, code == 26, code == 39:
		return false
	default:
		return true
	}
}

// defaulted reports whether a server sends the option by itself: without a value
// dhcp-option takes it away. Those that dnsmasq does not send are among them.
func defaulted(code uint16) bool {
	return slices.Contains([]uint16{1, 3, 6, 12, 15, 26, 28, optionSearch, optionRoutes, optionMSRoutes}, code)
}
