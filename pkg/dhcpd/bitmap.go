package dhcpd

import "math/bits"

// bitmap is a set of the integers 0..n-1.
type bitmap struct {
	words []uint64
	n     int
}

func newBitmap(n int) *bitmap { return &bitmap{words: make([]uint64, (n+63)/64), n: n} }

// set adds i to the set or removes it.
func (b *bitmap) set(i int, in bool) {
	if in {
		b.words[i/64] |= 1 << (i % 64)
	} else {
		b.words[i/64] &^= 1 << (i % 64)
	}
}

// nextClear is the smallest integer from i on that is not in the set, or -1.
func (b *bitmap) nextClear(i int) int {
	for i < b.n {
		if clear := ^b.words[i/64] >> (i % 64); clear != 0 {
			i += bits.TrailingZeros64(clear)
			break
		}
		i = (i/64 + 1) * 64
	}
	if i >= b.n {
		return -1
	}
	return i
}
