package dnsd

import (
	"container/list"
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
	taken list.List // of *slot, the one not used for longest first
}

// slot is one of the slots, in use by a client.
type slot struct {
	client  netip.Addr
	yield   func()
	element *list.Element // nil: it was released or is lost
}

func newSlots(total int) *slots {
	return &slots{total: total, few: max(total/minShare, 1), by: make(map[netip.Addr]int)}
}

// acquire returns a slot for client, to be released, or nil when client has its
// share. yield is called when the slot is lost, once and by the goroutine of
// another client; it must not block.
func (s *slots) acquire(client netip.Addr, yield func()) *slot {
	p, lost := s.take(client, yield)
	if lost != nil {
		lost.yield()
	}
	return p
}

// take is acquire without the call of yield of the slot that was lost.
func (s *slots) take(client netip.Addr, yield func()) (p, lost *slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by[client] >= max(s.total-s.taken.Len(), s.few) {
		return nil, nil
	}
	if s.taken.Len() == s.total {
		lost = s.taken.Front().Value.(*slot)
		s.remove(lost)
	}
	p = &slot{client: client, yield: yield}
	p.element = s.taken.PushBack(p)
	s.by[client]++
	return p, lost
}

// remove ends the use of p. s.mu must be held.
func (s *slots) remove(p *slot) {
	s.taken.Remove(p.element)
	p.element = nil
	s.by[p.client]--
	if s.by[p.client] == 0 {
		delete(s.by, p.client)
	}
}

// use notes that p is in use now.
func (s *slots) use(p *slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.element != nil {
		s.taken.MoveToBack(p.element)
	}
}

// release gives p back, unless it is lost.
func (s *slots) release(p *slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.element != nil {
		s.remove(p)
	}
}

// inUse returns the number of slots in use.
func (s *slots) inUse() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken.Len()
}
