package upstream

import (
	"bytes"
	"context"
	"crypto/rand"
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

	Ignored atomic.Uint64 // messages that did not answer what was asked
	Demoted atomic.Uint64 // times that a server was put behind the others

	log       *slog.Logger
	patience  *patience
	ctx       context.Context // of the sockets
	close     context.CancelFunc
	readers   sync.WaitGroup // of the sockets
	listening listening
}

// NewClient returns a Client, to be closed.
func NewClient(log *slog.Logger) *Client {
	ctx, cancel := context.WithCancel(context.Background())
	late := func(f *InFlight) { f.queries.resolve(f) }
	return &Client{Timing: DefaultTiming(), log: log, patience: newPatience(late), ctx: ctx, close: cancel}
}

// Close closes the sockets and waits for their readers. No question may be in
// flight.
func (c *Client) Close() {
	c.close()
	c.readers.Wait()
}

// result is how asking one server ended.
type result struct {
	index int    // of the server in the order of asking
	msg   []byte // nil: it did not answer
	err   error
}

// exchange goes on with asking servers, in that order, for query, whose id is not used; the
// first of them was asked by first, and has not answered in a moment, or not well.
func (c *Client) exchange(ctx context.Context, query []byte, servers []*Server, first *attempt) []byte {
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
		c.Demoted.Add(1)
		c.log.Warn("upstream name server does not answer", "upstream", s.addr, "error", err)
	}
}

// attempt is a question to one server, with an id and a case of letters of its
// own.
type attempt struct {
	server *Server
	query  []byte // that is sent
	begun  time.Time

	dropped bool // the query with EDNS is why there was no answer

	pending
	answer // zero: nothing yet
}

// begin asks s over UDP for the first time, on behalf of a goroutine that waits for the answer.
func (c *Client) begin(s *Server, query []byte) *attempt {
	t := new(attempt)
	t.pending.answer = make(chan answer, 1)
	if t.err = c.prepare(t, s, append([]byte(nil), query...), anySlot, time.Now()); t.err == nil {
		t.err = t.send()
	}
	return t
}

// prepare makes t an attempt that is to be sent to s from one of the sockets of a slot. query
// is t's from then on, and t, without an error, of whoever goes on with it.
func (c *Client) prepare(t *attempt, s *Server, query []byte, slot int, now time.Time) error {
	t.server, t.query, t.begun = s, query, now
	if s.edns.verdict(now) == Lost {
		t.query = wire.WithoutEDNS(t.query)
	}
	var random [wire.MaxWireName/8 + 1]byte
	_, _ = rand.Read(random[:min((len(t.query)-wire.HeaderSize)/8+1, len(random))]) // it cannot fail
	wire.MixCase(t.query, random[:])
	t.pending.query = t.query
	return c.register(s, &t.pending, slot, now)
}

// send sends the question.
func (t *attempt) send() error {
	t.server.queries.Add(1)
	return t.socket.conn.Send(t.query)
}

// end gives up waiting over UDP. It may be called more than once.
func (t *attempt) end() {
	if t.socket != nil {
		t.socket.unregister(&t.pending)
	}
}

// isOver reports whether there is an answer, or there will be none.
func (t *attempt) isOver() bool { return t.msg != nil || t.err != nil }

// isPlain reports whether there is an answer that can be given to clients.
func (a *answer) isPlain() bool {
	return a.msg != nil && !a.doubtful && !wire.IsTruncated(a.msg) && !wire.IsFailure(a.msg)
}

// wait waits for an answer, for as long as d and ctx last, and not for one to EDNS once the
// server is known not to have it.
func (t *attempt) wait(ctx context.Context, d time.Duration) {
	if t.isOver() {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		var news <-chan struct{}
		if wire.HasEDNS(t.query) {
			news = t.server.edns.news()
			if t.server.edns.verdict(time.Now()) == Lost {
				return
			}
		}
		select {
		case <-news:
			continue
		case t.answer = <-t.pending.answer:
		case <-timer.C:
		case <-ctx.Done():
		}
		return
	}
}

// ask goes on with t until the server answers or ctx ends, over UDP and, if the
// answer is truncated or its 0x20 check in doubt, over TCP.
func (c *Client) ask(ctx context.Context, t *attempt) ([]byte, error) {
	c.retransmit(ctx, t)
	t = c.withoutEDNS(ctx, t)
	t = c.confirm(ctx, t)
	c.noteEDNS(t)
	if t.err != nil || !t.doubtful && !wire.IsTruncated(t.msg) {
		return t.msg, t.err
	}
	return c.overTCP(ctx, t)
}

// withoutEDNS asks again without EDNS if the answer to t says that the server does not know
// it: RFC 6891 section 7.
func (c *Client) withoutEDNS(ctx context.Context, t *attempt) *attempt {
	if t.msg == nil || !wire.HasEDNS(t.query) || !wire.RejectsEDNS(t.msg) {
		return t
	}
	plain := c.begin(t.server, wire.WithoutEDNS(append([]byte(nil), t.query...)))
	c.retransmit(ctx, plain)
	if plain.msg == nil || wire.IsFailure(plain.msg) {
		return t
	}
	plain.dropped = true
	return plain
}

// confirm sees to it that EDNS is blamed for nothing else, an outage or a name that took long to
// find: where the question was answered without only, it is asked once more with. It returns what
// is answered. Of a server that is known to have EDNS that is merely doubted.
func (c *Client) confirm(ctx context.Context, t *attempt) *attempt {
	asked := t.pending.query // at first
	if t.msg == nil || !t.dropped || !wire.HasEDNS(asked) {
		return t
	}
	again := c.begin(t.server, asked)
	again.wait(ctx, c.Timing.Retransmit)
	again.end()
	if again.msg != nil && !wire.IsFailure(again.msg) {
		return again
	}
	t.dropped = !again.isOver() && ctx.Err() == nil && !t.server.edns.doubt(time.Now())
	return t
}

// noteEDNS notes what the answer to t says of the server's EDNS. Where it has none, those who
// wait for an answer to it wait no longer.
func (c *Client) noteEDNS(t *attempt) {
	now := time.Now()
	if t.msg == nil || !t.dropped || wire.IsFailure(t.msg) || wire.HasEDNS(t.msg) {
		t.server.noteEDNS(t.query, t.msg, now)
		return
	}
	t.server.edns.learn(Lost, now, memory)
	for _, f := range c.patience.take(func(f *InFlight) bool { return f.first.server == t.server && wire.HasEDNS(f.first.query) }) {
		f.queries.resolve(f)
	}
}

// retransmit sends the question again after longer and longer waits, until t is
// over.
func (c *Client) retransmit(ctx context.Context, t *attempt) {
	defer t.end()
	wait := c.Timing.Retransmit - time.Since(t.begun)
	for gap := c.Timing.Retransmit; !t.isOver(); gap *= 2 {
		if t.wait(ctx, wait); t.isOver() {
			return
		}
		if t.err = ctx.Err(); t.err == nil {
			suspect := gap > c.Timing.Retransmit || t.server.edns.verdict(time.Now()) == Lost
			if suspect && wire.HasEDNS(t.query) { // perhaps something on the way drops it
				t.query, t.dropped = wire.WithoutEDNS(bytes.Clone(t.query)), true
			}
			t.err = t.send()
		}
		wait = 2 * gap
	}
}
