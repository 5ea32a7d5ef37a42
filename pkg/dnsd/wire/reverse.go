package wire

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Reverse is what a reverse name stands for: all the addresses whose reverse
// names are it or below it.
type Reverse struct {
	Prefix netip.Prefix // a single address when the name is complete
	Below  bool         // further labels stand in front, as in DNS-SD's lb._dns-sd._udp
}

// ParseReverse reads name, lower-case and fully qualified, from the right as
// the octets (RFC 1035 section 3.5) or nibbles (RFC 3596 section 2.5) of an
// address. ok is false when it is no reverse name, or that of every address.
func ParseReverse(name string) (r Reverse, ok bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		return parseReverse4(strings.Split(rest, "."))
	}
	if rest, ok := strings.CutSuffix(name, ".ip6.arpa."); ok {
		return parseReverse6(strings.Split(rest, "."))
	}
	return Reverse{}, false
}

// parseReverse4 reads the labels in front of in-addr.arpa.
func parseReverse4(labels []string) (Reverse, bool) {
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
	return Reverse{Prefix: p, Below: n < len(labels)}, n > 0
}

// parseReverse6 reads the labels in front of ip6.arpa.
func parseReverse6(labels []string) (Reverse, bool) {
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
	return Reverse{Prefix: p, Below: n < len(labels)}, n > 0
}

// ReverseZone returns the name of the smallest zone that holds the reverse names of
// all of p: p rounded to whole octets or nibbles.
func ReverseZone(p netip.Prefix) string {
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
