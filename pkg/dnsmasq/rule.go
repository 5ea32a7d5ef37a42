package dnsmasq

import (
	"slices"
	"strconv"
	"strings"
)

// Rule sets a tag for the clients that send what it describes.
type Rule struct {
	Tag string
	// Option is the option that is looked at; 0: the hardware address.
	Option uint16
	// Items says that the option is a list of values, of which one is to fit: the classes
	// of Enterprise (RFC 3925 section 3, RFC 8415 section 21.16), or those of the user (RFC
	// 8415 section 21.15).
	Items      bool
	Enterprise uint32
	// Value is what stands in it: nil, anything.
	Value []byte
	// Mask has a zero for each byte of Value that counts for nothing. Nil: all count.
	Mask []byte
	// Step is how far apart the places are at which Value may stand. 0: it stands at
	// the beginning; negative: it is all that stands there.
	Step int
}

// mac reads set:TAG,HARDWARE ADDRESS.
func (d *DHCP) mac(s string) bool {
	set, addr, _ := cutField(s)
	value, mask, ok := pattern(addr)
	r := Rule{Tag: tagOf(set, "set:", "net:"), Value: value, Mask: mask, Step: -1}
	d.Rules, d.Rules6 = append(d.Rules, r), append(d.Rules6, r)
	return ok && r.Tag != "" && len(value) == macLen
}

// vendorClass reads set:TAG,[enterprise:NUMBER,]TEXT, where the text stands anywhere in
// the class. DHCPv4's has no enterprise.
func (d *DHCP) vendorClass(s string) bool {
	set, text, _ := cutField(s)
	var enterprise uint64
	var err error
	if n, ok := strings.CutPrefix(text, "enterprise:"); ok {
		n, text, _ = cutField(n)
		enterprise, err = strconv.ParseUint(n, 10, 32)
	}
	r := Rule{Tag: tagOf(set, "set:", "net:"), Option: optionVendorClass, Value: []byte(shown(text)), Step: 1}
	d.Rules = append(d.Rules, r)
	r.Option, r.Items, r.Enterprise = option6VendorClass, true, uint32(enterprise)
	d.Rules6 = append(d.Rules6, r)
	return err == nil && r.Tag != "" && text != ""
}

// userClass reads set:TAG,TEXT, where the text stands anywhere in a class.
func (d *DHCP) userClass(s string) bool {
	set, text, _ := cutField(s)
	r := Rule{Tag: tagOf(set, "set:", "net:"), Option: optionUserClass, Value: []byte(shown(text)), Step: 1}
	d.Rules = append(d.Rules, r)
	r.Option, r.Items = option6UserClass, true
	d.Rules6 = append(d.Rules6, r)
	return r.Tag != "" && text != ""
}

// match reads set:TAG,OPTION,VALUE. The value may be missing.
func (d *DHCP) match(s string) bool {
	set, rest, _ := cutField(s)
	code, text, given := cutField(rest)
	r := Rule{Tag: tagOf(set, "set:", "net:")}
	family, ok := &d.Rules, false
	if n, vendor := strings.CutPrefix(code, "vi-encap:"); vendor {
		enterprise, err := strconv.ParseUint(n, 10, 32)
		r.Option, r.Items, r.Enterprise, ok = optionEnterpriseClass, true, uint32(enterprise), err == nil
	} else {
		var v6 bool
		if r.Option, v6, ok = codeOf(code); v6 {
			family = &d.Rules6
		}
	}
	if given {
		ok = ok && r.value(text, family == &d.Rules6)
	}
	*family = append(*family, r)
	return ok && r.Tag != ""
}

// value takes over what stands in the option.
func (r *Rule) value(s string, v6 bool) bool {
	if bytes, mask, ok := pattern(s); ok && strings.Contains(s, ":") {
		r.Value, r.Mask = bytes, mask
		return true
	}
	code := r.Option
	if r.Items {
		code = 0 // what stands in the classes of an enterprise is as it looks
	}
	v, ok := valueOf(code, v6, s)
	if r.Value, r.Step = v.bytes, 1; !v.text {
		r.Step = max(len(v.bytes), 1)
	}
	return ok && len(r.Value) > 0
}

// pattern reads hexadecimal bytes of one or two digits with colons between them,
// where * is any byte. The mask is nil when there is none.
func pattern(s string) (value, mask []byte, ok bool) {
	for part := range strings.SplitSeq(s, ":") {
		if part == "*" {
			value, mask = append(value, 0), append(mask, 0)
			continue
		}
		b, err := strconv.ParseUint(part, 16, 8)
		if err != nil || len(part) > 2 {
			return nil, nil, false
		}
		value, mask = append(value, byte(b)), append(mask, 0xff)
	}
	if !slices.Contains(mask, 0) {
		mask = nil
	}
	return value, mask, true
}
