package iface

import (
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/time/rate"
)

// However many guests there are, only so many are remembered: those seen last.
func TestRateLimitsAreBounded(t *testing.T) {
	const most = 8
	r := NewRateLimits[int](time.Second, 1, most)
	now := time.Now()
	for n := range 1000 {
		if !r.Allow(n, now) {
			t.Errorf("guest %d may not do it once", n)
		}
	}
	if len(r.seen) != most || len(r.all) != most+1 {
		t.Errorf("%d guests are remembered in %d places, want %d", len(r.seen), len(r.all)-1, most)
	}
	for n := range most {
		if r.Allow(1000-most+n, now) {
			t.Errorf("guest %d may do it twice", 1000-most+n)
		}
	}
}

// Each guest is limited as by a bucket of its own, as long as it is one of those seen last.
func TestRateLimitsAreBuckets(t *testing.T) {
	const guests, burst, every = 16, 5, 30 * time.Millisecond
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	r := NewRateLimits[int](every, burst, guests)
	var buckets [guests]*rate.Limiter
	for n := range buckets {
		buckets[n] = rate.NewLimiter(rate.Every(every), burst)
	}
	now := time.Now()
	for step := range 20000 {
		now = now.Add(time.Duration(random.IntN(3)) * time.Millisecond)
		n := random.IntN(guests)
		if got, want := r.Allow(n, now), buckets[n].AllowN(now, 1); got != want {
			t.Fatalf("step %d: guest %d may do it: %v, want %v", step, n, got, want)
		}
	}
}
