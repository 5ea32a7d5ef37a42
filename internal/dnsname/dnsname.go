// Package dnsname is the one rule of what stands in a DNS name and in a record:
// what a document may say, and what a server can put on the wire. It is pure.
//
// Names are taken as they are written: labels between dots, without escapes. A
// letter outside of ASCII goes onto the wire in Punycode (RFC 5891), as resolvers
// ask for it. A dot at the end changes nothing.
package dnsname

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Limits of RFC 1035 section 2.3.4 and 3.3. A name of 253 characters, written
// without the dot at the end, has 255 octets on the wire.
const (
	maxLabel = 63
	maxName  = 253
	maxText  = 32 * 255 // what fills 32 strings of a TXT record
)

// Record returns the name of a record, or a name in one, as it is on the wire
// in presentation form without escapes and without a dot at the end: labels of
// any visible character but the comma. The error says what would be right.
func Record(name string) (string, error) { return check(name, isVisible) }

// IsReserved reports whether a label is one by which others look for a service rather than for
// a host, so that no guest may have it: localhost (RFC 6761 section 6.3), wpad (whoever has it
// is everyone's web proxy), isatap (RFC 5214: everyone's IPv6 router) and local (RFC 6762
// section 3: the names below it are asked of the link).
func IsReserved(label string) bool {
	switch strings.ToLower(label) {
	case "localhost", "wpad", "isatap", "local":
		return true
	}
	return false
}

// Host is Record for names that leave DNS for the configuration of guests and of
// the host, as domains do: letters, digits, hyphens and underscores only.
func Host(name string) (string, error) { return check(name, isHost) }

// Text returns what is wrong with the value of a TXT record, nil if nothing is.
func Text(value string) error {
	switch {
	case strings.ContainsAny(value, "\r\n"):
		return errors.New("want a text without line breaks")
	case len(value) > maxText:
		return fmt.Errorf("the text has %d bytes, want at most %d", len(value), maxText)
	}
	return nil
}

// Service returns what is wrong with the service or protocol of an SRV record,
// which is one label behind an underscore (RFC 2782), nil if nothing is.
func Service(name string) error {
	if len(name) > maxLabel-1 {
		return fmt.Errorf("the name has %d bytes, want at most %d", len(name), maxLabel-1)
	}
	return nil
}

// check is Record for labels of those characters.
func check(name string, allowed func(rune) bool) (string, error) {
	ascii, err := toASCII(strings.TrimSuffix(name, "."))
	if err != nil {
		return "", err
	}
	if len(ascii) > maxName {
		return "", fmt.Errorf("the name has %d bytes, want at most %d", len(ascii), maxName)
	}
	for label := range strings.SplitSeq(ascii, ".") {
		if label == "" || len(label) > maxLabel {
			return "", fmt.Errorf("want labels of 1 to %d characters between the dots", maxLabel)
		}
		if i := strings.IndexFunc(label, func(r rune) bool { return !allowed(r) }); i >= 0 {
			r, _ := utf8.DecodeRuneInString(label[i:])
			if allowed('*') {
				return "", fmt.Errorf("want visible characters other than the comma, not %q", r)
			}
			return "", fmt.Errorf("want letters, digits, '-', '_' and '.' only, not %q", r)
		}
	}
	return ascii, nil
}

// toASCII turns the labels of name that are not ASCII into Punycode, and leaves
// the others as they are.
func toASCII(name string) (string, error) {
	if isASCII(name) {
		return name, nil
	}
	profile := idna.New(idna.MapForLookup(), idna.StrictDomainName(false), idna.CheckHyphens(false), idna.Transitional(false))
	labels := strings.Split(name, ".")
	for i, label := range labels {
		if isASCII(label) {
			continue
		}
		ascii, err := profile.ToASCII(label)
		if err != nil || !utf8.ValidString(label) {
			return "", fmt.Errorf("want letters that have a form in ASCII (RFC 5891), not %q", label)
		}
		labels[i] = ascii
	}
	return strings.Join(labels, "."), nil
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= utf8.RuneSelf }) < 0
}

// isVisible reports whether r may stand in a record's name.
func isVisible(r rune) bool { return r > ' ' && r < 0x7f && r != ',' }

// isHost reports whether r may stand in a host's or a domain's name.
func isHost(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
		return true
	}
	return false
}
