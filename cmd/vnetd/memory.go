package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// How much the heap grows between collections, in percent of what is in use, and in bytes at
// least. The percents are less than Go's 100, since most of a large heap are leases, at
// which the collector has little to look. Of a small heap they would be so little that it
// is looked at all the time while clients come.
//
// A heap is larger than ordinaryHeap on a host with some hundred networks. At such a percentage
// the collector would take a third of the processor time in which they are started. So once
// collections follow each other faster than busy, and until one is longer than rest after the
// former, the heap may grow by what it has above ordinaryHeap; the last of it is given back with
// the next collection, after two minutes at most.
const (
	heapGrowth      = 25
	leastHeapGrowth = 8 << 20
	ordinaryHeap    = 32 << 20
	busy            = 2 * time.Second
	rest            = 15 * time.Second
)

// tuneCollector has the garbage collector be guided by these, unless GOGC says otherwise.
func tuneCollector() {
	if os.Getenv("GOGC") != "" {
		return
	}
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	set := debug.SetGCPercent(heapGrowth)
	var hurry bool
	var last time.Time
	tune := func() {
		metrics.Read(sample)
		hurry = hurried(hurry, time.Since(last))
		last = time.Now()
		want := growth(sample[0].Value.Uint64(), hurry)
		if want != set {
			debug.SetGCPercent(want)
			set = want
		}
	}
	afterCollections(tune)
	runtime.GC()
}

// hurried reports whether a large heap may grow more, as it might before a collection that came so
// long after the former one.
func hurried(before bool, since time.Duration) bool {
	return since < busy || before && since < rest
}

// growth is the percentage for a heap of which so many bytes are in use. It is rounded, for to
// set another one stops all for a moment.
func growth(live uint64, hurry bool) int {
	const step = 20
	bytes := uint64(leastHeapGrowth)
	if hurry && live > ordinaryHeap {
		bytes = max(bytes, live-ordinaryHeap)
	}
	percent := bytes * 100 / max(live, 1<<20)
	return int(max(heapGrowth, percent/step*step))
}

// afterCollections calls f after each collection, from a goroutine of the runtime: it must be
// quick.
func afterCollections(f func()) {
	type canary struct{ _ *byte } // has a pointer, lest it share its memory with others
	var again func(*canary)
	again = func(c *canary) {
		f()
		runtime.SetFinalizer(c, again)
	}
	runtime.SetFinalizer(new(canary), again)
}
