package v4

import (
	"maps"
	"slices"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// Clients that got no offer for want of an address are answered once there are some: of so many
// the last DHCPDISCOVER is kept, for as long as a client waits for the answer at least.
const (
	waitFor     = 4 * time.Second // RFC 2131, section 4.1: the first retransmission is that late
	mostWaiting = 1024
	sweepAfter  = waitFor / 16 // between looks for those that wait no more
)

// waiting are those clients. The engine's lock guards it.
type waiting struct {
	waiters map[dhcpd.HWAddr]unanswered
	swept   time.Time // when those were forgotten last that wait no more
}

// unanswered is a message that was not answered.
type unanswered struct {
	at time.Time
	d  dhcpd.Datagram
}

// wait has a client wait that gets no address now, where other hosts may have some.
func (s *handler) wait(c *request) {
	if s.plan.cfg.Lender == nil {
		return
	}
	if c.Now.Sub(s.swept) >= sweepAfter {
		s.swept = c.Now
		maps.DeleteFunc(s.waiters, func(_ dhcpd.HWAddr, u unanswered) bool { return c.Now.Sub(u.at) >= waitFor })
	}
	if len(s.waiters) >= mostWaiting {
		return
	}
	if s.waiters == nil {
		s.waiters = make(map[dhcpd.HWAddr]unanswered)
	}
	s.waiters[c.MAC] = unanswered{c.Now, dhcpd.Datagram{Payload: slices.Concat(c.msg.fixed, c.msg.rest), Src: c.from, Dst: c.to, From: c.Via}}
}

// answerWaiting returns the offers to clients that have waited. The engine must be locked.
func (s *handler) answerWaiting(now time.Time) (all []*dhcpd.Reply) {
	was := s.waiters
	s.waiters = nil
	for _, u := range was {
		if now.Sub(u.at) >= waitFor {
			continue
		}
		if out, err := s.Handle(u.d, now); err == nil && out != nil {
			all = append(all, out)
		}
	}
	return all
}
