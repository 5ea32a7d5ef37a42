// Package dnsmasq is the language of dnsmasq(8): the lines of its configuration,
// which libvirt's users write in <dnsmasq:options>, and its lease files, as typed
// values. It is pure: it serves nothing, and no other package reads that language.
package dnsmasq

import (
	"encoding/hex"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/vnetd/vnetd/internal/dnsname"
)

// Options is what lines of a configuration say. The zero value says nothing.
// Nobody changes what Parse returned: copies share it.
type Options struct {
	Lines []string // as they were given
	DHCP  DHCP
	DNS   DNS

	// Unknown are those of Lines that are not understood, for whatever reason, and
	// have no effect.
	Unknown []string
}

// maxName is the longest name (RFC 1035 section 2.3.4).
const maxName = 253

// Parse reads lines as they stand in dnsmasq's configuration file. A line that is
// not understood as a whole changes nothing.
func Parse(lines []string) Options {
	o := Options{Lines: lines}
	for i, line := range lines {
		dhcp, dns := o.DHCP, o.DNS
		if o.parse(line) {
			continue
		}
		o.DHCP, o.DNS = dhcp, dns
		o.Unknown = append(o.Unknown, line)
		if want, ok := wanted()[keyOf(line)]; ok {
			o.DHCP.Refused = append(o.DHCP.Refused, Refused{i, want})
		}
	}
	return o
}

// keyOf returns the name of a line.
func keyOf(line string) string {
	key, _, _ := strings.Cut(line, "=")
	return strings.TrimSpace(key)
}

// parse takes over one line. When it returns false o is of no use.
func (o *Options) parse(line string) bool {
	key := keyOf(line)
	_, value, _ := strings.Cut(line, "=")
	parse, ok := parsers()[key]
	if !ok {
		return o.DNS.parse(key, strings.TrimSpace(value))
	}
	value, ok = unquote(value)
	return ok && parse(&o.DHCP, strings.Trim(value, " "))
}

// ParseDUID reads a DHCP unique identifier (RFC 8415 section 11) as id: has it. It
// reports whether s is one.
func ParseDUID(s string) ([]byte, bool) {
	b, ok := parseBytes(s)
	return b, ok && len(b) >= minDUID && len(b) <= maxDUID
}

// parseBytes reads hexadecimal bytes of one or two digits with colons between them, as
// in 0:3:0:1:52:54:0:12:34:56. It reports whether s is no more and no less.
func parseBytes(s string) ([]byte, bool) {
	var all []byte
	for part := range strings.SplitSeq(s, ":") {
		if len(part) == 1 {
			part = "0" + part
		}
		b, err := hex.DecodeString(part)
		if err != nil || len(b) != 1 {
			return nil, false
		}
		all = append(all, b...)
	}
	return all, true
}

// isHostName reports whether s is a host's name, to which a domain may be added.
func isHostName(s string) bool {
	label, _, _ := strings.Cut(s, ".")
	first, _ := utf8.DecodeRuneInString(label)
	_, err := dnsname.Host(label)
	return len(s) <= maxName && err == nil && (unicode.IsLetter(first) || unicode.IsDigit(first))
}
