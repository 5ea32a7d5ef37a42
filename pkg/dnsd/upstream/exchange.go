package upstream

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vnetd/vnetd/pkg/dnsd/wire"
)

// Timing is how long a Client waits.
type Timing struct {
	Total      time.Duration // for an answer from any server
	Stagger    time.Duration // before the next server is asked too
	Retransmit time.Duration // before a server is asked again; doubled each time
	TCP        time.Duration // for an answer over TCP
}

// DefaultTiming returns the Timing of a Client. A query has as long as a resolver
// takes at most to find an answer, which is longer than clients wait before they
// ask again: what they repeat joins the query that is in flight.
func DefaultTiming() Timing {
	return Timing{
		Total:      10 * time.Second,
		Stagger:    500 * time.Millisecond,
		Retransmit: time.Second,
		TCP:        3 * time.Second,
	}
}

// Client asks servers. Its methods are safe for concurrent use.
type Client struct {
	Timing Timing // not to be changed once a question was asked

	log              *slog.Logger
	sockets          sockets
	ignored, demoted atomic.Uint64
}

// NewClient returns a Client, to be closed.
func NewClient(log *slog.Logger) *Client {
	return &Client{Timing: DefaultTiming(), log: log, sockets: sockets{open: make(map[*socket]bool)}}
}

// Ignored returns the number of messages that did not answer what was asked.
func (c *Client) Ignored() uint64 { return c.ignored.Load() }

// Demoted returns how many times a server was put behind the others.
func (c *Client) Demoted() uint64 { return c.demoted.Load() }

// result is how asking one server ended.
type result struct {
	index int    // of the server in the order of asking
	msg   []byte // nil: it did not answer
	err   error
}

// Exchange asks servers, of which there must be one, for query, whose id is not
// used: those that have answered of late first, each a moment after the one
// before or as soon as that failed, until one has an answer. If there are only
// failures (SERVFAIL, REFUSED and their like) it returns the last; nil if no
// server said anything.
func (c *Client) Exchange(ctx context.Context, query []byte, servers []*Server) []byte {
	servers = inOrder(servers, time.Now())
	first := c.begin(servers[0], query)
	defer first.end()
	if first.wait(ctx, c.Timing.Stagger); first.isAnswered() {
		servers[0].succeeded(time.Now(), first.begun)
		return first.msg
	}
	return c.exchangeAll(ctx, query, servers, first)
}

// exchangeAll goes on with an exchange whose first server has not answered in a
// moment, or with a failure.
func (c *Client) exchangeAll(ctx context.Context, query []byte, servers []*Server, first *attempt) []byte {
	ctx, cancel := context.WithDeadline(ctx, first.begun.Add(c.Timing.Total))
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	stagger := time.NewTicker(c.Timing.Stagger)
	defer stagger.Stop()

	results := make(chan result, len(servers))
	asked := make([]time.Time, len(servers)) // zero: not yet, or it has answered
	started, running := 0, 0
	ask := func(t *attempt) {
		i := started
		asked[i] = t.begun
		started++
		running++
		asking.Go(func() {
			msg, err := c.ask(ctx, t)
			results <- result{index: i, msg: msg, err: err}
		})
	}
	next := func() {
		if started < len(servers) && ctx.Err() == nil {
			ask(c.begin(servers[started], query))
		}
	}
	late := !first.isOver()
	if ask(first); late {
		next()
	}
	var failure []byte
	for running > 0 {
		select {
		case <-stagger.C:
		case r := <-results:
			running--
			if c.judge(ctx, servers, asked, r); r.msg != nil && !wire.IsFailure(r.msg) {
				return r.msg
			}
			if r.msg != nil {
				failure = r.msg
			}
			asked[r.index] = time.Time{}
		}
		next()
	}
	return failure
}

// judge notes what r, which has just come in, says about the servers; asked says
// when each was asked, zero for those that have answered.
func (c *Client) judge(ctx context.Context, servers []*Server, asked []time.Time, r result) {
	switch {
	case r.msg != nil:
		servers[r.index].succeeded(time.Now(), asked[r.index])
	case errors.Is(ctx.Err(), context.Canceled):
		return // we were stopped, the server has done nothing wrong
	default:
		c.demote(servers[r.index], asked[r.index], r.err)
		return
	}
	if wire.IsFailure(r.msg) {
		servers[r.index].failures.Add(1)
		return // the others may do better
	}
	for i := range r.index {
		if !asked[i].IsZero() {
			c.demote(servers[i], asked[i], errSlower)
		}
	}
}

// errSlower says why a server is demoted that another one was faster than.
var errSlower = errors.New("another server, asked later, answered first")

// demote notes that s did not answer what it was asked at that time.
func (c *Client) demote(s *Server, asked time.Time, err error) {
	s.failures.Add(1)
	if s.failed(time.Now(), asked) {
		c.demoted.Add(1)
		c.log.Warn("upstream name server does not answer", "upstream", s.addr, "error", err)
	}
}
