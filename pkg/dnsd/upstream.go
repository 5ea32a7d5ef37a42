package dnsd

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// How long an upstream that does not answer stands behind the others: doubled
// with each time that it fails again.
const (
	firstDemotion = 2 * time.Second
	maxDemotion   = time.Minute
	probing       = time.Second // for one query to find out whether it is back
)

// upstream is a server that queries are forwarded to, and how it does.
type upstream struct {
	addr netip.AddrPort

	spelling atomic.Int32 // of the question in its answers

	queries  atomic.Uint64 // sent to it
	failures atomic.Uint64 // questions without an answer that is one

	mu    sync.Mutex
	row   int           // failures to answer in a row
	until time.Time     // demoted until then
	heard time.Time     // when it last answered
	rtt   time.Duration // how long it takes to, smoothed; 0: it never did
	ports [portSlots]*port
}

// What is known of an upstream's spelling.
const (
	spellingUnknown = iota
	spellingKept    // as it is asked: another answer is not the upstream's
	spellingLost    // in whatever case it likes, proven over TCP
)

// spoke tells whether msg, an answer to query that came over UDP, can be from
// the upstream by its spelling. A doubtful one is to be asked for again over TCP,
// where nobody can guess an answer.
func (u *upstream) spoke(msg, query []byte) (possible, doubtful bool) {
	if repeatsCase(msg, query) {
		u.spelling.CompareAndSwap(spellingUnknown, spellingKept)
		return true, false
	}
	known := u.spelling.Load()
	return known != spellingKept, known == spellingUnknown
}

// proved notes the spelling of msg, an answer to query that came over TCP.
func (u *upstream) proved(msg, query []byte) {
	if repeatsCase(msg, query) {
		u.spelling.Store(spellingKept)
		return
	}
	u.spelling.Store(spellingLost)
}

// succeeded notes that the upstream answered what it was asked then.
func (u *upstream) succeeded(now, asked time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.row, u.until, u.heard = 0, time.Time{}, now
	took := now.Sub(asked)
	if u.rtt > 0 {
		took = u.rtt + (took-u.rtt)/8 // RFC 6298 section 2.3: alpha is 1/8
	}
	u.rtt = took
}

// failed notes that the upstream did not answer a query asked at that time. It
// returns false when that means nothing: the upstream has answered another query
// since, so that it is only this name that it has no answer for; or it is
// demoted already, and of the queries that wait together only the first counts.
func (u *upstream) failed(now, asked time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.heard.After(asked) || u.row > 0 && now.Before(u.until.Add(-probing)) {
		return false
	}
	u.until = now.Add(min(firstDemotion<<min(u.row, 10), maxDemotion))
	u.row++
	u.spelling.Store(spellingUnknown) // it may be another server now
	return true
}

// preferred tells whether the upstream is to be asked in its turn. Of one whose
// demotion is over only one query at a time finds out.
func (u *upstream) preferred(now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.row == 0 {
		return true
	}
	if now.Before(u.until) {
		return false
	}
	u.until = now.Add(probing)
	return true
}

// inOrder is the order in which servers are asked: as they are listed, but
// those that don't answer last.
func inOrder(servers []*upstream, now time.Time) []*upstream {
	order := make([]*upstream, 0, len(servers))
	var demoted []*upstream
	for _, u := range servers {
		if u.preferred(now) {
			order = append(order, u)
		} else {
			demoted = append(demoted, u)
		}
	}
	return append(order, demoted...)
}
