package upstream

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vnetd/vnetd/pkg/dnsd/wire"
)

// How long a server that does not answer stands behind the others: doubled with
// each time that it fails again.
const (
	firstDemotion = 2 * time.Second
	maxDemotion   = time.Minute
	probing       = time.Second // for one query to find out whether it is back
)

// Server is a name server that is asked, and how it does. Its methods are safe
// for concurrent use.
type Server struct {
	addr netip.AddrPort

	letters  atomic.Int32  // result of the 0x20 check
	queries  atomic.Uint64 // sent to it
	failures atomic.Uint64 // questions without an answer other than a failure

	mu      sync.Mutex
	row     int           // failures to answer in a row
	until   time.Time     // demoted until then
	heard   time.Time     // when it last answered
	rtt     time.Duration // round-trip time, smoothed; 0: it never answered
	sockets [socketSlots]*socket
}

// Results of the 0x20 check: what a server does with the case of letters in a
// question's name.
const (
	caseUnknown = iota
	caseKept    // repeats it: an answer in another case is not the server's
	caseLost    // does not, as an answer over TCP has shown
)

// check0x20 checks the case of msg, an answer to query that came over UDP. It
// returns whether the message can be the server's. A doubtful one is to be asked
// for again over TCP, where nobody can guess an answer.
func (s *Server) check0x20(msg, query []byte) (possible, doubtful bool) {
	if wire.RepeatsCase(msg, query) {
		s.letters.CompareAndSwap(caseUnknown, caseKept)
		return true, false
	}
	known := s.letters.Load()
	return known != caseKept, known == caseUnknown
}

// learn0x20 notes what the server does with the case of letters by msg, an answer
// to query that came over TCP.
func (s *Server) learn0x20(msg, query []byte) {
	if wire.RepeatsCase(msg, query) {
		s.letters.Store(caseKept)
		return
	}
	s.letters.Store(caseLost)
}

// succeeded notes at now that the server answered what it was asked at asked.
func (s *Server) succeeded(now, asked time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.row, s.until, s.heard = 0, time.Time{}, now
	took := now.Sub(asked)
	if s.rtt > 0 {
		took = s.rtt + (took-s.rtt)/8 // RFC 6298 section 2.3: alpha is 1/8
	}
	s.rtt = took
}

// failed notes that the server did not answer a query asked at that time. It
// returns false when that means nothing: the server has answered another query
// since, so that it is only this name that it has no answer for; or it is
// demoted already, and of the queries that wait together only the first counts.
func (s *Server) failed(now, asked time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.heard.After(asked) || s.row > 0 && now.Before(s.until.Add(-probing)) {
		return false
	}
	s.until = now.Add(min(firstDemotion<<min(s.row, 10), maxDemotion))
	s.row++
	s.letters.Store(caseUnknown) // it may be another server now
	return true
}

// preferred reports whether the server is to be asked in its turn. Of one whose
// demotion is over only one query at a time finds out.
func (s *Server) preferred(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.row == 0 {
		return true
	}
	if now.Before(s.until) {
		return false
	}
	s.until = now.Add(probing)
	return true
}

// health returns whether the server did not answer when it was asked last, and
// its round-trip time.
func (s *Server) health() (failing bool, rtt time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.row > 0, s.rtt
}

// inOrder returns the order in which servers are asked: as they are listed, but
// those that don't answer last.
func inOrder(servers []*Server, now time.Time) []*Server {
	order := make([]*Server, 0, len(servers))
	var demoted []*Server
	for _, s := range servers {
		if s.preferred(now) {
			order = append(order, s)
		} else {
			demoted = append(demoted, s)
		}
	}
	return append(order, demoted...)
}
