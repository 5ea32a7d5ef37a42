package bridge

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/vishvananda/netlink/nl"
)

// STP state of a bridge (IFLA_BR_STP_STATE): off, run by the kernel, run by a
// program in user space (mstpd).
const (
	stpOff = iota
	stpKernel
	_ // user space
)

// State of a bridge port (IFLA_BRPORT_STATE, BR_STATE_* of linux/if_bridge.h).
const (
	stateDisabled = iota
	stateListening
	stateLearning
	stateForwarding
)

// With STP on the kernel keeps the forward delay between these two
// (BR_MIN_FORWARD_DELAY, BR_MAX_FORWARD_DELAY of net/bridge/br_private_stp.h).
const (
	minForwardDelay = 2 * time.Second
	maxForwardDelay = 30 * time.Second
)

// stpState is what there is to know about the spanning tree of a bridge beyond what
// the kernel tells. Its lock serialises changes of STP state and of ports.
type stpState struct {
	sync.Mutex
	hellos helloPacer
}

// stpStates are those of all bridges, by index. Its lock is the last taken.
type stpStates struct {
	mu  sync.Mutex
	all map[int]*stpState
}

// lock returns the locked STP state of the bridge with that index.
func (s *stpStates) lock(index int) *stpState {
	s.mu.Lock()
	t := s.all[index]
	if t == nil {
		t = new(stpState)
		s.all[index] = t
	}
	s.mu.Unlock()
	t.Lock()
	return t
}

func (s *stpStates) forget(index int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, index)
}

// without sends requests about ports of br while its STP is off, if it is the
// kernel's STP: a port that becomes enabled then forwards at once and goes on
// doing so under STP, and the state of a port may be set, which is EBUSY
// otherwise.
//
// Ports that STP has blocked stay blocked: switching it off leaves their states
// and what they learnt about the tree alone, and every later choice of states,
// with STP or without, blocks a port that isn't the tree's designated one
// (br_port_state_selection of net/bridge/br_stp.c). Everything is one datagram,
// which the kernel carries out even if this process dies.
func (t *stpState) without(ctx context.Context, c *conn, br *link, reqs ...*nl.NetlinkRequest) error {
	if br.stp != stpKernel {
		return c.do(reqs...)
	}
	if err := t.hellos.wait(ctx, br); err != nil {
		return err
	}
	all := []*nl.NetlinkRequest{setBridge(br.Index, stpAttribute(stpOff))}
	all = append(all, reqs...)
	all = append(all, setBridge(br.Index, stpAttribute(stpKernel)))
	return c.do(all...)
}

// delay is the forward delay in the kernel's unit, hundredths of a second, as
// the kernel will report it.
func (c *Config) delay() uint32 {
	d := c.ForwardDelay
	if c.STP {
		d = min(max(d, minForwardDelay), maxForwardDelay)
	}
	return uint32(d / (10 * time.Millisecond))
}

// stpRequests are the requests that bring STP and forward delay of l to cfg.
// While STP is on the kernel refuses a delay outside its limits with ERANGE, and
// in one request it looks at the delay first. A delay within the limits may
// therefore go along with "STP on"; any other waits for "STP off" to be done.
//
// A bridge that isn't the root of its tree reports the root's delay instead of
// its own, which then can't be compared and is left alone.
func stpRequests(l *link, cfg *Config) []*nl.NetlinkRequest {
	delay := nl.NewRtAttr(nl.IFLA_BR_FORWARD_DELAY, nl.Uint32Attr(cfg.delay()))
	sameSTP := (l.stp != stpOff) == cfg.STP
	sameDelay := sameDelay(l.delay, cfg.delay()) || cfg.STP && !l.root
	switch {
	case sameSTP && sameDelay:
		return nil
	case sameSTP:
		return []*nl.NetlinkRequest{setBridge(l.Index, delay)}
	case cfg.STP:
		return []*nl.NetlinkRequest{setBridge(l.Index, delay, stpAttribute(stpKernel))}
	}
	return []*nl.NetlinkRequest{setBridge(l.Index, stpAttribute(stpOff)), setBridge(l.Index, delay)}
}

// sameDelay compares forward delays in hundredths of a second. The kernel keeps
// them in its own ticks (250 a second on many machines), which may cost one.
func sameDelay(has, wanted uint32) bool {
	return has+1 >= wanted && has <= wanted+1
}

// stpAttribute is the attribute that switches STP.
func stpAttribute(state uint32) *nl.RtAttr {
	return nl.NewRtAttr(nl.IFLA_BR_STP_STATE, nl.Uint32Attr(state))
}

// helloSlack is how late the kernel's hello timer may fire.
const helloSlack = 100 * time.Millisecond

// helloPacer lets a bridge send its hellos although its STP is switched off and on for
// each port that is plugged in. Switching it on starts the hello timer anew, so
// ports that follow each other faster than the hello time (2 s) would keep a
// root bridge from sending BPDUs at all. A port blocked because of a loop
// between two ports of the bridge would unblock when it heard none for the max
// age (20 s; the message age timer of IEEE 802.1D), and no new loop be found.
type helloPacer struct {
	// since is the first switch of a series without a hello in between, last
	// the last one.
	since, last time.Time
}

// wait waits, if it must, until br has sent a hello, and counts a switch. It
// must when the series has lasted so long that with one more hello time before
// and after it a blocked port's max age would pass. A bridge that isn't the root
// passes the root's hellos on and needs no timer.
func (p *helloPacer) wait(ctx context.Context, br *link) error {
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
