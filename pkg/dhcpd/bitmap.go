package dhcpd

import "math/bits"

// chunkSize is how many integers one piece of a bitmap holds.
const chunkSize = 64 * chunkWords

const chunkWords = 64

// bitmap is a set of the integers 0..n-1. Its memory grows with what is in it,
// not with n.
type bitmap struct {
	n      uint64
	chunks map[uint64]*chunk
}

// chunk is a piece of a bitmap with size integers in it, one at least.
type chunk struct {
	words [chunkWords]uint64
	size  int
}

func newBitmap(n uint64) *bitmap { return &bitmap{n: n, chunks: make(map[uint64]*chunk)} }

// set adds i to the set or removes it.
func (b *bitmap) set(i uint64, in bool) {
	c := b.chunks[i/chunkSize]
	if c == nil {
		c = new(chunk)
		b.chunks[i/chunkSize] = c
	}
	c.set(i%chunkSize, in)
	if c.size == 0 {
		delete(b.chunks, i/chunkSize)
	}
}

// nextClear returns the smallest integer from i on that is not in the set; false when
// there is none.
func (b *bitmap) nextClear(i uint64) (uint64, bool) {
	for ; i < b.n; i = (i/chunkSize + 1) * chunkSize {
		c := b.chunks[i/chunkSize]
		if c == nil {
			return i, true
		}
		if at, ok := c.nextClear(i % chunkSize); ok {
			i += at - i%chunkSize
			return i, i < b.n
		}
	}
	return 0, false
}

func (c *chunk) set(i uint64, in bool) {
	w, bit := &c.words[i/64], uint64(1)<<(i%64)
	switch {
	case in && *w&bit == 0:
		*w |= bit
		c.size++
	case !in && *w&bit != 0:
		*w &^= bit
		c.size--
	}
}

// nextClear does what that of bitmap does, inside the chunk.
func (c *chunk) nextClear(i uint64) (uint64, bool) {
	if c.size == chunkSize {
		return 0, false
	}
	for ; i < chunkSize; i = (i/64 + 1) * 64 {
		if free := ^c.words[i/64] >> (i % 64); free != 0 {
			return i + uint64(bits.TrailingZeros64(free)), true
		}
	}
	return 0, false
}
