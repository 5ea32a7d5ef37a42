package dbusapi

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// callLimit is how long one call may take before its context ends; one that
// checks rights itself sees to that, too.
const callLimit = 2 * time.Minute

// maxForwardRules bounds what the forwards of one user take who may not manage networks, as
// netdef.PortForward.Rules counts.
const maxForwardRules = 256

// promises are rules of forwards that users are about to get. The zero value has none.
type promises struct {
	mu    sync.Mutex
	rules map[uint32]int // guarded by mu
}

// make promises a user rules, in addition to those that held counts, until done is called.
// It is false where those are more than maxForwardRules.
func (p *promises) make(user uint32, rules int, held func() int) (done func(), ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rules[user]+rules+held() > maxForwardRules {
		return nil, false
	}
	if p.rules == nil {
		p.rules = make(map[uint32]int)
	}
	p.rules[user] += rules
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.rules[user] -= rules; p.rules[user] == 0 {
			delete(p.rules, user)
		}
	}, true
}

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
