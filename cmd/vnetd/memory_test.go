package main

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// A small heap grows by a fixed amount between collections, a large one by a share of it, and a very
// large one by more while collections follow each other fast.
func TestHeapGrowth(t *testing.T) {
	for _, c := range []struct {
		live  uint64
		hurry bool
		want  int
	}{
		{0, false, 800},
		{1 << 20, false, 800},
		{4 << 20, false, 200},
		{6 << 20, false, 120},
		{20 << 20, false, 40},
		{20 << 20, true, 40},
		{32 << 20, true, 25},
		{64 << 20, true, 40},
		{128 << 20, true, 60},
		{128 << 20, false, 25},
		{1 << 30, false, 25},
	} {
		if got := growth(c.live, c.hurry); got != c.want {
			t.Errorf("of %d bytes, in a hurry %v, it is %d percent, want %d", c.live, c.hurry, got, c.want)
		}
	}
}

// A heap that may grow more has its collections further apart, and is not taken for one at rest.
func TestHurry(t *testing.T) {
	hurry := false
	for i, c := range []struct {
		since time.Duration
		want  bool
	}{{time.Minute, false}, {3 * time.Second, false}, {time.Second, true}, {3 * time.Second, true}, {14 * time.Second, true}, {16 * time.Second, false}, {3 * time.Second, false}} {
		if hurry = hurried(hurry, c.since); hurry != c.want {
			t.Errorf("collection %d, %v after the former: %v, want %v", i, c.since, hurry, c.want)
		}
	}
}

// What is to be done after collections is done after each.
func TestAfterCollections(t *testing.T) {
	var times atomic.Int32
	afterCollections(func() { times.Add(1) })
	for n := int32(1); n <= 3; n++ {
		runtime.GC()
		for limit := time.Now().Add(30 * time.Second); times.Load() < n; runtime.Gosched() {
			if time.Now().After(limit) {
				t.Fatalf("done %d times after %d collections", times.Load(), n)
			}
		}
	}
}
