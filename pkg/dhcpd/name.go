package dhcpd

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/vnetd/vnetd/internal/dnsname"
)

// Limits of DNS names (RFC 1035, section 2.3.4).
const (
	MaxName  = 253
	maxLabel = 63
)

// Name is a host name as a client sent it: the part before the first dot,
// and what follows it. Both are empty when the client sent none or none that is
// usable.
type Name struct {
	Label  string
	Domain string
}

// ParseName splits the value of option 12. A name whose first label can't be that of a
// host, by the rule of internal/dnsname, becomes empty.
func ParseName(raw []byte) Name {
	// RFC 2132, section 2: options "SHOULD NOT" end in a NUL, but receivers "MUST
	// be prepared to delete" it.
	s := strings.TrimRight(string(raw), "\x00")
	label, domain, _ := strings.Cut(s, ".")
	if len(s) > MaxName || !alphanumeric(label) {
		return Name{}
	}
	label, err := dnsname.Host(label)
	if err != nil {
		return Name{}
	}
	return Name{Label: label, Domain: strings.TrimSuffix(domain, ".")}
}

// alphanumeric reports whether s begins with a letter or digit: names that do not are
// other than hosts' (RFC 8552), or look like options of programs.
func alphanumeric(s string) bool {
	r, _ := utf8.DecodeRuneInString(s)
	return r != utf8.RuneError && (unicode.IsLetter(r) || unicode.IsDigit(r))
}

// inDomain reports whether the client sent its name plain or with domain.
func (n Name) inDomain(domain string) bool {
	return n.Domain == "" || strings.EqualFold(n.Domain, strings.TrimSuffix(domain, "."))
}

// ValidDomain reports whether s, without a final dot, is a domain name as it may
// stand on the wire.
func ValidDomain(s string) bool {
	ascii, err := dnsname.Host(s)
	return err == nil && ascii == s
}

// Qualified returns a host name completed by a domain, which may be empty.
func Qualified(hostname, domain string) string {
	if domain == "" {
		return hostname
	}
	return hostname + "." + domain
}

// ToLabels encodes a name in DNS wire format (RFC 1035, section 3.1). Labels are cut
// to their longest.
func ToLabels(name string) []byte {
	var wire []byte
	for label := range strings.SplitSeq(strings.Trim(name, "."), ".") {
		wire = append(wire, byte(min(len(label), maxLabel)))
		wire = append(wire, label[:min(len(label), maxLabel)]...)
	}
	return append(wire, 0)
}

// FromLabels turns a name in DNS wire format, whose final zero may be missing
// (RFC 4702, section 2.3.1), into dotted form. Compression is not allowed there.
// What is malformed becomes empty.
func FromLabels(wire []byte) []byte {
	var name []byte
	for len(wire) > 0 && wire[0] != 0 {
		n := int(wire[0])
		if n > maxLabel || n >= len(wire) {
			return nil
		}
		if len(name) > 0 {
			name = append(name, '.')
		}
		name = append(name, wire[1:1+n]...)
		wire = wire[1+n:]
	}
	return name
}

// The flags of the Client FQDN option.
const (
	fqdnServerUpdates = 1 << iota // S: the server updates the address record
	fqdnOverride                  // O: the server overrode the client's S
	FQDNEncoded                   // E: the name is in DNS wire format
)

// FQDNAnswer returns the flags S and O that answer a client's Client FQDN option.
//
// RFC 4702, section 4, and RFC 4704, section 6: S says that we publish the
// address, O that the client wanted otherwise.
func FQDNAnswer(asked byte) byte {
	if asked&fqdnServerUpdates == 0 {
		return fqdnServerUpdates | fqdnOverride
	}
	return fqdnServerUpdates
}

// Seconds returns a time as both protocols send it: Infinite is 0xffffffff.
func Seconds(d time.Duration) []byte {
	return binary.BigEndian.AppendUint32(nil, uint32(d/time.Second))
}

// AddrBytes returns a list of addresses as the value of an option.
func AddrBytes(list []netip.Addr) []byte {
	var b []byte
	for _, a := range list {
		b = append(b, a.AsSlice()...)
	}
	return b
}
