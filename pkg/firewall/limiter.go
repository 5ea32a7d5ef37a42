package firewall

import "time"

// The limits of Watch: limitBurst repairs within limitWindow are done at once.
// After those each one waits twice as long as the one before it, from
// limitFirst up to limitLast, until a whole window has passed without any.
const (
	limitBurst  = 10
	limitWindow = time.Minute
	limitFirst  = time.Second
	limitLast   = 30 * time.Second
)

// limiter spaces repairs. The zero value has seen none.
type limiter struct {
	recent []time.Time // repairs within the window, the oldest first
	space  time.Duration
}

// wait is how long the next repair must wait, 0 if it may be now.
func (l *limiter) wait(now time.Time) time.Duration {
	l.drop(now)
	if l.space == 0 || len(l.recent) == 0 {
		return 0
	}
	return max(0, l.recent[len(l.recent)-1].Add(l.space).Sub(now))
}

// repaired notes a repair.
func (l *limiter) repaired(now time.Time) {
	l.drop(now)
	l.recent = append(l.recent, now)
	if len(l.recent) >= limitBurst || l.space > 0 {
		l.space = min(max(2*l.space, limitFirst), limitLast)
	}
}

// contended reports whether there were too many.
func (l *limiter) contended(now time.Time) bool {
	l.drop(now)
	return l.space > 0
}

// drop forgets repairs that are no longer within the window; when none is
// left, the peace is back.
func (l *limiter) drop(now time.Time) {
	for len(l.recent) > 0 && now.Sub(l.recent[0]) > limitWindow {
		l.recent = l.recent[1:]
	}
	if len(l.recent) == 0 {
		l.space = 0
	}
}
