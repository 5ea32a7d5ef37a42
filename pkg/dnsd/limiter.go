package dnsd

import (
	"net/netip"
	"sync"
)

// limiter shares a number of places among clients. A client may have as many
// as are free: one alone gets half of them, two a third each, and so on, so
// that there is always room for another.
type limiter struct {
	places int

	mu    sync.Mutex
	taken int
	by    map[netip.Addr]int
}

func newLimiter(places int) *limiter {
	return &limiter{places: places, by: make(map[netip.Addr]int)}
}

// acquire takes a place for client, to be given back by release. It returns
// false when client has its share.
func (l *limiter) acquire(client netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.by[client] >= l.places-l.taken {
		return false
	}
	l.taken++
	l.by[client]++
	return true
}

// release gives a place of client back.
func (l *limiter) release(client netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken--
	l.by[client]--
	if l.by[client] == 0 {
		delete(l.by, client)
	}
}

// inUse is the number of places taken.
func (l *limiter) inUse() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.taken
}
