package dbusapi

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// callLimit is how long one call may take before its context ends; one that
// checks rights itself sees to that, too.
const callLimit = 2 * time.Minute

// pacer allows each user so many calls a second, and twice as many at once.
type pacer struct {
	perSecond int // 0: no limit

	mu    sync.Mutex
	users map[uint32]*rate.Limiter
}

func newPacer(perSecond int) *pacer {
	return &pacer{perSecond: perSecond, users: make(map[uint32]*rate.Limiter)}
}

// allow counts one call of a user and reports whether it may be. Root may always.
func (p *pacer) allow(uid uint32) bool {
	if uid == 0 || p.perSecond == 0 {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.users[uid]
	if l == nil {
		l = rate.NewLimiter(rate.Limit(p.perSecond), 2*p.perSecond)
		p.users[uid] = l
	}
	return l.Allow()
}
