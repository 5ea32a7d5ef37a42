package dnsd

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Limits of names, RFC 1035 section 2.3.4. A name of 253 characters, written
// without the trailing dot, is one of 255 octets.
const (
	maxLabel = 63
	maxName  = 253

	maxWireName = 255
)

// isHostName tells whether s, without a trailing dot, is made of labels of
// letters, digits, hyphens and underscores only, so that it needs no escapes in
// presentation form.
func isHostName(s string) bool {
	if len(s) > maxName {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !isLabel(label) {
			return false
		}
	}
	return true
}

// isLabel tells whether s is one label of a host name, RFC 1123 section 2.1.
func isLabel(s string) bool {
	if s == "" || len(s) > maxLabel || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
			return false
		}
		return true
	})
}

// isClaimable tells whether a guest may have the label as its name. Not those
// that others look up for a service rather than for a host: localhost (RFC 6761
// section 6.3), wpad (whoever has it is everyone's web proxy) and isatap (RFC
// 5214: everyone's IPv6 router).
func isClaimable(label string) bool {
	if !isLabel(label) {
		return false
	}
	switch strings.ToLower(label) {
	case "localhost", "wpad", "isatap":
		return false
	}
	return true
}

// inDomain splits name, a lower-case fully qualified name, at domain, likewise
// or "" for none. rest has no trailing dot and is "" for domain itself; ok is
// false when name is not in domain.
func inDomain(name, domain string) (rest string, ok bool) {
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

// reverse is what a reverse name stands for: all the addresses whose reverse
// names are it or below it.
type reverse struct {
	prefix netip.Prefix // a single address when the name is complete
	below  bool         // further labels stand in front, as in DNS-SD's lb._dns-sd._udp
}

// parseReverse reads name, lower-case and fully qualified, from the right as
// the octets (RFC 1035 section 3.5) or nibbles (RFC 3596 section 2.5) of an
// address. ok is false when it is no reverse name, or that of every address.
func parseReverse(name string) (r reverse, ok bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		return parseReverse4(strings.Split(rest, "."))
	}
	if rest, ok := strings.CutSuffix(name, ".ip6.arpa."); ok {
		return parseReverse6(strings.Split(rest, "."))
	}
	return reverse{}, false
}

// parseReverse4 reads the labels in front of in-addr.arpa.
func parseReverse4(labels []string) (reverse, bool) {
	slices.Reverse(labels)
	var a [4]byte
	n := 0
	for ; n < len(a) && n < len(labels); n++ {
		octet, err := strconv.ParseUint(labels[n], 10, 8)
		if err != nil || strconv.FormatUint(octet, 10) != labels[n] {
			break
		}
		a[n] = byte(octet)
	}
	p := netip.PrefixFrom(netip.AddrFrom4(a), n*8)
	return reverse{prefix: p, below: n < len(labels)}, n > 0
}

// parseReverse6 reads the labels in front of ip6.arpa.
func parseReverse6(labels []string) (reverse, bool) {
	slices.Reverse(labels)
	var a [16]byte
	n := 0
	for ; n < 2*len(a) && n < len(labels); n++ {
		nibble, err := strconv.ParseUint(labels[n], 16, 4)
		if err != nil || len(labels[n]) != 1 {
			break
		}
		a[n/2] |= byte(nibble) << (4 * (1 - n%2))
	}
	p := netip.PrefixFrom(netip.AddrFrom16(a), n*4)
	return reverse{prefix: p, below: n < len(labels)}, n > 0
}

// reverseZone is the name of the smallest zone that holds the reverse names of
// all of p: p rounded to whole octets or nibbles.
func reverseZone(p netip.Prefix) string {
	a := p.Addr().AsSlice()
	var b strings.Builder
	if p.Addr().Is4() {
		for n := p.Bits() / 8; n > 0; n-- {
			b.WriteString(strconv.Itoa(int(a[n-1])) + ".")
		}
		return b.String() + "in-addr.arpa."
	}
	for n := p.Bits() / 4; n > 0; n-- {
		nibble := a[(n-1)/2] >> (4 * (n % 2)) & 0xf
		b.WriteString(strconv.FormatUint(uint64(nibble), 16) + ".")
	}
	return b.String() + "ip6.arpa."
}

// nameEnd is the length of the name that b begins with, 0 if there is none: it
// is cut, longer than 255 octets, or has a pointer.
func nameEnd(b []byte) int {
	for off := 0; off < min(len(b), maxWireName); off += int(b[off]) + 1 {
		switch {
		case b[off] == 0:
			return off + 1
		case b[off] > maxLabel:
			return 0
		}
	}
	return 0
}

// appendKey appends the name that b begins with, which must be whole, as the
// text that names are looked up by: in lower case (RFC 4343 section 3) and fully
// qualified, with octets other than those of host names escaped as \DDD.
func appendKey(dst, b []byte) []byte {
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

// isPlainOctet tells whether a lower-case octet is one of a host name.
func isPlainOctet(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// appendName appends a name without escapes, with or without the trailing dot,
// as it is on the wire. The labels must have the length that labels may have.
func appendName(dst []byte, name string) []byte {
	name = strings.TrimSuffix(name, ".")
	if name == "" {
		return append(dst, 0)
	}
	for label := range strings.SplitSeq(name, ".") {
		dst = append(append(dst, byte(len(label))), label...)
	}
	return append(dst, 0)
}

// keyOf is the key of a name without escapes, with or without the trailing dot.
func keyOf(name string) string {
	return string(appendKey(nil, appendName(nil, name)))
}

// parents calls f with the key of each name above key, the root last, until f
// returns false.
func parents(key string, f func(string) bool) {
	for key != "." {
		_, key, _ = strings.Cut(key, ".")
		if key == "" {
			key = "."
		}
		if !f(key) {
			return
		}
	}
}
