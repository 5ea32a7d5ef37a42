// Package index keeps things and texts by number, where the garbage collector has nothing to look
// at, and finds things by a key that they have themselves.
package index

import (
	"hash/maphash"
	"iter"
)

// Index has the numbers of things by the things' keys, one of a key. It takes a third of a map's
// memory, as the keys stand in the things alone. What a thing has for a key must not change while
// it is there.
type Index[K comparable] struct {
	key   func(Number) K
	seed  maphash.Seed
	slots []slot // a power of two; a thing stands where its hash says, or in the next free slot behind
	n     int
}

// slot has a thing, or 0. Its hash is there so that other things need not be looked at.
type slot struct {
	Number
	hash uint32
}

// leastSlots is how many slots there are at least, once there is anything.
const leastSlots = 8

// New makes an empty index by a key.
func New[K comparable](key func(Number) K) *Index[K] {
	return &Index[K]{key: key, seed: maphash.MakeSeed()}
}

// Len returns how many things there are.
func (x *Index[K]) Len() int { return x.n }

// Get returns the thing with a key, 0 when there is none.
func (x *Index[K]) Get(k K) Number {
	if x.n == 0 {
		return 0
	}
	return x.slots[x.find(k, x.hash(k))].Number
}

// Put adds a thing, in the place of one with its key.
func (x *Index[K]) Put(n Number) {
	if 4*(x.n+1) > 3*len(x.slots) {
		x.grow()
	}
	k := x.key(n)
	hash := x.hash(k)
	at := x.find(k, hash)
	if x.slots[at].Number == 0 {
		x.n++
	}
	x.slots[at] = slot{n, hash}
}

// Delete removes the thing with a key, if there is one.
func (x *Index[K]) Delete(k K) {
	if x.n == 0 {
		return
	}
	hole := x.find(k, x.hash(k))
	if x.slots[hole].Number == 0 {
		return
	}
	x.slots[hole] = slot{}
	x.n--
	// Those behind that would not be found any more move up.
	for at := x.behind(hole); x.slots[at].Number != 0; at = x.behind(at) {
		if home := x.home(x.slots[at].hash); (at-home)&x.mask() >= (at-hole)&x.mask() {
			x.slots[hole], x.slots[at] = x.slots[at], slot{}
			hole = at
		}
	}
}

// All yields the things there are when it is called, in any order. Things may come and go
// meanwhile.
func (x *Index[K]) All() iter.Seq[Number] {
	return func(yield func(Number) bool) {
		all := make([]Number, 0, x.n)
		for _, s := range x.slots {
			if s.Number != 0 {
				all = append(all, s.Number)
			}
		}
		for _, n := range all {
			if !yield(n) {
				return
			}
		}
	}
}

func (x *Index[K]) mask() uint32            { return uint32(len(x.slots) - 1) }
func (x *Index[K]) hash(k K) uint32         { return uint32(maphash.Comparable(x.seed, k)) }
func (x *Index[K]) home(hash uint32) uint32 { return hash & x.mask() }
func (x *Index[K]) behind(at uint32) uint32 { return (at + 1) & x.mask() }

// find returns the slot of the thing with a key, or the free one where it would stand. There are
// free slots.
func (x *Index[K]) find(k K, hash uint32) uint32 {
	at := x.home(hash)
	for s := x.slots[at]; s.Number != 0 && (s.hash != hash || x.key(s.Number) != k); s = x.slots[at] {
		at = x.behind(at)
	}
	return at
}

// grow doubles the slots.
func (x *Index[K]) grow() {
	had := x.slots
	x.slots = make([]slot, max(leastSlots, 2*len(had)))
	for _, s := range had {
		if s.Number == 0 {
			continue
		}
		at := x.home(s.hash)
		for x.slots[at].Number != 0 {
			at = x.behind(at)
		}
		x.slots[at] = s
	}
}
