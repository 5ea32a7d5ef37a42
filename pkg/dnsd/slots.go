package dnsd

import (
	"net/netip"
	"sync"
)

// minShare is the divisor of all slots that a client may have in any case.
const minShare = 16

// slots are shared among clients. A client may have as many as are free: one alone
// gets half of them, two a third each, and so on. A few it may have though none is
// free, as a guest may have taken them all under the addresses of many: the one
// not used for longest is lost then. Methods are safe for concurrent use.
type slots struct {
	total int
	few   int // slots that a client has in any case

	mu    sync.Mutex
	by    map[netip.Addr]int
	n     int  // in use
	taken slot // of a ring of those: next is the one not used for longest
}

// slot is one of the slots, in use by a client; the zero value is in use by none.
type slot struct {
	client     netip.Addr
	yield      func()
	prev, next *slot // nil: it was released or is lost
}

func newSlots(total int) *slots {
	s := &slots{total: total, few: max(total/minShare, 1), by: make(map[netip.Addr]int)}
	s.taken.prev, s.taken.next = &s.taken, &s.taken
	return s
}

// acquire makes p, the zero value, a slot for client, to be released; false: client has its
// share. yield is called when the slot is lost, once and by the goroutine of
// another client; it must not block.
func (s *slots) acquire(p *slot, client netip.Addr, yield func()) bool {
	p.client, p.yield = client, yield
	ok, lost := s.take(p)
	if lost != nil {
		lost.yield()
	}
	return ok
}

// take is acquire without the call of yield of the slot that was lost.
func (s *slots) take(p *slot) (ok bool, lost *slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by[p.client] >= max(s.total-s.n, s.few) {
		return false, nil
	}
	if s.n == s.total {
		lost = s.taken.next
		s.remove(lost)
	}
	s.append(p)
	s.n++
	s.by[p.client]++
	return true, lost
}

// remove ends the use of p. s.mu must be held.
func (s *slots) remove(p *slot) {
	p.unlink()
	s.n--
	s.by[p.client]--
	if s.by[p.client] == 0 {
		delete(s.by, p.client)
	}
}

// append puts p at the end of those in use. s.mu must be held.
func (s *slots) append(p *slot) {
	p.prev, p.next = s.taken.prev, &s.taken
	p.prev.next, s.taken.prev = p, p
}

// unlink takes p out of those in use. The mutex of its slots must be held.
func (p *slot) unlink() {
	p.prev.next, p.next.prev = p.next, p.prev
	p.prev, p.next = nil, nil
}

// use notes that p is in use now.
func (s *slots) use(p *slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.next != nil {
		p.unlink()
		s.append(p)
	}
}

// release gives p back, unless it is lost.
func (s *slots) release(p *slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.next != nil {
		s.remove(p)
	}
}

// inUse returns the number of slots in use.
func (s *slots) inUse() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}
