package dnsmasq

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/vnetd/vnetd/internal/dnsname"
)

// kind is how the value of an option is written.
type kind uint8

const (
	kindGuess kind = iota // as it looks
	kindAddrs
	kindText
	kindByte
	kindShort
	kindLong
	kindTime    // seconds, or a number of a longer unit
	kindNames   // in DNS wire format (RFC 1035 section 3.1)
	kindStrings // each behind its length (RFC 8415 section 21.15)
)

// knownOption is an option that has a name, or whose value is not as it looks.
type knownOption struct {
	name string
	code uint16
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
		{"T1", optionT1, kindTime},
		{"T2", optionT2, kindTime},
		{"vendor-class", optionVendorClass, kindGuess},
		{"nis+-domain", 64, kindText},
		{"nis+-server", 65, kindAddrs},
		{"tftp-server", optionTFTPServer, kindText},
		{"bootfile-name", optionBootFile, kindText},
		{"mobile-ip-home", 68, kindAddrs},
		{"smtp-server", 69, kindAddrs},
		{"pop3-server", 70, kindAddrs},
		{"nntp-server", 71, kindAddrs},
		{"irc-server", 74, kindAddrs},
		{"user-class", optionUserClass, kindGuess},

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

// knownOptions6 is knownOptions for DHCPv6 (dnsmasq --help dhcp6).
func knownOptions6() []knownOption {
	return []knownOption{
		{"", option6UserClass, kindStrings},
		{"", option6VendorClass, kindStrings},
		{"sip-server-domain", 21, kindNames},
		{"sip-server", 22, kindAddrs},
		{"dns-server", 23, kindAddrs},
		{"domain-search", 24, kindNames},
		{"nis-server", 27, kindAddrs},
		{"nis+-server", 28, kindAddrs},
		{"nis-domain", 29, kindNames},
		{"nis+-domain", 30, kindNames},
		{"sntp-server", 31, kindAddrs},
		{"information-refresh-time", 32, kindTime},
		{"posix-timezone", 41, kindText},
		{"tzdb-timezone", 42, kindText},
		{"ntp-server", option6NTP, kindGuess},
		{"bootfile-url", 59, kindText},
		{"bootfile-param", 60, kindStrings},
	}
}

// value is the value of an option.
type value struct {
	bytes       []byte
	addrs, text bool
}

// kindOf returns how the value of an option is written.
func kindOf(code uint16, v6 bool) kind {
	known := knownOptions()
	if v6 {
		known = knownOptions6()
	}
	for _, o := range known {
		if o.code == code {
			return o.kind
		}
	}
	return kindGuess
}

// valueOf reads the value of an option, 0 for a part of another one, as dnsmasq
// does: by its kind, or by what it looks like.
func valueOf(code uint16, v6 bool, s string) (value, bool) {
	k := kindOf(code, v6)
	switch {
	case s == "":
		return value{bytes: []byte{}, text: true}, k != kindAddrs
	case k == kindText && code == optionSearch && !v6:
		return namesValue(nil, s, true)
	case k == kindNames:
		return namesValue(nil, s, false)
	case k == kindStrings:
		return stringsValue(s)
	case k == kindText:
		return textValue(s), true
	case k == kindTime && !strings.HasSuffix(s, "i"):
		t, ok := leaseTime(s)
		return value{bytes: binary.BigEndian.AppendUint32(nil, uint32(t/time.Second))}, ok
	case k == kindAddrs && v6:
		return addrs6Value(s)
	case k == kindAddrs:
		return addrsValue(code, s)
	default:
		return looksValue(code, v6, k, s)
	}
}

// looksValue reads a value by what it looks like, s, which is not empty.
func looksValue(code uint16, v6 bool, k kind, s string) (value, bool) {
	routes := !v6 && (code == optionRoutes || code == optionMSRoutes)
	switch {
	case looksHex(s):
		b, ok := parseBytes(s)
		return value{bytes: b}, ok
	case looksNumber(s):
		return numberValue(map[kind]int{kindByte: 1, kindShort: 2, kindLong: 4, kindTime: 4}[k], s)
	case v6 && looksAddrs6(s):
		return addrs6Value(s)
	case !v6 && looksAddrs(s):
		return addrsValue(code, s)
	case !v6 && code == optionSIP:
		return namesValue([]byte{0}, s, true)
	case k != kindGuess, routes, len(s) == 1 && strings.Contains("bsi", s): // dnsmasq takes the latter for a size
		return value{}, false
	default:
		return textValue(s), true
	}
}

// textValue is a text as it stands.
func textValue(s string) value { return value{bytes: []byte(shown(s)), text: true} }

// looksAddrs6 reports whether s is a list of IPv6 addresses.
func looksAddrs6(s string) bool {
	return strings.Contains(s, ":") && strings.ContainsAny(s, "0123456789") && strings.Trim(s, "0123456789abcdefABCDEF:,.[]") == "" ||
		strings.HasPrefix(s, "[::]")
}

// addrs6Value reads IPv6 addresses, in brackets or not. Our link-local address is not
// known here.
func addrs6Value(s string) (value, bool) {
	v := value{addrs: true}
	for _, f := range fieldsOf(s) {
		a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(f, "["), "]"))
		if err != nil || !a.Is6() || a.Is4In6() || a.Zone() != "" || a == linkLocal {
			return v, false
		}
		v.bytes = append(v.bytes, a.AsSlice()...)
	}
	return v, true
}

// stringsValue reads texts, each of which stands behind its length.
func stringsValue(s string) (value, bool) {
	v := value{text: true}
	for _, f := range fieldsOf(s) {
		f = shown(f)
		v.bytes = append(binary.BigEndian.AppendUint16(v.bytes, uint16(len(f))), f...)
	}
	return v, true
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
func addrsValue(code uint16, s string) (value, bool) {
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

// namesValue reads domains in DNS wire format (RFC 1035 section 3.1) behind head, each
// with a pointer to where the rest of it stands before (RFC 3397 section 2), if
// compressed.
func namesValue(head []byte, s string, compressed bool) (value, bool) {
	var b []byte
	at := make(map[string]int)
	for _, name := range fieldsOf(s) {
		name = strings.TrimSuffix(shown(name), ".")
		ascii, err := dnsname.Host(name)
		if err != nil {
			return value{}, false
		}
		for ascii != "" {
			if where, ok := at[ascii]; ok && compressed {
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
