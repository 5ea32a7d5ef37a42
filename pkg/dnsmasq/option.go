package dnsmasq

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vnetd/vnetd/internal/dnsname"
)

// Option is a dhcp-option or dhcp-option-force of DHCPv4.
type Option struct {
	Code uint8
	// Value is nil when the option is not to be sent, nor what stands in its place
	// otherwise; empty when it is sent without a value.
	Value []byte
	Addrs bool // Value is a list of addresses, in which 0.0.0.0 means our own
	Force bool // it is sent to clients, too, that don't ask for it

	// Tags are those that a client must have; behind a ! one that it must not have.
	Tags []string
	// Encap is the option in which this one stands as a part; 0: in none.
	Encap uint8
	// Enterprise is whose part of option 125 this one is in, when Encap is that.
	Enterprise uint32
	// Vendor is what stands in the vendor class (option 60) of clients that are sent
	// this one in option 43, when Encap is that; "": all.
	Vendor string
}

// Options with a meaning of their own.
const (
	optionVendor      = 43
	optionClientID    = 61
	optionTFTPServer  = 66
	optionBootFile    = 67
	optionSearch      = 119
	optionSIP         = 120
	optionRoutes      = 121
	optionEnterprises = 125
	optionMSRoutes    = 249
)

// At returns the value of the option on the link where server is our address.
func (o *Option) At(server netip.Addr) []byte {
	if !o.Addrs || !server.Is4() {
		return o.Value
	}
	value := slices.Clone(o.Value)
	for a := range slices.Chunk(value, net.IPv4len) {
		if [net.IPv4len]byte(a) == ([net.IPv4len]byte{}) {
			copy(a, server.AsSlice())
		}
	}
	return value
}

// option reads [tag:TAG,][encap:OPTION,|vi-encap:ENTERPRISE,|vendor:CLASS,]OPTION[,VALUE].
func (d *DHCP) option(s string, force bool) bool {
	o := Option{Force: force}
	code, rest, given := cutField(s)
	for o.prefix(code) {
		code, rest, given = cutField(rest)
	}
	ok := o.set(code, rest, given)
	if o.Encap != 0 {
		ok = o.setPart(code, rest, given)
	}
	d.Options = append(d.Options, o)
	return ok && len(o.Value) <= maxValue(&o)
}

// set takes over the number or name and the value of an option, which may not be
// given.
func (o *Option) set(code, s string, given bool) bool {
	if o.Code = codeOf(code); !settable(o.Code) {
		return false
	}
	v, ok := value{bytes: []byte{}}, true
	if given {
		v, ok = valueOf(o.Code, s)
	}
	o.Value, o.Addrs = v.bytes, v.addrs
	switch {
	case len(o.Value) == 0 && defaulted(o.Code):
		o.Value = nil
	case len(o.Value) > 0 && (o.Code == optionTFTPServer || o.Code == optionBootFile):
		o.Value = append(o.Value, 0) // as the firmware of old cards wants it
	}
	return ok
}

// setPart is set for a part of an option, whose numbers have no meaning of their own.
func (o *Option) setPart(code, s string, given bool) bool {
	n, err := strconv.ParseUint(code, 10, 8)
	v, ok := value{bytes: []byte{}}, true
	if given {
		v, ok = valueOf(0, s)
	}
	o.Code, o.Value, o.Addrs = uint8(n), v.bytes, false
	return ok && err == nil && n != 0 && n != 255 && settable(o.Encap)
}

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

// codeOf reads a number or one of dnsmasq's names; 0 for what is none.
func codeOf(s string) uint8 {
	if name, ok := strings.CutPrefix(s, "option:"); ok {
		for _, known := range knownOptions() {
			if known.name == name && name != "" {
				return known.code
			}
		}
		return 0
	}
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil || n == 255 {
		return 0
	}
	return uint8(n)
}

// settable reports whether an option may be configured: those that the protocol
// itself needs may not.
func settable(code uint8) bool {
	switch code {
	case 0, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 61, 80, 81, 82, 255:
		return false
	default:
		return true
	}
}

// defaulted reports whether a server sends the option by itself: without a value
// dhcp-option takes it away. Those that dnsmasq does not send are among them.
func defaulted(code uint8) bool {
	return slices.Contains([]uint8{1, 3, 6, 12, 15, 26, 28, optionSearch, optionRoutes, optionMSRoutes}, code)
}

