package upstream

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vnetd/vnetd/pkg/dnsd/wire"
)

// drainInterval is the time between two looks of Drain.
const drainInterval = 2 * time.Millisecond

// Resolver finds the answer to a question. Of its methods Servers and Answered, which
// most questions come by with, must not block.
type Resolver interface {
	// Servers returns the servers that f's question is asked of, in their order; none:
	// there are none.
	Servers(f *InFlight) []*Server

	// Answered takes msg, the whole answer of the first server that was asked, and
	// calls f's Deliver once, with out, which came from Replies. msg is valid until it returns.
	Answered(f *InFlight, msg []byte, out Replies)

	// Resolve is called, in a goroutine of its own, for a question that the first server
	// has not answered in a moment, or not well. It calls f's Deliver once, when there is
	// an answer or there will be none, and may call DeliverStale before. ctx ends when no
	// request waits any more, or the server ends.
	Resolve(ctx context.Context, f *InFlight)

	// Replies returns what takes the answers to clients that come together.
	Replies() Replies
}

// Replies are answers to clients that leave together.
type Replies interface {
	// Flush has them leave, and ends their use.
	Flush()
}

// Queries are the questions that are in flight. Methods are safe for concurrent
// use.
type Queries struct {
	resolver Resolver
	client   *Client
	running  sync.WaitGroup // a count for each question
	waiting  atomic.Int64   // requests; changed with mu held

	mu       sync.Mutex
	inFlight map[wire.Question]*InFlight
}

// InFlight is a question on its way to upstream servers, and the requests that
// wait for its answer.
type InFlight struct {
	Question   wire.Question
	Query      *wire.Query // of who asked first
	Started    time.Time   // when it was asked
	Generation uint64      // for the Resolver: what the answer belongs to

	queries *Queries
	ctx     context.Context // of the server
	servers []*Server
	first   attempt
	place   place // in Client.patience, with first

	// Guarded by Queries.mu.
	cancel   context.CancelFunc // ends Resolve early; nil: it is not called yet
	left     bool               // no request waits any more
	requests []*Request
	one      [1]*Request    // room for requests: most are not joined by others
	stale    *wire.Response // not nil: given to those who ask meanwhile
}

// Request is a client's query that waits for an answer.
type Request struct {
	Query *wire.Query
	// Own says that the query comes from this host and is for a name of ours, so
	// that it may be one of our own that has come back.
	Own bool
	// Asker takes the answer.
	Asker Asker

	inFlight *InFlight // that it waits for; guarded by Queries.mu
	own      InFlight  // of the first who asks its question
}

// Asker is who has made a request.
type Asker interface {
	// Deliver takes the answer, nil if there is none. kept says that it was not
	// fetched for the request. out, unless it is nil, takes what is sent to the client.
	// Deliver must not block, nor keep the answer.
	Deliver(r *wire.Response, kept bool, out Replies)
}

// NewQueries returns Queries of which none is in flight, to be asked by c.
func NewQueries(c *Client, r Resolver) *Queries {
	return &Queries{resolver: r, client: c, inFlight: make(map[wire.Question]*InFlight)}
}

// Join has r wait for the answer to its question, which is resolved from now on
// unless it is in flight, as joined says then. It is asked when out is flushed, with
// a nil out at once. stale is not nil when r is to be given that instead. looped says
// that the question has come back to us, as we are asking others for it: r does not
// wait, the name does not exist.
func (q *Queries) Join(ctx context.Context, r *Request, out *Outbox) (stale *wire.Response, joined, looped bool) {
	f, stale, joined, looped := q.join(ctx, r)
	if !joined && !looped {
		q.begin(f, out)
	}
	return stale, joined, looped
}

// join is Join without the question being asked.
func (q *Queries) join(ctx context.Context, r *Request) (f *InFlight, stale *wire.Response, joined, looped bool) {
	question := r.Query.Question()
	q.mu.Lock()
	defer q.mu.Unlock()
	if r.Own && q.returns(r.Query) {
		return nil, nil, false, true
	}
	f, joined = q.inFlight[question]
	if !joined {
		f = &r.own
		f.Question, f.Query, f.Started, f.queries, f.ctx = question, r.Query, time.Now(), q, ctx
		f.requests = f.one[:0]
		q.inFlight[question] = f
		q.running.Add(1)
	}
	if f.stale == nil {
		f.requests = append(f.requests, r)
		r.inFlight = f
		q.waiting.Add(1)
	}
	return f, f.stale, joined, false
}

// returns reports whether a question for the same records is in flight, whatever its flags,
// that is not query's client's own, who asks again. q.mu must be held.
func (q *Queries) returns(query *wire.Query) bool {
	question := query.Question()
	for flags := range 16 {
		question.RD, question.CD, question.EDNS, question.DO = flags&1 > 0, flags&2 > 0, flags&4 > 0, flags&8 > 0
		if f := q.inFlight[question]; f != nil && !f.Query.Repeats(query) {
			return true
		}
	}
	return false
}

