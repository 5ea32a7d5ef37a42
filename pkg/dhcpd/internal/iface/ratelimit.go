package iface

import "time"

// RateLimits bounds how often each of many guests may do something. It remembers
// of each guest when it has all of its burst again, and forgets the one not seen for longest
// when there are too many. It is for one goroutine, or under a lock.
type RateLimits[K comparable] struct {
	every time.Duration // one more each
	burst int
	most  int // guests remembered
	begin time.Time
	seen  map[K]int32 // places in all
	all   []limit[K]  // a ring; the place 0 is nobody's, ahead of it is who was seen last
}

// limit is what is known of a guest.
type limit[K comparable] struct {
	key          K
	older, newer int32         // places
	again        time.Duration // since begin: when nothing of the burst is used up any more
}

// NewRateLimits makes limits of burst events at once and one more every so often,
// for the most guests seen last.
func NewRateLimits[K comparable](every time.Duration, burst, most int) *RateLimits[K] {
	return &RateLimits[K]{every: every, burst: burst, most: most, begin: time.Now(), seen: make(map[K]int32), all: make([]limit[K], 1)}
}

// Allow reports whether key may do it now, and counts it if so.
func (r *RateLimits[K]) Allow(key K, now time.Time) bool {
	at := r.seen[key]
	if at == 0 {
		at = r.remember(key)
	}
	r.move(at)
	of, t := &r.all[at], now.Sub(r.begin)
	if of.again-t > time.Duration(r.burst-1)*r.every {
		return false
	}
	of.again = max(of.again, t) + r.every
	return true
}

// remember makes place for a guest not seen before, who has used up nothing.
func (r *RateLimits[K]) remember(key K) int32 {
	at := r.all[0].newer
	if len(r.seen) < r.most {
		at = int32(len(r.all))
		r.all = append(r.all, limit[K]{older: at, newer: at})
	} else {
		delete(r.seen, r.all[at].key)
	}
	r.all[at].key, r.all[at].again = key, 0
	r.seen[key] = at
	return at
}

// move makes at the place of who was seen last.
func (r *RateLimits[K]) move(at int32) {
	of := &r.all[at]
	r.all[of.older].newer, r.all[of.newer].older = of.newer, of.older
	last := r.all[0].older
	of.older, of.newer = last, 0
	r.all[last].newer, r.all[0].older = at, at
}
