package upstream

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vnetd/vnetd/pkg/dnsd/arrival"
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

	letters trait // what it does with the case of letters in a question's name
	edns    trait
	tcp     trait

	queries  atomic.Uint64 // sent to it
	failures atomic.Uint64 // questions without an answer other than a failure
	way      arrival.Memo

	mu          sync.Mutex
	row         int           // failures to answer in a row
	until       time.Time     // demoted until then
	heard       time.Time     // when it last answered
	rtt         time.Duration // round-trip time, smoothed; 0: it never answered
	tryingTCP   bool          // by one question for all
	triedTCP    time.Time     // when it was last over
	failuresTCP int           // in a row
	sockets     [socketSlots]*socket
}

// check0x20 checks the case of msg, an answer to query that came over UDP. It
// returns whether the message can be the server's. A doubtful one is to be asked
// for again over TCP, where nobody can guess an answer, unless that is known to fail: then it
// is believed of a server of which nothing is known. One that keeps the case may not do so where
// it asks another for a domain.
func (s *Server) check0x20(msg, query []byte, now time.Time) (possible, doubtful bool) {
	known := s.letters.verdict(now)
	if wire.RepeatsCase(msg, query) {
		if known != Lost {
			s.letters.confirm(Kept, now)
		}
		return true, false
	}
	fails := s.tcp.verdict(now) == Fails
	if known == Unknown && fails {
		s.letters.learn(Lost, now, memory)
		return true, false
	}
	return known != Kept || !fails, known != Lost
}

// learn0x20 notes what the server does with the case of letters by msg, an answer
// to query that came over TCP, nil if none did: then what was doubtful is taken, so that
// it costs one wait and not one per name. Of a server that is known to keep it one name says
// nothing.
func (s *Server) learn0x20(msg, query []byte, now time.Time) {
	switch {
	case msg != nil && wire.RepeatsCase(msg, query):
		s.letters.learn(Kept, now, memory)
	case s.letters.verdict(now) != Kept:
		s.letters.learn(Lost, now, memory)
	}
}

// noteEDNS notes that msg, which may be nil, came as the answer to query.
func (s *Server) noteEDNS(query, msg []byte, now time.Time) {
	if msg != nil && wire.HasEDNS(query) && wire.HasEDNS(msg) {
		s.edns.confirm(Works, now)
	}
}

// isLocal reports whether the server's address is one of this host, from which the kernel
// speaks to it then.
func (s *Server) isLocal() bool {
	if s.addr.Addr().IsLoopback() {
		return true
	}
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(s.addr))
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap() == s.addr.Addr()
}

// succeeded notes at now that the server answered what it was asked at asked.
func (s *Server) succeeded(now, asked time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	took := now.Sub(asked)
	if s.rtt > 0 && asked.Sub(s.heard) < memory {
		took = s.rtt + (took-s.rtt)/8 // RFC 6298 section 2.3: alpha is 1/8
	}
	s.rtt = took
	s.row, s.until, s.heard = 0, time.Time{}, now
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
	s.letters.forget() // it may be another server now
	s.edns.forget()
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

// health returns whether the server did not answer when it was asked last, and its
// round-trip time, 0 when it has not answered for long.
func (s *Server) health(now time.Time) (failing bool, rtt time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rtt = s.rtt; now.Sub(s.heard) > memory {
		rtt = 0
	}
	return s.row > 0, rtt
}

// choose returns the server that is asked first: as they are listed, but those that don't
// answer last.
func choose(servers []*Server, now time.Time) *Server {
	for _, s := range servers {
		if s.preferred(now) {
			return s
		}
	}
	return servers[0]
}

// inOrder returns the order in which servers are asked of which first was chosen.
func inOrder(servers []*Server, first *Server, now time.Time) []*Server {
	order := append(make([]*Server, 0, len(servers)), first)
	var demoted []*Server
	for _, s := range servers {
		switch {
		case s == first:
		case s.preferred(now):
			order = append(order, s)
		default:
			demoted = append(demoted, s)
		}
	}
	return append(order, demoted...)
}