// begin asks the first server for f, when out is flushed or, with a nil out, at once.
func (q *Queries) begin(f *InFlight, out *Outbox) {
	if f.servers = q.resolver.Servers(f); len(f.servers) == 0 {
		q.resolve(f)
		return
	}
	t := &f.first
	t.inFlight = f
	err := q.client.prepare(t, choose(f.servers, f.Started), wire.UpstreamQuery(f.Query), out.slot(), f.Started)
	switch {
	case err != nil:
		t.err = err
		q.resolve(f)
	case out != nil:
		out.add(t)
	default:
		if err := t.server.send(&t.pending); err != nil {
			q.client.deliver(&t.pending, answer{err: err}, nil)
		}
	}
}

// resolve goes on with a question that nobody else goes on with: its first attempt, if there
// was one, has failed or takes too long.
func (q *Queries) resolve(f *InFlight) {
	q.mu.Lock()
	ctx, cancel := context.WithCancel(f.ctx)
	if f.cancel = cancel; f.left {
		cancel()
	}
	q.mu.Unlock()
	go func() {
		defer q.running.Done()
		defer cancel()
		q.resolver.Resolve(ctx, f)
	}()
}

// answered goes on with f, whose first attempt has the answer a.
func (q *Queries) answered(f *InFlight, a answer, out Replies) {
	t := &f.first
	if !a.isPlain() {
		t.answer = a.clone()
		q.resolve(f)
		return
	}
	defer q.running.Done()
	now := time.Now()
	t.server.noteEDNS(t.query, a.msg, now)
	t.server.succeeded(now, t.begun)
	q.resolver.Answered(f, a.msg, out)
}

// Exchange asks the servers of f on behalf of Resolve: those that have answered of late
// first, each a moment after the one before or as soon as that failed, until one has an
// answer. If there are only failures (SERVFAIL, REFUSED and their like) it returns the
// last; nil if no server said anything.
func (f *InFlight) Exchange(ctx context.Context) []byte {
	if len(f.servers) == 0 {
		return nil
	}
	return f.queries.client.exchange(ctx, wire.UpstreamQuery(f.Query), inOrder(f.servers, f.first.server, time.Now()), &f.first)
}

// Abandon has r wait no more. It returns false when r does not wait: its answer
// was delivered, or is being delivered. A question that no request waits for any
// more is not resolved further.
func (q *Queries) Abandon(r *Request) bool {
	q.mu.Lock()
	f := r.inFlight
	if f == nil {
		q.mu.Unlock()
		return false
	}
	r.inFlight = nil
	q.waiting.Add(-1)
	f.requests = slices.DeleteFunc(f.requests, func(one *Request) bool { return one == r })
	left := len(f.requests) == 0
	if left {
		q.remove(f)
		if f.left = true; f.cancel != nil {
			f.cancel()
		}
	}
	q.mu.Unlock()
	if left && q.client.patience.claim(&f.place) {
		f.first.end()
		q.running.Done()
	}
	return true
}

// remove has no request join f any more. q.mu must be held.
func (q *Queries) remove(f *InFlight) {
	if q.inFlight[f.Question] == f {
		delete(q.inFlight, f.Question)
	}
}

// Deliver gives r, nil if there is no answer, to all requests that wait, and ends
// f. kept and out are as in Asker.Deliver.
func (f *InFlight) Deliver(r *wire.Response, kept bool, out Replies) { f.deliver(nil, r, kept, out) }

// DeliverStale gives r to all requests that wait and to those that join later.
func (f *InFlight) DeliverStale(r *wire.Response) { f.deliver(r, r, true, nil) }

// deliver gives r to all requests that wait. Without stale it ends f.
func (f *InFlight) deliver(stale, r *wire.Response, kept bool, out Replies) {
	f.queries.mu.Lock()
	requests := f.requests
	f.queries.waiting.Add(-int64(len(requests)))
	f.requests, f.stale = nil, stale
	for _, one := range requests {
		one.inFlight = nil
	}
	if stale == nil {
		f.queries.remove(f)
	}
	f.queries.mu.Unlock()
	for _, one := range requests {
		one.Asker.Deliver(r, kept, out)
	}
}

// Len returns the number of questions in flight.
func (q *Queries) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.inFlight)
}

// Drain returns when no request waits any more, or ctx ends.
func (q *Queries) Drain(ctx context.Context) {
	for q.waiting.Load() > 0 {
		select {
		case <-time.After(drainInterval):
		case <-ctx.Done():
			return
		}
	}
}

// Wait returns when no question is in flight: those that wait for their first answer have
// none. None may be asked any more, and the contexts of those that were must have ended.
func (q *Queries) Wait() {
	for _, f := range q.client.patience.take(func(*InFlight) bool { return true }) {
		q.resolve(f)
	}
	q.running.Wait()
}
