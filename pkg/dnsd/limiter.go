package dnsd

import (
	"container/list"
	"net/netip"
	"sync"
)

// minShare is the part of all places that a client may have in any case.
const minShare = 16

// limiter shares a number of places among clients. A client may have as many
// as are free: one alone gets half of them, two a third each, and so on. A few it
// may have though none is free, as a guest may have taken them all under the names
// of many: who has had his for longest loses it then.
type limiter struct {
	places int
	few    int

	mu    sync.Mutex
	by    map[netip.Addr]int
	taken list.List // of *place, the one not used for longest first
}

// place is what a client has.
type place struct {
	client  netip.Addr
	yield   func()
	element *list.Element // nil: it was given back or is lost
}

func newLimiter(places int) *limiter {
	return &limiter{places: places, few: max(places/minShare, 1), by: make(map[netip.Addr]int)}
}

// acquire takes a place for client, to be given back by release. It returns nil
// when client has its share. yield is called, once and by whoever takes it, when the
// place is lost; it must not block.
func (l *limiter) acquire(client netip.Addr, yield func()) *place {
	p, lost := l.take(client, yield)
	if lost != nil {
		lost.yield()
	}
	return p
}

// take is acquire, but for the call of lost's yield.
func (l *limiter) take(client netip.Addr, yield func()) (p, lost *place) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.by[client] >= max(l.places-l.taken.Len(), l.few) {
		return nil, nil
	}
	if l.taken.Len() == l.places {
		lost = l.taken.Front().Value.(*place)
		l.remove(lost)
	}
	p = &place{client: client, yield: yield}
	p.element = l.taken.PushBack(p)
	l.by[client]++
	return p, lost
}

// remove takes p out. l.mu must be held.
func (l *limiter) remove(p *place) {
	l.taken.Remove(p.element)
	p.element = nil
	l.by[p.client]--
	if l.by[p.client] == 0 {
		delete(l.by, p.client)
	}
}

// use notes that p is of use.
func (l *limiter) use(p *place) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.element != nil {
		l.taken.MoveToBack(p.element)
	}
}

// release gives p back, if it is not lost.
func (l *limiter) release(p *place) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.element != nil {
		l.remove(p)
	}
}

// inUse is the number of places taken.
func (l *limiter) inUse() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.taken.Len()
}
