package dhcpd

import "strings"

// Limits of DNS names (RFC 1035, section 2.3.4).
const (
	maxName  = 253
	maxLabel = 63
)

// clientName is a host name as a client sent it: the part before the first dot,
// and what follows it. Both are empty when the client sent none or none that is
// usable.
type clientName struct {
	label  string
	domain string
}

// parseName splits the value of option 12. A name whose first label is not a
// valid one becomes empty.
func parseName(raw []byte) clientName {
	// RFC 2132, section 2: options "SHOULD NOT" end in a NUL, but receivers "MUST
	// be prepared to delete" it.
	s := strings.TrimRight(string(raw), "\x00")
	label, domain, _ := strings.Cut(s, ".")
	if len(s) > maxName || !validLabel(label) {
		return clientName{}
	}
	return clientName{label: label, domain: strings.TrimSuffix(domain, ".")}
}

// inDomain reports whether the client sent its name plain or with domain.
func (n clientName) inDomain(domain string) bool {
	return n.domain == "" || strings.EqualFold(n.domain, strings.TrimSuffix(domain, "."))
}

// validLabel reports whether s is a host name's label: letters, digits and
// hyphens, no hyphen at either end (RFC 952, RFC 1123 section 2.1).
func validLabel(s string) bool {
	if s == "" || len(s) > maxLabel || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if !labelByte(s[i]) {
			return false
		}
	}
	return true
}

func labelByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-':
		return true
	default:
		return false
	}
}

// validDomain reports whether s, without a final dot, is a domain name made of
// host name labels.
func validDomain(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !validLabel(label) {
			return false
		}
	}
	return true
}

// qualified is a host name with its domain, which may be empty.
func qualified(hostname, domain string) string {
	if domain == "" {
		return hostname
	}
	return hostname + "." + domain
}

// toLabels is a name in DNS wire format (RFC 1035, section 3.1). Labels are cut
// to their longest.
func toLabels(name string) []byte {
	var wire []byte
	for label := range strings.SplitSeq(strings.Trim(name, "."), ".") {
		wire = append(wire, byte(min(len(label), maxLabel)))
		wire = append(wire, label[:min(len(label), maxLabel)]...)
	}
	return append(wire, 0)
}

// fromLabels turns a name in DNS wire format, whose final zero may be missing
// (RFC 4702, section 2.3.1), into dotted form. Compression is not allowed there.
// What is malformed becomes empty.
func fromLabels(wire []byte) []byte {
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
