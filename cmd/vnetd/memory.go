package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// How much the heap grows between collections, in percent of what is in use, and in bytes at
// least. The percents are less than Go's 100, since most of a large heap are leases, at
// which the collector has little to look. Of a small heap they would be so little that it
// is looked at all the time while clients come.
const (
	heapGrowth      = 25
	leastHeapGrowth = 8 << 20
)

// tuneCollector has the garbage collector be guided by these, unless GOGC says otherwise.
func tuneCollector() {
	if os.Getenv("GOGC") != "" {
		return
	}
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	set := debug.SetGCPercent(heapGrowth)
	tune := func() {
		metrics.Read(sample)
		if want := growth(sample[0].Value.Uint64()); want != set {
			debug.SetGCPercent(want)
			set = want
		}
	}
	afterCollections(tune)
	runtime.GC()
}

// growth is the percentage for a heap of which so many bytes are in use. It is rounded, for to
// set another one stops all for a moment.
func growth(live uint64) int {
	const step = 20
	percent := leastHeapGrowth * 100 / max(live, 1<<20)
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
