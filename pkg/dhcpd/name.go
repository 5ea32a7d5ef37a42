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
