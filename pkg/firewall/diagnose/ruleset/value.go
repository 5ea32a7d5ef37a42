package ruleset

import (
	"encoding/binary"
	"math/bits"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Number is an unsigned number of 128 bits: an address, a port, a mark.
type Number struct{ Hi, Lo uint64 }

// Value is a number, or a text where Text is not empty: the name of a link. The
// name of no link is Empty.
type Value struct {
	Number
	Text string
}

// Empty is the text of no characters.
const Empty = "\x00"

// Uint is a number.
func Uint[T ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~int](n T) Value {
	return Value{Number: Number{Lo: uint64(n)}}
}

// Text is a text.
func Text(s string) Value {
	if s == "" {
		s = Empty
	}
	return Value{Text: s}
}

// Addr is an address as a number. That of IPv4 has 32 bits.
func Addr(a netip.Addr) Value {
	if a.Is4() {
		b := a.As4()
		return Uint(binary.BigEndian.Uint32(b[:]))
	}
	b := a.As16()
	return Value{Number: Number{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}}
}

// Address is the address of a number, of IPv6 or of IPv4.
func (n Number) Address(v6 bool) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], n.Hi)
	binary.BigEndian.PutUint64(b[8:], n.Lo)
	if v6 {
		return netip.AddrFrom16(b)
	}
	return netip.AddrFrom4([4]byte(b[12:]))
}

// Cmp is negative, zero or positive as n is less than, equal to or more than o.
func (n Number) Cmp(o Number) int {
	switch {
	case n == o:
		return 0
	case n.Hi < o.Hi || n.Hi == o.Hi && n.Lo < o.Lo:
		return -1
	}
	return 1
}

// And is n & o.
func (n Number) And(o Number) Number { return Number{n.Hi & o.Hi, n.Lo & o.Lo} }

// Or is n | o.
func (n Number) Or(o Number) Number { return Number{n.Hi | o.Hi, n.Lo | o.Lo} }

// Xor is n ^ o.
func (n Number) Xor(o Number) Number { return Number{n.Hi ^ o.Hi, n.Lo ^ o.Lo} }

// shift is n << by.
func (n Number) shift(by int) Number {
	switch {
	case by <= 0:
		return n
	case by >= 64:
		return Number{n.Lo << (by - 64), 0}
	}
	return Number{n.Hi<<by | n.Lo>>(64-by), n.Lo << by}
}

// Shift is n with a further bit behind its last.
func (n Number) Shift(bit byte) Number { return n.shift(1).Or(Number{Lo: uint64(bit)}) }

// Behind is v without its last bits; a text stays.
func (v Value) Behind(host int) Value {
	v.Number = v.And(Number{^uint64(0), ^uint64(0)}.shift(host))
	return v
}

// Prefix is how many last bits numbers of the range may have as they like, where it is that:
// all that have its other bits.
func (r Range) Prefix() (host int, ok bool) {
	differ := r.Low.Xor(r.High.Number)
	host = bits.Len64(differ.Lo)
	if differ.Hi != 0 {
		host = 64 + bits.Len64(differ.Hi)
	}
	all := Number{^uint64(0), ^uint64(0)}.shift(host)
	ok = r.Low.Text == "" && r.High.Text == "" && differ.Or(all) == Number{^uint64(0), ^uint64(0)} && r.Low.And(all) == r.Low.Number
	return host, ok
}

// add is n + o, modulo 2^128.
func (n Number) add(o Number) Number {
	lo, carry := bits.Add64(n.Lo, o.Lo, 0)
	hi, _ := bits.Add64(n.Hi, o.Hi, carry)
	return Number{hi, lo}
}

// Holds reports whether v is in the range.
func (r Range) Holds(v Value) bool {
	if r.Low.Text == "" {
		return v.Text == "" && r.Low.Cmp(v.Number) <= 0 && v.Cmp(r.High.Number) <= 0
	}
	if start, wild := strings.CutSuffix(r.Low.Text, "*"); wild {
		return strings.HasPrefix(v.Text, start) && v.Text != ""
	}
	return r.Low.Text == v.Text
}

// prefixRange is the range of a prefix.
func prefixRange(p netip.Prefix) Range {
	low := Addr(p.Masked().Addr())
	return lastBits(low, p.Addr().BitLen()-p.Bits())
}

// lastBits is the range of all values of the last n bits of low, which are 0 there.
func lastBits(low Value, n int) Range {
	span := Number{Lo: 1}.shift(n)
	if n >= 128 {
		span = Number{}
	}
	span = span.add(Number{^uint64(0), ^uint64(0)}) // less one
	return Range{low, Value{Number: low.Or(span)}}
}

// parseValue reads a constant that is compared with a field.
func parseValue(field, text string) (Value, bool) {
	if namesLink(field) {
		return Text(text), true
	}
	if n, known := symbols[symbolTable(field)][strings.ToLower(text)]; known {
		return Uint(n), true
	}
	if n, err := strconv.ParseUint(text, 0, 64); err == nil {
		return Uint(n), true
	}
	if n, ok := parseLong(text); ok {
		return n, true
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return Addr(a.WithZone("")), true
	}
	if mac, err := net.ParseMAC(text); err == nil && len(mac) == 6 {
		return Uint(binary.BigEndian.Uint64(append([]byte{0, 0}, mac...))), true
	}
	return Value{}, false
}

// parseLong reads a hexadecimal number of more than 64 bits.
func parseLong(text string) (Value, bool) {
	digits, hex := strings.CutPrefix(text, "0x")
	if !hex || len(digits) <= 16 || len(digits) > 32 {
		return Value{}, false
	}
	hi, err1 := strconv.ParseUint(digits[:len(digits)-16], 16, 64)
	lo, err2 := strconv.ParseUint(digits[len(digits)-16:], 16, 64)
	return Value{Number: Number{hi, lo}}, err1 == nil && err2 == nil
}

// namesLink reports whether the field is a link's name. Links by index are listed
// by their names.
func namesLink(field string) bool {
	switch field {
	case "meta iif", "meta oif", "meta iifname", "meta oifname", "meta ibrname", "meta obrname":
		return true
	}
	return false
}
