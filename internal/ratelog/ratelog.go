// Package ratelog keeps guests from filling the log.
package ratelog

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// interval is the time in which guests can have the same thing logged once.
const interval = 10 * time.Second

// Limiter limits how often one thing is logged. The zero value is ready. Its
// method is safe for concurrent use.
type Limiter struct {
	mu         sync.Mutex
	limit      *rate.Limiter
	suppressed int
}

// Log logs at most once in 10 seconds, with the number of times that it did not
// in between.
func (l *Limiter) Log(log *slog.Logger, level slog.Level, message string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.limit == nil {
		l.limit = rate.NewLimiter(rate.Every(interval), 1)
	}
	if !l.limit.Allow() {
		l.suppressed++
		return
	}
	if l.suppressed > 0 {
		args = append(args, "suppressed", l.suppressed)
	}
	l.suppressed = 0
	log.Log(context.Background(), level, message, args...)
}
