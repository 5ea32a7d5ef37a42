package upstream

import (
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

	log     *slog.Logger
	ctx     context.Context // of the sockets
	close   context.CancelFunc
	readers sync.WaitGroup // of the sockets
}

// NewClient returns a Client, to be closed.
func NewClient(log *slog.Logger) *Client {
	ctx, cancel := context.WithCancel(context.Background())
	return &Client{Timing: DefaultTiming(), log: log, ctx: ctx, close: cancel}
}

// Close closes the sockets and waits for their readers. No Exchange may run.
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
		first.noteEDNS()
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
		c.Demoted.Add(1)
		c.log.Warn("upstream name server does not answer", "upstream", s.addr, "error", err)
	}
}

// attempt is a question to one server, with an id and a case of letters of its
// own.
type attempt struct {
	server *Server
	query  []byte
	begun  time.Time

	dropped bool // query had EDNS at first, and no answer

	socket *socket // nil: it could not be asked
	*pending
	answer // zero: nothing yet
}

// begin asks s over UDP for the first time.
func (c *Client) begin(s *Server, query []byte) *attempt {
	t := &attempt{server: s, query: append([]byte(nil), query...), begun: time.Now()}
	if s.edns.verdict(t.begun) == Lost {
		t.query = wire.WithoutEDNS(t.query)
	}
	var random [wire.MaxWireName/8 + 1]byte
	if _, t.err = rand.Read(random[:]); t.err != nil {
		return t
	}
	wire.MixCase(t.query, random[:])
	if t.socket, t.pending, t.err = c.register(s, t.query); t.err == nil {
		t.err = t.send()
	}
	return t
}

// send sends the question.
func (t *attempt) send() error {
	t.server.queries.Add(1)
	_, err := t.socket.conn.Write(t.query)
	return err
}

// end gives up waiting over UDP. It may be called more than once.
func (t *attempt) end() {
	if t.socket != nil {
		t.socket.unregister(t.pending)
	}
}

// isOver reports whether there is an answer, or there will be none.
func (t *attempt) isOver() bool { return t.msg != nil || t.err != nil }

// isAnswered reports whether there is an answer that can be given to clients.
func (t *attempt) isAnswered() bool {
	return t.msg != nil && !t.doubtful && !wire.IsTruncated(t.msg) && !wire.IsFailure(t.msg)
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
	t.noteEDNS()
	if t.err != nil || !t.doubtful && !wire.IsTruncated(t.msg) {
		return t.msg, t.err
	}
	return c.overTCP(ctx, t), nil
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

// noteEDNS notes what the answer says of the server's EDNS.
func (t *attempt) noteEDNS() {
	switch {
	case t.msg == nil:
	case t.dropped && !wire.IsFailure(t.msg) && !wire.HasEDNS(t.msg):
		t.server.edns.learn(Lost, time.Now(), memory)
	case wire.HasEDNS(t.query) && wire.HasEDNS(t.msg):
		t.server.edns.confirm(Works, time.Now())
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
				t.query, t.dropped = wire.WithoutEDNS(t.query), true
			}
			t.err = t.send()
		}
		wait = 2 * gap
	}
}
