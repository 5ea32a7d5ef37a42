package schema

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// lexical is a type of the schema's values: basictypes.rng.
type lexical struct {
	want string
	ok   func(string) bool
}

// optional and required make an attribute of a type.
func (l lexical) optional() attrShape { return attrShape{lexical: l} }
func (l lexical) required() attrShape { return attrShape{lexical: l, required: true} }

// collapsed is s as the schema's tokens and numbers have it: with blanks at neither
// end.
func collapsed(s string) string { return strings.Trim(s, " \t\r\n") }

// words is one of some words.
func words(list ...string) lexical {
	return lexical{strings.Join(list, " or "), func(s string) bool { return slices.Contains(list, collapsed(s)) }}
}

// matching is a string of that form, which is a regular expression for all of it.
func matching(want, form string) lexical {
	re := regexp.MustCompile(`\A(?:` + form + `)\z`)
	return lexical{want, re.MatchString}
}

// number is a decimal number from low to high, of XML Schema's integer, which lets
// blanks and a sign stand around it; unsigned is the same of a type without a sign.
func number(low, high uint64) lexical {
	n := unsigned(low, high)
	return lexical{n.want, func(s string) bool { return n.ok(strings.TrimPrefix(collapsed(s), "+")) }}
}

func unsigned(low, high uint64) lexical {
	want := "a number from " + strconv.FormatUint(low, 10) + " to " + strconv.FormatUint(high, 10)
	return lexical{want, func(s string) bool {
		v, err := strconv.ParseUint(collapsed(s), 10, 64)
		return err == nil && v >= low && v <= high
	}}
}

// digits is unsigned with nothing around it.
func digits(low, high uint64) lexical {
	n := unsigned(low, high)
	return lexical{n.want, func(s string) bool { return s == collapsed(s) && n.ok(s) }}
}

// either is a value of one of two types.
func either(a, b lexical) lexical {
	return lexical{a.want, func(s string) bool { return a.ok(s) || b.ok(s) }}
}

func yesNoForm() lexical  { return words("yes", "no") }
func textForm() lexical   { return lexical{"a text", func(string) bool { return true }} }
func uint32Form() lexical { return digits(0, 1<<32-1) }
func uint64Form() lexical { return digits(0, 1<<64-1) }
func shortForm() lexical  { return number(0, 65535) }
func portForm() lexical   { return number(1, 65535) }
func familyForm() lexical { return matching("ipv4 or ipv6", "ipv4|ipv6") }
func deviceForm() lexical { return matching("the name of a device", `[a-zA-Z0-9_.\-\\:/]+`) }
func zoneForm() lexical   { return matching("letters, digits, '_' and '-'", `[a-zA-Z0-9_\-]+`) }
func dnsForm() lexical    { return matching("letters, digits, '-' and '.'", `[a-zA-Z0-9.\-]+`) }
func pathForm() lexical   { return matching("a path", `[^\r\n]+`) }
func macForm() lexical {
	return matching("a unicast MAC address like 52:54:00:12:34:56", `[a-fA-F0-9][02468aAcCeE](:[a-fA-F0-9]{2}){5}`)
}

func uuidForm() lexical {
	return matching("a UUID", `[a-fA-F0-9]{32}|[a-fA-F0-9]{8}-([a-fA-F0-9]{4}-){3}[a-fA-F0-9]{12}`)
}

// ip4 is a dotted quad, ip an address of either family.
func ip4Form() lexical {
	return lexical{"an IPv4 address", func(s string) bool { a, err := netip.ParseAddr(s); return err == nil && a.Is4() }}
}

func ipForm() lexical {
	return lexical{"an IP address", func(s string) bool { a, err := netip.ParseAddr(s); return err == nil && a.Zone() == "" }}
}

// hexForm is a number with 0x before it and up to n digits, or a decimal one.
func hexForm(n int, high uint64) lexical {
	decimal := number(0, high)
	return either(matching(decimal.want, "0x[0-9a-fA-F]{1,"+strconv.Itoa(n)+"}"), decimal)
}

// duid is an identifier of DHCPv6 of one of the four types.
func duidForm() lexical {
	const octets = `(:[a-fA-F0-9]{1,2})`
	const machine = `0{1,2}:0?[a-fA-F1-9]`
	return matching("a DUID like 0:3:0:1:52:54:0:12:34:56",
		`0{1,2}:0?1:`+machine+octets+`{4}`+octets+`{6,8}|`+
			`0{1,2}:0?2`+octets+`{4}`+octets+`{1,124}|`+
			`0{1,2}:0?3:`+machine+octets+`{6,8}|`+
			`0{1,2}:0?4`+octets+`{16}`)
}
