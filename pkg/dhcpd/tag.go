package dhcpd

import (
	"slices"
	"strings"
)

// Tags are the tags that a client has.
type Tags map[string]bool

// HasAll reports whether a client with t has all of want. Behind a ! stands what it must
// not have.
func (t Tags) HasAll(want []string) bool {
	return !slices.ContainsFunc(want, func(tag string) bool {
		name, not := strings.CutPrefix(tag, "!")
		return t[name] == not
	})
}

// TagRule gives Tag to the clients that send what it describes.
type TagRule struct {
	Tag string
	// Option is the option that is looked at. 0: the hardware address.
	Option uint16
	// Items says that the option is a list of values, of which one is to fit: the classes
	// of Enterprise (RFC 3925 section 3, RFC 8415 section 21.16), or those of the user (RFC
	// 8415 section 21.15).
	Items      bool
	Enterprise uint32
	// Value is what stands in it, where Mask, if it is not nil, is not zero.
	Value, Mask []byte
	// Step is how far apart the places are at which Value may stand. 0: it stands at
	// the beginning. Negative: it is all that stands there.
	Step int
}

// Matches reports whether a client sends what r describes: values are what stands in the
// option, none if it sends no such option.
func (r *TagRule) Matches(values ...[]byte) bool { return slices.ContainsFunc(values, r.fits) }

// fits reports whether r's value stands in sent.
func (r *TagRule) fits(sent []byte) bool {
	if r.Step < 0 {
		return len(sent) == len(r.Value) && r.begins(sent)
	}
	for at := 0; at+len(r.Value) <= len(sent); at += r.Step {
		if r.begins(sent[at:]) {
			return true
		}
		if r.Step == 0 {
			return false
		}
	}
	return false
}

// begins reports whether b begins with r's value.
func (r *TagRule) begins(b []byte) bool {
	for i, want := range r.Value {
		if (r.Mask == nil || r.Mask[i] != 0) && b[i] != want {
			return false
		}
	}
	return true
}

// Option is an option as configured.
type Option struct {
	Code uint16
	// Value is what is sent. Nil: the option is not sent, nor what stands in its
	// place otherwise. Empty but not nil: it is sent without a value.
	Value []byte
	// Force sends it to clients, too, that don't ask for it.
	Force bool
	// Tags are those that a client must have; behind a ! one that it must not have.
	Tags []string
	// Encap is the option that this one is a part of. 0: it is none.
	Encap uint8
	// Enterprise is whose part of option 125 of DHCPv4 (RFC 3925, section 4) or 17 of
	// DHCPv6 (RFC 8415, section 21.17) this one is in. Only with that Encap.
	Enterprise uint32
	// Vendor is what stands in the vendor class of those who are sent the option, in
	// DHCPv4 alone. Empty: all are.
	Vendor string
}

// Select returns those of all for clients that have these tags. Of one code the last one
// counts, and one with tags before one without; parts of an option come last.
func Select(all []Option, has Tags) []Option {
	var plain, tagged, parts []Option
	for _, o := range all {
		switch {
		case !has.HasAll(o.Tags):
		case o.Encap != 0:
			parts = append(parts, o)
		case len(o.Tags) > 0:
			tagged = append(tagged, o)
		default:
			plain = append(plain, o)
		}
	}
	return slices.Concat(plain, tagged, parts)
}
