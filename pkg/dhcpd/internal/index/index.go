// Package index finds things by a key that they have themselves.
package index

import (
	"hash/maphash"
	"iter"
	"slices"
)

// Index has things by their keys, one of a key. It takes a third of a map's memory, as the keys
// stand in the things alone. What a thing has for a key must not change while it is there.
type Index[K comparable, T any] struct {
	key   func(*T) K
	seed  maphash.Seed
	slots []*T // a power of two; a thing stands where its hash says, or in the next free slot behind
	n     int
}

// leastSlots is how many slots there are at least, once there is anything.
const leastSlots = 8

// New makes an empty index by a key.
func New[K comparable, T any](key func(*T) K) *Index[K, T] {
	return &Index[K, T]{key: key, seed: maphash.MakeSeed()}
}

// Len returns how many things there are.
func (x *Index[K, T]) Len() int { return x.n }

// Get returns the thing with a key, nil when there is none.
func (x *Index[K, T]) Get(k K) *T {
	if x.n == 0 {
		return nil
	}
	return x.slots[x.find(k)]
}

// Put adds a thing, in the place of one with its key.
func (x *Index[K, T]) Put(t *T) {
	if 4*(x.n+1) > 3*len(x.slots) {
		x.grow()
	}
	at := x.find(x.key(t))
	if x.slots[at] == nil {
		x.n++
	}
	x.slots[at] = t
}

// Delete removes the thing with a key, if there is one.
func (x *Index[K, T]) Delete(k K) {
	if x.n == 0 {
		return
	}
	hole := x.find(k)
	if x.slots[hole] == nil {
		return
	}
	x.slots[hole] = nil
	x.n--
	// Those behind that would not be found any more move up.
	for at := x.behind(hole); x.slots[at] != nil; at = x.behind(at) {
		if home := x.home(x.key(x.slots[at])); (at-home)&x.mask() >= (at-hole)&x.mask() {
			x.slots[hole], x.slots[at] = x.slots[at], nil
			hole = at
		}
	}
}

// All yields the things there are when it is called, in any order. Things may come and go
// meanwhile.
func (x *Index[K, T]) All() iter.Seq[*T] {
	return func(yield func(*T) bool) {
		for _, t := range slices.Clone(x.slots) {
			if t != nil && !yield(t) {
				return
			}
		}
	}
}

func (x *Index[K, T]) mask() uint64            { return uint64(len(x.slots) - 1) }
func (x *Index[K, T]) home(k K) uint64         { return maphash.Comparable(x.seed, k) & x.mask() }
func (x *Index[K, T]) behind(at uint64) uint64 { return (at + 1) & x.mask() }

// find returns the slot of the thing with a key, or the free one where it would stand. There are
// free slots.
func (x *Index[K, T]) find(k K) uint64 {
	at := x.home(k)
	for x.slots[at] != nil && x.key(x.slots[at]) != k {
		at = x.behind(at)
	}
	return at
}

// grow doubles the slots.
func (x *Index[K, T]) grow() {
	had := x.slots
	x.slots = make([]*T, max(leastSlots, 2*len(had)))
	for _, t := range had {
		if t != nil {
			x.slots[x.find(x.key(t))] = t
		}
	}
}
