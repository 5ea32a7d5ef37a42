package main

import "testing"

func TestSearch(t *testing.T) {
	const rungs = 12
	for capacity := -1; capacity < rungs; capacity++ {
		// A short run may be kinder or harsher than a long one.
		for bias := -2; bias <= 2; bias++ {
			runs := 0
			below, above := search(rungs,
				func(rung int) bool { return rung <= capacity+bias },
				func(rung int) bool {
					if rung < 0 || rung >= rungs {
						t.Fatalf("capacity %d, bias %d: rung %d was tried", capacity, bias, rung)
					}
					runs++
					return rung <= capacity
				})
			if below != capacity || above != capacity+1 || runs > maxLong {
				t.Errorf("capacity %d, bias %d: found %d and %d in %d long runs", capacity, bias, below, above, runs)
			}
		}
	}
}

func TestSearchIsBounded(t *testing.T) {
	for _, holds := range []bool{false, true} {
		runs := 0
		search(100, func(int) bool { return !holds }, func(int) bool { runs++; return holds })
		if runs > maxLong {
			t.Errorf("%d long runs where each says %v", runs, holds)
		}
	}
}
