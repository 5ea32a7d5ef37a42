package wire

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// Limits of names, RFC 1035 section 2.3.4.
const (
	maxLabel    = 63  // octets
	MaxName     = 253 // characters of text, without the trailing dot
	MaxWireName = 255 // octets of a packed name
)

// hostOctets are what the labels of host names are made of.
const hostOctets = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

// IsLabel reports whether s is one label of a host name, RFC 1123 section 2.1.
func IsLabel(s string) bool {
	return s != "" && len(s) <= maxLabel && s[0] != '-' && s[len(s)-1] != '-' && strings.TrimLeft(s, hostOctets) == ""
}

// InDomain splits name, a key, at domain, a key or "" for none. rest has no
// trailing dot and is "" for domain itself; ok is false when name is not in
// domain.
func InDomain(name, domain string) (rest string, ok bool) {
	if domain == "" {
		return "", false
	}
	if name == domain {
		return "", true
	}
	rest, ok = strings.CutSuffix(name, domain)
	if !ok {
		return "", false
	}
	return strings.CutSuffix(rest, ".")
}

// nameEnd returns the length of the name that b begins with; 0 if that is cut,
// longer than 255 octets, or has a pointer.
func nameEnd(b []byte) int {
	for off := 0; off < min(len(b), MaxWireName); off += int(b[off]) + 1 {
		switch {
		case b[off] == 0:
			return off + 1
		case b[off] > maxLabel:
			return 0
		}
	}
	return 0
}

// AppendKey appends the name that b begins with, which must be whole, as the
// text that names are looked up by: in lower case (RFC 4343 section 3) and fully
// qualified, with octets other than those of host names escaped as \DDD.
func AppendKey(dst, b []byte) []byte {
	if b[0] == 0 {
		return append(dst, '.')
	}
	for b[0] != 0 {
		end := int(b[0]) + 1
		for _, c := range b[1:end] {
			if c = foldOctet(c); isPlainOctet(c) {
				dst = append(dst, c)
			} else {
				dst = append(dst, '\\', '0'+c/100, '0'+c/10%10, '0'+c%10)
			}
		}
		dst = append(dst, '.')
		b = b[end:]
	}
	return dst
}

// equalFold compares the octets of two questions; letters are equal in either
// case (RFC 4343 section 3).
func equalFold(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if foldOctet(a[i]) != foldOctet(b[i]) {
			return false
		}
	}
	return true
}

// foldOctet returns c in lower case.
func foldOctet(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + ('a' - 'A')
	}
	return c
}

// isPlainOctet reports whether a lower-case octet is one of a host name.
func isPlainOctet(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// AppendName appends a name without escapes, with or without the trailing dot,
// as it is packed. No label may be longer than 63 octets.
func AppendName(dst []byte, name string) []byte {
	name = strings.TrimSuffix(name, ".")
	if name == "" {
		return append(dst, 0)
	}
	length := len(dst) // where that of the label goes
	dst = append(append(append(dst, 0), name...), 0)
	for i := length + 1; i < len(dst)-1; i++ {
		if dst[i] == '.' {
			dst[length], length = byte(i-length-1), i
		}
	}
	dst[length] = byte(len(dst) - 1 - length - 1)
	return dst
}

// AppendKeyed appends the name that has that key, as it is packed: it undoes AppendKey.
func AppendKeyed(dst []byte, key string) []byte {
	if key == "." {
		return append(dst, 0)
	}
	length := len(dst) // where that of the label goes
	dst = append(dst, 0)
	for i := 0; i < len(key); i++ {
		switch c := key[i]; c {
		case '.':
			dst[length], length = byte(len(dst)-length-1), len(dst)
			dst = append(dst, 0)
		case '\\':
			dst = append(dst, (key[i+1]-'0')*100+(key[i+2]-'0')*10+key[i+3]-'0')
			i += 3
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// KeyOf returns the key of a name without escapes, with or without the trailing dot.
func KeyOf(name string) string {
	if isKey(name) {
		return strings.TrimSuffix(name, ".") + "."
	}
	return string(AppendKey(nil, AppendName(nil, name)))
}

// isKey reports whether name is its own key, but for the trailing dot.
func isKey(name string) bool {
	for i := range len(name) {
		if !isPlainOctet(name[i]) && name[i] != '.' {
			return false
		}
	}
	return true
}

// Above returns the name above key that has that many labels, key itself if it has no more.
func Above(key string, labels int) string {
	at := len(key) - 1
	for ; labels > 0 && at > 0; labels-- {
		at = strings.LastIndexByte(key[:at], '.')
	}
	return key[at+1:]
}

// Domains returns key and the key of each name above it, the root's last.
func Domains(key string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for yield(key) && key != "." {
			_, key, _ = strings.Cut(key, ".")
			key = cmp.Or(key, ".")
		}
	}
}

// Reverse is what a reverse name stands for: all the addresses whose reverse
// names are it or below it.
type Reverse struct {
	Prefix netip.Prefix // a single address when the name is complete
	Below  bool         // further labels stand in front, as in DNS-SD's lb._dns-sd._udp
}

// ParseReverse reads a key from the right as the octets (RFC 1035 section 3.5) or
// nibbles (RFC 3596 section 2.5) of an address. It returns false when that is no
// reverse name, or the one of every address.
func ParseReverse(key string) (r Reverse, ok bool) {
	if labels, ok := strings.CutSuffix(key, ".in-addr.arpa."); ok {
		return parseReverse(labels, make([]byte, 4), 8, 10)
	}
	if labels, ok := strings.CutSuffix(key, ".ip6.arpa."); ok {
		return parseReverse(labels, make([]byte, 16), 4, 16)
	}
	return Reverse{}, false
}

// parseReverse reads text, the labels of a reverse name, into address, which must
// be zero. A label stands for a number of bits, written in a base.
func parseReverse(text string, address []byte, bits, base int) (Reverse, bool) {
	labels := strings.Split(text, ".")
	slices.Reverse(labels)
	n := 0
	for ; n < 8*len(address)/bits && n < len(labels); n++ {
		v, err := strconv.ParseUint(labels[n], base, bits)
		if err != nil || strconv.FormatUint(v, base) != labels[n] {
			break
		}
		address[n*bits/8] |= byte(v) << (8 - bits - n*bits%8)
	}
	a, _ := netip.AddrFromSlice(address)
	return Reverse{Prefix: netip.PrefixFrom(a, n*bits), Below: n < len(labels)}, n > 0
}

// ReverseZone returns the name of the smallest zone that holds the reverse names of
// all of p: p rounded to whole octets or nibbles.
func ReverseZone(p netip.Prefix) string {
	bits := 4 // of a label
	if p.Addr().Is4() {
		bits = 8
	}
	zone, _ := dns.ReverseAddr(p.Addr().String())
	for range p.Addr().BitLen()/bits - p.Bits()/bits {
		_, zone, _ = strings.Cut(zone, ".")
	}
	return zone
}
