package dhcpd

import (
	"sync"
	"time"
)

// logEvery is how often one kind of trouble is logged at most.
const logEvery = 10 * time.Second

// limiter keeps guests from filling the log. The zero value is ready to use, by
// several goroutines.
type limiter struct {
	mu    sync.Mutex
	kinds map[string]*limit
}

type limit struct {
	last       time.Time
	suppressed int
}

// allow reports whether trouble of that kind may be logged now, and how often it
// was not since it last was. The number of kinds must be bounded.
func (l *limiter) allow(kind string, now time.Time) (suppressed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.kinds[kind]
	switch {
	case k == nil:
		if l.kinds == nil {
			l.kinds = make(map[string]*limit)
		}
		l.kinds[kind] = &limit{last: now}
		return 0, true
	case now.Sub(k.last) < logEvery:
		k.suppressed++
		return 0, false
	default:
		suppressed = k.suppressed
		*k = limit{last: now}
		return suppressed, true
	}
}
