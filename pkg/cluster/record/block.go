package record

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"
)

// BlockID is a block of addresses as keys have it: with all its zeros, so that the order
// of keys is that of addresses, and what overlaps a block is found beside it.
// 10.50.0.64/26 is 010.050.000.064-26.
func BlockID(block netip.Prefix) string {
	return wide(block.Addr()) + "-" + strconv.Itoa(block.Bits())
}

// wide is an address with all its zeros.
func wide(a netip.Addr) string {
	if a.Is4() {
		var text [15]byte
		for i, b := range a.As4() {
			part := text[4*i:]
			part[0], part[1], part[2] = '0'+b/100, '0'+b/10%10, '0'+b%10
			if i < 3 {
				part[3] = '.'
			}
		}
		return string(text[:])
	}
	return a.StringExpanded()
}

// ParseBlockID reads what BlockID writes, and nothing else.
func ParseBlockID(id string) (netip.Prefix, error) {
	text, length, ok := strings.Cut(id, "-")
	addr, err := netip.ParseAddr(narrow(text))
	n, err2 := strconv.ParseUint(length, 10, 8)
	if !ok || err != nil || err2 != nil || addr.Zone() != "" || addr.Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%.60q is no block of addresses: want, say, 010.050.000.064-26", id)
	}
	block, err := addr.Prefix(int(n))
	if err != nil || BlockID(block) != id {
		return netip.Prefix{}, fmt.Errorf("%.60q is no block of addresses: want, say, 010.050.000.064-26", id)
	}
	return block, nil
}

// narrow drops the zeros that an IPv4 address may not have.
func narrow(text string) string {
	if !strings.Contains(text, ".") {
		return text
	}
	parts := strings.Split(text, ".")
	for i, p := range parts {
		if t := strings.TrimLeft(p, "0"); t != "" {
			parts[i] = t
		} else if p != "" {
			parts[i] = "0"
		}
	}
	return strings.Join(parts, ".")
}

// Within returns the IDs from, which counts, and to, which does not, between which those
// of all blocks are that begin in a block.
func Within(block netip.Prefix) (from, to string) {
	return wide(block.Addr()), wide(Last(block)) + "."
}

// Halves cuts a block in two. One of a single address has none.
func Halves(block netip.Prefix) (low, high netip.Prefix) {
	n := block.Bits() + 1
	low = netip.PrefixFrom(block.Addr(), n)
	return low, netip.PrefixFrom(Add(block.Addr(), 1, block.Addr().BitLen()-n), n)
}

// Around returns the blocks, each as large as can be, that are left of a block when a
// smaller one is cut out of it.
func Around(block, hole netip.Prefix) []netip.Prefix {
	var left []netip.Prefix
	for block.Bits() < hole.Bits() {
		low, high := Halves(block)
		if low.Contains(hole.Addr()) {
			block, left = low, append(left, high)
		} else {
			block, left = high, append(left, low)
		}
	}
	return left
}

// Last is the last address of a block.
func Last(block netip.Prefix) netip.Addr {
	hi, lo := words(block.Addr())
	host := uint(block.Addr().BitLen() - block.Bits())
	mh, ml := shifted(1, host)
	ml, borrow := bits.Sub64(ml, 1, 0)
	mh -= borrow
	return address(hi|mh, lo|ml, block.Addr())
}

// Add returns the address that is n times 2^shift after a.
func Add(a netip.Addr, n uint64, shift int) netip.Addr {
	hi, lo := words(a)
	nh, nl := shifted(n, uint(shift))
	lo, carry := bits.Add64(lo, nl, 0)
	hi, _ = bits.Add64(hi, nh, carry)
	return address(hi, lo, a)
}

// Between is how many times 2^shift fits between two addresses; at most 2^62.
func Between(a, b netip.Addr, shift int) uint64 {
	ah, al := words(a)
	bh, bl := words(b)
	lo, borrow := bits.Sub64(bl, al, 0)
	hi, _ := bits.Sub64(bh, ah, borrow)
	if shift >= 64 {
		hi, lo, shift = 0, hi, shift-64
	}
	n := lo>>shift | hi<<(64-shift)
	if hi>>shift != 0 {
		return 1 << 62
	}
	return min(n, 1<<62)
}

// shifted is n times 2^shift in 128 bits.
func shifted(n uint64, shift uint) (hi, lo uint64) {
	if shift >= 64 {
		return n << (shift - 64), 0
	}
	return n >> (64 - shift), n << shift
}

// words are an address as a number of 128 bits.
func words(a netip.Addr) (hi, lo uint64) {
	if a.Is4() {
		b := a.As4()
		return 0, uint64(binary.BigEndian.Uint32(b[:]))
	}
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
}

// address is what words takes apart, of the family of like.
func address(hi, lo uint64, like netip.Addr) netip.Addr {
	if like.Is4() {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(lo))
		return netip.AddrFrom4(b)
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], hi)
	binary.BigEndian.PutUint64(b[8:], lo)
	return netip.AddrFrom16(b)
}
