package dnsd

import (
	"slices"
	"sync/atomic"
	"time"
)

// latencyBounds are the upper ends of a Latency's classes; the last has none.
var latencyBounds = [...]time.Duration{
	50 * time.Microsecond, 100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond,
	25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond,
	500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 10 * time.Second,
}

// Latency is a histogram of times.
type Latency struct {
	// Counts are how many took at most as long as the bound of the same index
	// says, and longer than the bound before; the last counts those above all
	// bounds.
	Counts [len(latencyBounds) + 1]uint64
	// Sum is the total time.
	Sum time.Duration
}

// Bounds are the upper bounds of all Counts but the last, in ascending order.
func (Latency) Bounds() []time.Duration { return slices.Clone(latencyBounds[:]) }

// latency is a Latency that is being taken.
type latency struct {
	counts [len(latencyBounds) + 1]atomic.Uint64
	sum    atomic.Int64
}

// add counts n that took d each.
func (l *latency) add(d time.Duration, n int) {
	if n == 0 {
		return
	}
	i, _ := slices.BinarySearch(latencyBounds[:], d)
	l.counts[i].Add(uint64(n))
	l.sum.Add(int64(d) * int64(n))
}

func (l *latency) load() (all Latency) {
	for i := range l.counts {
		all.Counts[i] = l.counts[i].Load()
	}
	all.Sum = time.Duration(l.sum.Load())
	return all
}
