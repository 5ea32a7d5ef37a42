package main

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// A small heap grows by a fixed amount between collections, a large one by a share of it.
func TestHeapGrowth(t *testing.T) {
	for _, c := range []struct {
		live uint64
		want int
	}{{0, 800}, {1 << 20, 800}, {4 << 20, 200}, {6 << 20, 120}, {20 << 20, 40}, {1 << 30, 25}} {
		if got := growth(c.live); got != c.want {
			t.Errorf("of %d bytes it is %d percent, want %d", c.live, got, c.want)
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