// kind is how the value of an option is written.
type kind uint8

const (
	kindGuess kind = iota // as it looks
	kindAddrs
	kindText
	kindByte
	kindShort
	kindLong
)

// knownOption is an option that has a name, or whose value is not as it looks.
type knownOption struct {
	name string
	code uint8
	kind kind
}

// knownOptions returns dnsmasq's names of options (dnsmasq --help dhcp) and how their
// values are written. Those without a name are known by number alone.
func knownOptions() []knownOption {
	return []knownOption{
		{"netmask", 1, kindAddrs},
		{"time-offset", 2, kindLong},
		{"router", 3, kindAddrs},
		{"dns-server", 6, kindAddrs},
		{"log-server", 7, kindAddrs},
		{"lpr-server", 9, kindAddrs},
		{"", 12, kindText},
		{"boot-file-size", 13, kindShort},
		{"domain-name", 15, kindText},
		{"swap-server", 16, kindAddrs},
		{"root-path", 17, kindText},
		{"extension-path", 18, kindText},
		{"ip-forward-enable", 19, kindByte},
		{"non-local-source-routing", 20, kindByte},
		{"policy-filter", 21, kindAddrs},
		{"max-datagram-reassembly", 22, kindShort},
		{"default-ttl", 23, kindByte},
		{"mtu", 26, kindShort},
		{"all-subnets-local", 27, kindByte},
		{"", 28, kindAddrs},
		{"router-discovery", 31, kindByte},
		{"router-solicitation", 32, kindAddrs},
		{"static-route", 33, kindAddrs},
		{"trailer-encapsulation", 34, kindByte},
		{"arp-timeout", 35, kindLong},
		{"ethernet-encap", 36, kindByte},
		{"tcp-ttl", 37, kindByte},
		{"tcp-keepalive", 38, kindLong},
		{"nis-domain", 40, kindText},
		{"nis-server", 41, kindAddrs},
		{"ntp-server", 42, kindAddrs},
		{"netbios-ns", 44, kindAddrs},
		{"netbios-dd", 45, kindAddrs},
		{"netbios-nodetype", 46, kindByte},
		{"netbios-scope", 47, kindGuess},
		{"x-windows-fs", 48, kindAddrs},
		{"x-windows-dm", 49, kindAddrs},
		{"vendor-class", 60, kindGuess},
		{"nis+-domain", 64, kindText},
		{"nis+-server", 65, kindAddrs},
		{"tftp-server", 66, kindText},
		{"bootfile-name", 67, kindText},
		{"mobile-ip-home", 68, kindAddrs},
		{"smtp-server", 69, kindAddrs},
		{"pop3-server", 70, kindAddrs},
		{"nntp-server", 71, kindAddrs},
		{"irc-server", 74, kindAddrs},
		{"user-class", 77, kindGuess},

		{"client-arch", 93, kindShort},
		{"client-interface-id", 94, kindGuess},
		{"client-machine-id", 97, kindGuess},
		{"posix-timezone", 100, kindText},
		{"tzdb-timezone", 101, kindText},
		{"ipv6-only", 108, kindLong},
		{"domain-search", optionSearch, kindText},
		{"sip-server", optionSIP, kindGuess},
		{"classless-static-route", optionRoutes, kindGuess},
		{"vendor-id-encap", optionEnterprises, kindGuess},
		{"tftp-server-address", 150, kindAddrs},
	}
}

// value is the value of an option.
type value struct {
	bytes       []byte
	addrs, text bool
}

// valueOf reads the value of an option, 0 for a part of another one, as dnsmasq
// does: by its kind, or by what it looks like.
func valueOf(code uint8, s string) (value, bool) {
	k := kindGuess
	if i := slices.IndexFunc(knownOptions(), func(o knownOption) bool { return o.code == code }); i >= 0 {
		k = knownOptions()[i].kind
	}
	switch {
	case s == "":
		return value{bytes: []byte{}, text: true}, k != kindAddrs
	case k == kindText && code == optionSearch:
		return namesValue(nil, s)
	case k == kindText:
		return value{bytes: []byte(shown(s)), text: true}, true
	case k == kindAddrs:
		return addrsValue(code, s)
	}
	if looksHex(s) {
		b, ok := parseBytes(s)
		return value{bytes: b}, ok
	}
	if size := map[kind]int{kindByte: 1, kindShort: 2, kindLong: 4}[k]; looksNumber(s) {
		return numberValue(size, s)
	}
	switch {
	case looksAddrs(s):
		return addrsValue(code, s)
	case code == optionSIP:
		return namesValue([]byte{0}, s)
	case k != kindGuess, code == optionRoutes, code == optionMSRoutes, len(s) == 1 && strings.Contains("bsi", s): // dnsmasq takes the latter for a size
		return value{}, false
	}
	return value{bytes: []byte(shown(s)), text: true}, true
}

