package contention

import (
	"testing"
	"time"
)

// attack is a peer that removes a rule as soon as it is back, from start on for
// the duration. It returns when the repairs were made.
func attack(l *Limiter, start time.Time, duration time.Duration) []time.Time {
	var repairs []time.Time
	for now := start; now.Before(start.Add(duration)); now = now.Add(100 * time.Millisecond) {
		if l.Wait(now) == 0 {
			l.Repaired(now)
			repairs = append(repairs, now)
		}
	}
	return repairs
}

func TestLimiterBoundsRepairs(t *testing.T) {
	l, start := new(Limiter), time.Unix(1e9, 0)
	first := attack(l, start, time.Minute)
	if len(first) < Burst || len(first) > Burst+6 {
		t.Errorf("%d repairs within the first minute", len(first))
	}
	if !l.Contended(start.Add(time.Minute)) {
		t.Error("not contended")
	}
	if later := attack(l, start.Add(time.Minute), 10*time.Minute); len(later) > 21 {
		t.Errorf("%d repairs within ten more minutes", len(later))
	}
}

func TestLimiterForgets(t *testing.T) {
	l, start := new(Limiter), time.Unix(1e9, 0)
	attack(l, start, 5*time.Second)
	peace := start.Add(5*time.Second + 2*Window)
	if l.Contended(peace) || l.Wait(peace) != 0 {
		t.Error("still contended after a window of peace")
	}
	l.Repaired(peace)
	if l.Wait(peace) != 0 {
		t.Error("the first repair after the peace makes the next one wait")
	}
}
