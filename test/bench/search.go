package main

// maxLong bounds the long runs of a search.
const maxLong = 4

// search finds the highest rung that holds in a long run: rungs rise. Short
// runs find the place to begin, at the bottom first and then by halving; long
// runs, at most maxLong, go up from there while they hold, or down until one
// does. below is the best rung that held, above the lowest that failed; -1 and
// the number of rungs if there is none.
func search(rungs int, short, long func(rung int) bool) (below, above int) {
	low, high := 0, rungs
	if !short(low) {
		high = low + 1
	}
	for high-low > 1 {
		middle := (low + high) / 2
		if short(middle) {
			low = middle
		} else {
			high = middle
		}
	}
	below, above = -1, rungs
	for at, n := low, 0; n < maxLong && below < at && at < above; n++ {
		if long(at) {
			below = at
			at++
		} else {
			above = at
			at--
		}
	}
	return below, above
}
