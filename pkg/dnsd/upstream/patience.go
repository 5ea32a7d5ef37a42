package upstream

import (
	"sync"
	"time"
)

// patience has the questions that wait for the first answer to their first attempt, without
// a goroutine and a timer of their own. Each is for one to go on with: the reader that has
// its answer, whoever has no need of it any more, or late, which is called where it has
// waited for too long. As all wait for equally long, the one that has waited for longest is
// the first in a list.
//
// The zero value is not ready: see newPatience. Methods are safe for concurrent use.
type patience struct {
	late func(*InFlight)

	mu    sync.Mutex
	list  place       // of a ring: next is the first, prev the last
	timer *time.Timer // fires once the first in the list is late, or before; nil: the list was always empty
	armed bool
}

// place is the place of a question in the list, guarded by patience.mu. Nobody goes on with
// a question that is in the list.
type place struct {
	inFlight   *InFlight
	prev, next *place // nil: it is not in the list
	until      time.Time
}

// newPatience returns one without questions, which calls late.
func newPatience(late func(*InFlight)) *patience {
	p := &patience{late: late}
	p.list.prev, p.list.next = &p.list, &p.list
	return p
}

// add has f wait from now on.
func (p *patience) add(f *InFlight, wait time.Duration, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f.place = place{inFlight: f, prev: p.list.prev, next: &p.list, until: now.Add(wait)}
	p.list.prev.next, p.list.prev = &f.place, &f.place
	if !p.armed {
		p.arm(wait)
	}
}

// arm has the timer fire after d. p.mu must be held.
func (p *patience) arm(d time.Duration) {
	p.armed = true
	if p.timer == nil {
		p.timer = time.AfterFunc(d, p.fire)
		return
	}
	p.timer.Reset(d)
}

// claim reports whether the question at a place waits, which it does no more then: the
// caller goes on with it.
func (p *patience) claim(at *place) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return at.leave()
}

// leave has the question wait no more; false: it does not. patience.mu must be held.
func (at *place) leave() bool {
	if at.next == nil {
		return false
	}
	at.prev.next, at.next.prev = at.next, at.prev
	at.prev, at.next = nil, nil
	return true
}

// take claims the questions that wait and that which is true of.
func (p *patience) take(which func(*InFlight) bool) (taken []*InFlight) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for at := p.list.next; at != &p.list; {
		f := at.inFlight
		at = at.next
		if which(f) {
			f.give()
			taken = append(taken, f)
		}
	}
	return taken
}

// pass gives a to the goroutine that waits for it instead, if there is one.
func (p *patience) pass(f *InFlight, a answer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case f.first.pending.answer <- a:
	default: // nobody waits, or it has one
	}
}

// give has f wait no more, whose answer a goroutine waits for from now on. patience.mu must
// be held.
func (f *InFlight) give() {
	f.place.leave()
	f.first.pending.answer = make(chan answer, 1)
}

// fire goes on with the questions that have waited for too long.
func (p *patience) fire() {
	for f := p.overdue(); f != nil; f = p.overdue() {
		p.late(f)
	}
}

// overdue claims a question that has waited for too long. If there is none it returns nil,
// and the timer fires again in time, or rests while nothing waits.
func (p *patience) overdue() *InFlight {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed = false
	f := p.list.next.inFlight
	if f == nil {
		return nil
	}
	if d := time.Until(f.place.until); d > 0 {
		p.arm(d)
		return nil
	}
	f.give()
	return f
}
