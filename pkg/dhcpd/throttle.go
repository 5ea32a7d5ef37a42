package dhcpd

import (
	"container/list"
	"time"
)

// throttle bounds how often each of many guests may do something: a token bucket
// for each, and memory for a bounded number of them. Whoever was seen longest ago
// is forgotten first. It is for one goroutine, or under a lock.
type throttle[K comparable] struct {
	every time.Duration // one more each
	burst int
	max   int // guests remembered
	seen  map[K]*list.Element
	order *list.List // of *bucket[K], seen longest ago first
}

// bucket holds what a guest may still do. It is full again at a time.
type bucket[K comparable] struct {
	key  K
	full time.Time
}

func newThrottle[K comparable](every time.Duration, burst, max int) *throttle[K] {
	return &throttle[K]{every: every, burst: burst, max: max, seen: make(map[K]*list.Element), order: list.New()}
}

// allow reports whether key may do it now, and takes note.
func (t *throttle[K]) allow(key K, now time.Time) bool {
	e := t.seen[key]
	if e == nil {
		e = t.remember(key)
	}
	t.order.MoveToBack(e)
	b := e.Value.(*bucket[K])
	if b.full.Before(now) {
		b.full = now
	}
	if b.full.Sub(now) > time.Duration(t.burst-1)*t.every {
		return false
	}
	b.full = b.full.Add(t.every)
	return true
}

// remember makes the full bucket of a guest not seen before.
func (t *throttle[K]) remember(key K) *list.Element {
	if len(t.seen) >= t.max {
		oldest := t.order.Remove(t.order.Front()).(*bucket[K])
		delete(t.seen, oldest.key)
	}
	e := t.order.PushBack(&bucket[K]{key: key})
	t.seen[key] = e
	return e
}
