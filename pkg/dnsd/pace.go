package dnsd

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// logEvery is how often guests can have the same thing said in the log.
const logEvery = 10 * time.Second

// pace keeps guests from filling the log. The zero pace is ready.
type pace struct {
	mu         sync.Mutex
	next       time.Time // nothing before
	suppressed int
}

// log logs, once in a while, with the number of times that it did not.
func (p *pace) log(log *slog.Logger, level slog.Level, message string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if now.Before(p.next) {
		p.suppressed++
		return
	}
	if p.suppressed > 0 {
		args = append(args, "suppressed", p.suppressed)
	}
	p.next, p.suppressed = now.Add(logEvery), 0
	log.Log(context.Background(), level, message, args...)
}
