package document

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/netdef"
)

// Subnet returns the subnet that Renumber would replace by one of the family of to, or by
// any if that is zero: the first that the network has, of IPv4 rather than IPv6.
func (d *Document) Subnet(to netip.Prefix) (netip.Prefix, error) {
	for _, family := range []netdef.Families{netdef.IPv4, netdef.IPv6} {
		if to.IsValid() && to.Addr().Is4() != (family == netdef.IPv4) {
			continue
		}
		at := slices.IndexFunc(d.n.IPs, of(family))
		switch {
		case at < 0:
			continue
		case slices.ContainsFunc(d.n.IPs[at+1:], of(family)):
			return netip.Prefix{}, errors.New("it has several subnets of this family: change them with vnetctl edit")
		}
		return d.n.IPs[at].Prefix().Masked(), nil
	}
	if to.IsValid() {
		return netip.Prefix{}, fmt.Errorf("it has no subnet of the family of %v, but %s", to, cmp.Or(strings.Join(d.Subnets(), ", "), "none at all"))
	}
	return netip.Prefix{}, errors.New("it has no subnet: vnetctl set NET subnet=auto gives it one")
}

// ParseSubnet reads a subnet of either family.
func ParseSubnet(text string) (netip.Prefix, error) {
	family := netdef.IPv4
	if strings.Contains(text, ":") {
		family = netdef.IPv6
	}
	return parseSubnet(family, text)
}

// Free is a document of which a plan tells a subnet that is free, of the family and the
// length of p.
func Free(p netip.Prefix) *Document {
	d := New("renumbered")
	d.choose(map[bool]netdef.Families{true: netdef.IPv4, false: netdef.IPv6}[p.Addr().Is4()], true)
	d.n.ChosenBits = p.Bits()
	return d
}

// attribute is an attribute as documents are printed, inMetadata what is not the network's
// but of other programs, and candidate what may be an address, or a subnet, or have one between
// colons or before a full stop.
var (
	attribute  = regexp.MustCompile(`='[^']*'`)
	inMetadata = regexp.MustCompile(`(?s)<metadata>.*?</metadata>`)
	candidate  = regexp.MustCompile(`([0-9A-Za-z:.]*[:.][0-9A-Za-z:.]*)(/[0-9]+)?`)
)

// Renumber moves the network from one of its subnets to another one: of every address of
// the document that is in the first, the part behind the prefix stays. That is the
// network's own, those of ranges, reservations, names, routes, forwards and rules. What has
// no place in the second is an error, after which the document is what it was.
func (d *Document) Renumber(from, to netip.Prefix) error {
	var lost []string
	move := func(value string) string {
		return candidate.ReplaceAllStringFunc(value, func(text string) string {
			return inWord(text, func(text string) string {
				moved, fits := moved(text, from, to)
				if !fits {
					lost = append(lost, text)
				}
				return moved
			})
		})
	}
	text := d.XML()
	kept := inMetadata.FindAllString(text, -1)
	text = attribute.ReplaceAllStringFunc(inMetadata.ReplaceAllString(text, "<metadata/>"), move)
	for _, metadata := range kept {
		text = strings.Replace(text, "<metadata/>", metadata, 1)
	}
	if len(lost) > 0 {
		slices.Sort(lost)
		return fmt.Errorf("%v has no place for %s: want a subnet with a prefix of at most %d bits", to, strings.Join(slices.Compact(lost), ", "), from.Bits())
	}
	n, err := netdef.Parse([]byte(text))
	if err != nil {
		return err
	}
	for i := range n.IPs {
		if ip := &n.IPs[i]; to.Contains(ip.Address) {
			ip.Netmask, ip.PrefixLength = netip.Addr{}, to.Bits()
		}
	}
	d.n = n
	return nil
}

// inWord puts what move returns in the place of the addresses in a word: the longest ones that
// begin first, as of "ip6:fd00::1" the part behind the first colon, and of "192.0.2.1:80" that
// before the last.
func inWord(word string, move func(string) string) string {
	host, _, _ := strings.Cut(word, "/")
	parts := strings.Split(host, ":")
	for i := range parts {
		for j := len(parts); j > i; j-- {
			found := strings.TrimSuffix(strings.Join(parts[i:j], ":"), ".")
			if _, err := netip.ParseAddr(found); err != nil {
				continue
			}
			start := len(host) - len(strings.Join(parts[i:], ":"))
			end := start + len(found)
			if end == len(host) {
				end = len(word) // with the length of its prefix
			}
			return word[:start] + move(word[start:end]) + inWord(word[end:], move)
		}
	}
	return word
}

// moved is an address, or a subnet, moved from one subnet to another: what is not in the
// first is as it was. It reports whether there is room for it.
func moved(text string, from, to netip.Prefix) (moved string, fits bool) {
	host, bits, isPrefix := strings.Cut(text, "/")
	a, err := netip.ParseAddr(host)
	if err != nil || !from.Contains(a) {
		return text, true
	}
	if isPrefix && text == from.String() {
		return to.String(), true
	}
	at, base := a.AsSlice(), to.Addr().AsSlice()
	for i := range at {
		at[i] &^= mask(from, i)
		if at[i]&mask(to, i) != 0 {
			return text, false
		}
		at[i] |= base[i]
	}
	b, _ := netip.AddrFromSlice(at)
	if isPrefix {
		return b.String() + "/" + bits, true
	}
	return b.String(), true
}

// mask is the nth byte of the netmask of a subnet.
func mask(p netip.Prefix, n int) byte { return ^byte(0xff >> min(max(p.Bits()-8*n, 0), 8)) }
