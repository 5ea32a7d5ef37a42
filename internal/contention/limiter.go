// Package contention spaces repairs of what somebody else may keep undoing, so that
// nobody fights: the first ones are done at once, later ones ever more rarely.
package contention

import "time"

// The limits: Burst repairs within Window are done at once. After those each one waits
// twice as long as the one before it, from limitFirst up to limitLast, until a whole
// window has passed without any.
const (
	Burst      = 10
	Window     = time.Minute
	limitFirst = time.Second
	limitLast  = 30 * time.Second
)

// Limiter spaces repairs of one thing. The zero value has seen none; it is not safe for
// concurrent use.
type Limiter struct {
	recent []time.Time // repairs within the window, the oldest first
	space  time.Duration
}

// Wait is how long the next repair must wait, 0 if it may be now.
func (l *Limiter) Wait(now time.Time) time.Duration {
	l.drop(now)
	if l.space == 0 || len(l.recent) == 0 {
		return 0
	}
	return max(0, l.recent[len(l.recent)-1].Add(l.space).Sub(now))
}

// Repaired notes a repair.
func (l *Limiter) Repaired(now time.Time) {
	l.drop(now)
	l.recent = append(l.recent, now)
	if len(l.recent) >= Burst || l.space > 0 {
		l.space = min(max(2*l.space, limitFirst), limitLast)
	}
}

// Contended reports whether there were too many.
func (l *Limiter) Contended(now time.Time) bool {
	l.drop(now)
	return l.space > 0
}

// Idle reports whether there was no repair for a window: the limiter may be forgotten.
func (l *Limiter) Idle(now time.Time) bool {
	l.drop(now)
	return len(l.recent) == 0
}

// drop forgets repairs that are no longer within the window; when none is
// left, the peace is back.
func (l *Limiter) drop(now time.Time) {
	for len(l.recent) > 0 && now.Sub(l.recent[0]) > Window {
		l.recent = l.recent[1:]
	}
	if len(l.recent) == 0 {
		l.space = 0
	}
}
