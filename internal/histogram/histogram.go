// Package histogram counts times in classes.
package histogram

import (
	"slices"
	"sync/atomic"
	"time"
)

// Histogram counts times. Its methods are safe for concurrent use and allocate
// nothing but for Load.
type Histogram struct {
	bounds []time.Duration
	counts []atomic.Uint64
	sum    atomic.Int64
}

// New returns an empty Histogram. bounds are the upper bounds of all classes but
// the last, which has none, in ascending order; they must not change.
func New(bounds []time.Duration) *Histogram {
	return &Histogram{bounds: bounds, counts: make([]atomic.Uint64, len(bounds)+1)}
}

// Add counts n times of d each.
func (h *Histogram) Add(d time.Duration, n int) {
	if n == 0 {
		return
	}
	i, _ := slices.BinarySearch(h.bounds, d)
	h.counts[i].Add(uint64(n))
	h.sum.Add(int64(d) * int64(n))
}

// Load returns what was counted so far.
func (h *Histogram) Load() Counts {
	c := Counts{Bounds: h.bounds, Counts: make([]uint64, len(h.counts)), Sum: time.Duration(h.sum.Load())}
	for i := range h.counts {
		c.Counts[i] = h.counts[i].Load()
	}
	return c
}

// Counts are the counts of a Histogram, or of several together.
type Counts struct {
	// Bounds are the upper bounds of all Counts but the last.
	Bounds []time.Duration
	// Counts are how many times were at most the bound of the same index, and
	// more than the bound before; the last counts those above all bounds.
	Counts []uint64
	// Sum is the sum of all times.
	Sum time.Duration
}

// Plus returns what c and more, which must have the same bounds or be zero,
// counted together.
func (c Counts) Plus(more Counts) Counts {
	if more.Counts == nil {
		return c
	}
	sum := Counts{Bounds: more.Bounds, Counts: slices.Clone(more.Counts), Sum: c.Sum + more.Sum}
	for i, n := range c.Counts {
		sum.Counts[i] += n
	}
	return sum
}
