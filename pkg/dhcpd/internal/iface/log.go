package iface

import (
	"log/slog"
	"sync"

	"github.com/vnetd/vnetd/internal/ratelog"
)

// Log is the log of a server of one network. Guests can't fill it: see Limited.
type Log struct {
	*slog.Logger
	mu       sync.Mutex
	limiters map[string]*ratelog.Limiter // by message
}

// NewLog returns a Log to log, nil for the default, that names the network.
func NewLog(log *slog.Logger, network, bridge string) *Log {
	if log == nil {
		log = slog.Default()
	}
	return &Log{Logger: log.With("network", network, "bridge", bridge), limiters: make(map[string]*ratelog.Limiter)}
}

// Limited warns of trouble that guests can cause, one message not often. The number
// of messages must be bounded.
func (l *Log) Limited(message string, args ...any) {
	l.mu.Lock()
	limiter := l.limiters[message]
	if limiter == nil {
		limiter = new(ratelog.Limiter)
		l.limiters[message] = limiter
	}
	l.mu.Unlock()
	limiter.Log(l.Logger, slog.LevelWarn, message, args...)
}