// looksHex reports whether s is hexadecimal bytes, two at least.
func looksHex(s string) bool {
	return strings.Contains(s, ":") && strings.Trim(s, "0123456789abcdefABCDEF:") == ""
}

// looksNumber reports whether s is a number, with a letter for its size behind it.
func looksNumber(s string) bool {
	if last := s[len(s)-1]; strings.IndexByte("bsi", last) >= 0 {
		s = s[:len(s)-1]
	}
	return strings.ContainsAny(s, "0123456789") && strings.Trim(s, "0123456789-") == ""
}

// looksAddrs reports whether s is a list of addresses, or of prefixes.
func looksAddrs(s string) bool {
	return s[0] != '/' && strings.ContainsAny(s, "0123456789") && strings.Trim(s, "0123456789.,/ ") == ""
}

// numberValue reads a number of that many bytes; 0: as many as it needs. A letter
// behind it says one byte (b), two (s) or four (i).
func numberValue(size int, s string) (value, bool) {
	if i := strings.IndexByte("bsi", s[len(s)-1]); i >= 0 {
		size, s = 1<<i, s[:len(s)-1]
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < -1<<31 || n > 1<<32-1 {
		return value{}, false
	}
	if size == 0 {
		switch {
		case n < 0 || n > 0xffff:
			size = 4
		case n > 0xff:
			size = 2
		default:
			size = 1
		}
	}
	if n >= 1<<(8*size) || n < -1<<(8*size-1) {
		return value{}, false
	}
	return value{bytes: binary.BigEndian.AppendUint32(nil, uint32(n))[4-size:]}, true
}

// addrsValue reads addresses, with a length behind a slash in the form of RFC 3442:
// the length, and as many bytes as it covers.
func addrsValue(code uint8, s string) (value, bool) {
	v := value{addrs: true}
	fields := fieldsOf(s)
	if code == optionSIP {
		v.bytes, v.addrs = []byte{1}, false // RFC 3361, section 3.2: addresses follow
	}
	for i, f := range fields {
		host, length, prefix := strings.Cut(f, "/")
		a, err := netip.ParseAddr(host)
		if err != nil || !a.Is4() {
			return v, false
		}
		if routes := code == optionRoutes || code == optionMSRoutes; routes && prefix != (i%2 == 0) {
			return v, false
		}
		raw := a.AsSlice()
		if prefix {
			bits, err := strconv.ParseUint(length, 10, 8)
			if err != nil || bits > 32 {
				return v, false
			}
			v.addrs = false
			v.bytes, raw = append(v.bytes, byte(bits)), raw[:(bits+7)/8]
		}
		v.bytes = append(v.bytes, raw...)
	}
	if code == optionRoutes || code == optionMSRoutes {
		return v, len(fields)%2 == 0
	}
	return v, true
}

// namesValue reads domains in DNS wire format (RFC 1035 section 3.1) behind head,
// each with a pointer to where the rest of it stands before (RFC 3397 section 2).
func namesValue(head []byte, s string) (value, bool) {
	var b []byte
	at := make(map[string]int)
	for _, name := range fieldsOf(s) {
		name = strings.TrimSuffix(shown(name), ".")
		ascii, err := dnsname.Host(name)
		if err != nil {
			return value{}, false
		}
		for ascii != "" {
			if where, ok := at[ascii]; ok {
				b = append(b, 0xc0|byte(where>>8), byte(where))
				break
			}
			label, rest, _ := strings.Cut(ascii, ".")
			at[ascii] = len(b)
			b = append(append(b, byte(len(label))), label...)
			if ascii = rest; ascii == "" {
				b = append(b, 0)
			}
		}
	}
	return value{bytes: append(head, b...), text: true}, true
}
