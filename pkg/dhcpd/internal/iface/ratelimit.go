package iface

import (
	"container/list"
	"time"

	"golang.org/x/time/rate"
)

// RateLimits bounds how often each of many guests may do something. It holds a
// token bucket for each guest and forgets the one not seen for longest when there
// are too many. It is for one goroutine, or under a lock.
type RateLimits[K comparable] struct {
	every time.Duration // one more token each
	burst int
	max   int // guests remembered
	seen  map[K]*list.Element
	order *list.List // of *bucket[K], not seen for longest first
}

// bucket is a guest's token bucket.
type bucket[K comparable] struct {
	key K
	*rate.Limiter
}

// NewRateLimits makes limits of burst events at once and one more every so often,
// for the max guests seen last.
func NewRateLimits[K comparable](every time.Duration, burst, max int) *RateLimits[K] {
	return &RateLimits[K]{every: every, burst: burst, max: max, seen: make(map[K]*list.Element), order: list.New()}
}

// Allow reports whether key may do it now, and takes a token if so.
func (r *RateLimits[K]) Allow(key K, now time.Time) bool {
	e := r.seen[key]
	if e == nil {
		e = r.remember(key)
	}
	r.order.MoveToBack(e)
	return e.Value.(*bucket[K]).AllowN(now, 1)
}

// remember makes the full bucket of a guest not seen before.
func (r *RateLimits[K]) remember(key K) *list.Element {
	if len(r.seen) >= r.max {
		oldest := r.order.Remove(r.order.Front()).(*bucket[K])
		delete(r.seen, oldest.key)
	}
	e := r.order.PushBack(&bucket[K]{key, rate.NewLimiter(rate.Every(r.every), r.burst)})
	r.seen[key] = e
	return e
}
