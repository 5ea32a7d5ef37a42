package upstream

import (
	"sync/atomic"
	"time"
)

// What is learnt of a server is forgotten after a while, since it may be another one by
// then, or have another firewall before it; and sooner where it no longer answers.
const (
	memory     = time.Hour
	memoryTCP  = 10 * time.Minute // that TCP fails, doubled with each time
	memoryMost = 12 * time.Hour
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
type trait struct{ learnt atomic.Pointer[lesson] }

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
}

// confirm is learn for what is seen with each answer: it is noted when half of its time
// has passed.
func (t *trait) confirm(v Verdict, now time.Time) {
	if l := t.learnt.Load(); l == nil || l.verdict != v || l.until.Sub(now) < memory/2 {
		t.learn(v, now, memory)
	}
}

// forget has nothing be known.
func (t *trait) forget() { t.learnt.Store(nil) }

// noteTCP notes at now whether the server could be asked over TCP.
func (s *Server) noteTCP(ok bool, now time.Time) {
	if ok {
		s.failuresTCP.Store(0)
		s.tcp.learn(Works, now, memory)
		return
	}
	row := s.failuresTCP.Add(1)
	s.tcp.learn(Fails, now, min(memoryTCP<<min(row-1, 10), memoryMost))
}
