package bridge

import (
	"context"
	"fmt"
	"time"
)

// helloSlack is how late the kernel's hello timer may fire.
const helloSlack = 100 * time.Millisecond

// pace lets a bridge send its hellos although its STP is switched off and on for
// each port that is plugged in. Switching it on starts the hello timer anew, so
// ports that follow each other faster than the hello time (2 s) would keep a
// root bridge from sending BPDUs at all. A port blocked because of a loop
// between two ports of the bridge would unblock when it heard none for the max
// age (20 s; the message age timer of IEEE 802.1D), and no new loop be found.
type pace struct {
	// since is the first switch of a series without a hello in between, last
	// the last one.
	since, last time.Time
}

// hold waits, if it must, until br has sent a hello, and counts a switch. It
// must when the series has lasted so long that with one more hello time before
// and after it a blocked port's max age would pass. A bridge that isn't the root
// passes the root's hellos on and needs no timer.
func (p *pace) hold(ctx context.Context, br *link) error {
	if !br.root {
		return nil
	}
	now := time.Now()
	sent := p.last.Add(br.hello + helloSlack)
	switch {
	case now.After(sent):
		p.since = now
	case now.Sub(p.since) > br.maxAge-2*br.hello-time.Second:
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for a hello of the spanning tree: %w", ctx.Err())
		case now = <-time.After(sent.Sub(now)):
			p.since = now
		}
	}
	p.last = now
	return nil
}
