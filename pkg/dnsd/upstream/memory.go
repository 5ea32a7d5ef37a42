package upstream

import (
	"sync"
	"sync/atomic"
	"time"
)

// What is learnt of a server is forgotten after a while, since it may be another one by
// then, or have another firewall before it; and sooner where it no longer answers.
const (
	memory     = time.Hour
	memoryLeft = time.Minute      // of what is in doubt
	memoryTCP  = 10 * time.Minute // that TCP fails, doubled with each time
	memoryMost = 12 * time.Hour
	againTCP   = 30 * time.Second // before it is tried again in the background
)

// Verdict is what is known of a trait of a server.
type Verdict string

// The verdicts. A trait that was not seen, or was for too long, is unknown.
const (
	Unknown Verdict = "unknown"
	Kept    Verdict = "kept"  // letters: the question's name is repeated as it was written
	Lost    Verdict = "lost"  // letters: it is not. EDNS: queries that have it are not answered
	Works   Verdict = "works" // EDNS, TCP
	Fails   Verdict = "fails" // TCP
)

// trait is one thing that was learnt about a server. Its methods are safe for concurrent
// use.
type trait struct {
	learnt atomic.Pointer[lesson]

	mu      sync.Mutex
	waiting chan struct{} // nil: nobody waits for news
}

// lesson is a verdict and when it is forgotten.
type lesson struct {
	verdict Verdict
	until   time.Time
}

// verdict returns what is known at now.
func (t *trait) verdict(now time.Time) Verdict {
	l := t.learnt.Load()
	if l == nil || now.After(l.until) {
		return Unknown
	}
	return l.verdict
}

// learn notes a verdict at now, for as long as it is remembered.
func (t *trait) learn(v Verdict, now time.Time, life time.Duration) {
	t.learnt.Store(&lesson{verdict: v, until: now.Add(life)})
	t.tell()
}

// news returns what is closed when something is learnt next.
func (t *trait) news() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting == nil {
		t.waiting = make(chan struct{})
	}
	return t.waiting
}

// tell wakes who waits for news.
func (t *trait) tell() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting != nil {
		close(t.waiting)
		t.waiting = nil
	}
}

// confirm is learn for what is seen with each answer: it is noted when half of its time
// has passed.
func (t *trait) confirm(v Verdict, now time.Time) {
	if l := t.learnt.Load(); l == nil || l.verdict != v || l.until.Sub(now) < memory/2 {
		t.learn(v, now, memory)
	}
}

// doubt has it be forgotten soon that something works, unless that is seen again; false if that is
// not known.
func (t *trait) doubt(now time.Time) bool {
	l := t.learnt.Load()
	if l == nil || l.verdict != Works || now.After(l.until) {
		return false
	}
	if l.until.Sub(now) > memoryLeft {
		t.learn(Works, now, memoryLeft)
	}
	return true
}

// forget has nothing be known.
func (t *trait) forget() { t.learnt.Store(nil) }

// tryTCP reports whether the server is to be asked over TCP. If not, that is known to fail,
// and news is nil, or another question finds out, and news is closed when that is over.
// Whoever tries calls noteTCP or leaveTCP.
func (s *Server) tryTCP(now time.Time) (try bool, news <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.tcp.verdict(now) {
	case Works:
		return true, nil
	case Fails:
		return false, nil
	}
	if s.tryingTCP {
		return false, s.tcp.news()
	}
	s.tryingTCP = true
	return true, nil
}

// leaveTCP has another question find out.
func (s *Server) leaveTCP() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tryingTCP = false
	s.tcp.tell()
}

// dueTCP reports whether the server, which could not be asked over TCP, is to be tried again.
func (s *Server) dueTCP(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tryingTCP || now.Sub(s.triedTCP) < againTCP {
		return false
	}
	s.tryingTCP = true
	return true
}

// noteTCP notes at now whether the server could be asked over TCP.
func (s *Server) noteTCP(ok bool, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tryingTCP, s.triedTCP = false, now
	if ok {
		s.failuresTCP = 0
		s.tcp.learn(Works, now, memory)
		return
	}
	s.tcp.learn(Fails, now, min(memoryTCP<<min(s.failuresTCP, 10), memoryMost))
	s.failuresTCP++
}
