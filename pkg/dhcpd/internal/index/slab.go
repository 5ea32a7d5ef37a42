package index

import "math/bits"

// Number is that of a thing in a Slab. 0 is none's.
type Number uint32

// How many things the first piece of a slab has, and the largest ones. In between each has twice
// as many as the one before.
const (
	leastPiece  = 8
	smallPieces = 5 // that are smaller than the largest ones
	mostPiece   = leastPiece << smallPieces
)

// Slab keeps things in large pieces of memory and gives them numbers. Things that name one another
// by these have no pointers: then the garbage collector need not look at any of them.
type Slab[T any] struct {
	pieces [][]T
	given  Number   // numbers given so far
	free   []Number // those given back
}

// Add makes a thing, as its zero value.
func (s *Slab[T]) Add() (Number, *T) {
	if last := len(s.free) - 1; last >= 0 {
		n := s.free[last]
		s.free = s.free[:last]
		return n, s.At(n)
	}
	s.given++
	if piece, at := where(s.given); at == 0 {
		s.pieces = append(s.pieces, make([]T, sizeOf(piece)))
	}
	return s.given, s.At(s.given)
}

// At is the thing with a number, which stays where it is. It is the zero value once that was
// freed.
func (s *Slab[T]) At(n Number) *T {
	piece, at := where(n)
	return &s.pieces[piece][at]
}

// Free forgets a thing. Its number is another's some time.
func (s *Slab[T]) Free(n Number) {
	*s.At(n) = *new(T)
	s.free = append(s.free, n)
}

// where is the piece of the thing with a number, and its place there.
func where(n Number) (piece, at int) {
	n += leastPiece - 1 // now the pieces begin at powers of two
	if n >= mostPiece {
		return smallPieces + int(n/mostPiece) - 1, int(n % mostPiece)
	}
	piece = bits.Len32(uint32(n/leastPiece)) - 1
	return piece, int(n) - sizeOf(piece)
}

// sizeOf is how many things a piece has.
func sizeOf(piece int) int { return leastPiece << min(piece, smallPieces) }
