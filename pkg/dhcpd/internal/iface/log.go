package iface

import (
	"log/slog"
	"sync"
	"time"
)

// logEvery is how often one kind of trouble is logged at most.
const logEvery = 10 * time.Second

// Log is the log of a network's server. Guests can't fill it: see Limited.
type Log struct {
	*slog.Logger
	mu    sync.Mutex
	kinds map[string]*logLimit
}

type logLimit struct {
	last       time.Time
	suppressed int
}

// NewLog returns a log to log, nil for the default, that names the network.
func NewLog(log *slog.Logger, network, bridge string) *Log {
	if log == nil {
		log = slog.Default()
	}
	return &Log{Logger: log.With("network", network, "bridge", bridge), kinds: make(map[string]*logLimit)}
}

// Limited warns of trouble that guests can cause, one kind of it not often. The
// number of kinds must be bounded.
func (l *Log) Limited(kind, msg string, args ...any) {
	if suppressed, ok := l.allow(kind, time.Now()); ok {
		l.Warn(msg, append(args, "suppressed", suppressed)...)
	}
}

// allow reports whether trouble of that kind may be logged now, and how often it
// was not since it last was.
func (l *Log) allow(kind string, now time.Time) (suppressed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.kinds[kind]
	if k != nil && now.Sub(k.last) < logEvery {
		k.suppressed++
		return 0, false
	}
	if k != nil {
		suppressed = k.suppressed
	}
	l.kinds[kind] = &logLimit{last: now}
	return suppressed, true
}
