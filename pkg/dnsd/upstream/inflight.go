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

// Resolver finds the answer to a question.
type Resolver interface {
	// Resolve calls f's Deliver once, when there is an answer to q or there will
	// be none, and may call DeliverStale before. ctx ends when no request waits
	// any more, or the server ends.
	Resolve(ctx context.Context, f *InFlight, q *wire.Query)
}

// Queries are the questions that are in flight. Methods are safe for concurrent
// use.
type Queries struct {
	resolver Resolver
	running  sync.WaitGroup
	waiting  atomic.Int64 // requests; changed with mu held

	mu       sync.Mutex
	inFlight map[wire.Question]*InFlight
}

// InFlight is a question on its way to upstream servers, and the requests that
// wait for its answer. All fields but the first two are guarded by Queries.mu.
type InFlight struct {
	Question wire.Question
	queries  *Queries

	cancel   context.CancelFunc // ends it early
	requests []*Request
	stale    *wire.Response // not nil: given to those who ask meanwhile
}

// Request is a client's query that waits for an answer.
type Request struct {
	Query *wire.Query
	// Own says that the query comes from this host and is for a name of ours, so
	// that it may be one of our own that has come back.
	Own bool
	// Deliver takes the answer, nil if there is none. kept says that it was not
	// fetched for the request. Deliver must not block.
	Deliver func(r *wire.Response, kept bool)

	inFlight *InFlight // that it waits for; guarded by Queries.mu
}

// NewQueries returns Queries of which none is in flight.
func NewQueries(r Resolver) *Queries {
	return &Queries{resolver: r, inFlight: make(map[wire.Question]*InFlight)}
}

// Join has r wait for the answer to its question, which is resolved from now on
// unless it is in flight, as joined says then. stale is not nil when r is to be
// given that instead. looped says that the question has come back to us, as we
// are asking others for it: r does not wait, the name does not exist.
func (q *Queries) Join(ctx context.Context, r *Request) (stale *wire.Response, joined, looped bool) {
	question := r.Query.Question()
	q.mu.Lock()
	defer q.mu.Unlock()
	if r.Own && q.asks(question) {
		return nil, false, true
	}
	f, joined := q.inFlight[question]
	if !joined {
		f = q.start(ctx, question, r.Query)
	}
	if f.stale == nil {
		f.requests = append(f.requests, r)
		r.inFlight = f
		q.waiting.Add(1)
	}
	return f.stale, joined, false
}

// asks reports whether a question for the same records is in flight, whatever
// its flags. q.mu must be held.
func (q *Queries) asks(question wire.Question) bool {
	for flags := range 16 {
		question.RD, question.CD, question.EDNS, question.DO = flags&1 > 0, flags&2 > 0, flags&4 > 0, flags&8 > 0
		if q.inFlight[question] != nil {
			return true
		}
	}
	return false
}

// start has a question resolved. q.mu must be held.
func (q *Queries) start(ctx context.Context, question wire.Question, query *wire.Query) *InFlight {
	ctx, cancel := context.WithCancel(ctx)
	f := &InFlight{Question: question, queries: q, cancel: cancel}
	q.inFlight[question] = f
	q.running.Go(func() {
		defer cancel()
		q.resolver.Resolve(ctx, f, query)
	})
	return f
}

// Abandon has r wait no more. It returns false when r does not wait: its answer
// was delivered, or is being delivered. A question that no request waits for any
// more is not resolved further.
func (q *Queries) Abandon(r *Request) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	f := r.inFlight
	if f == nil {
		return false
	}
	r.inFlight = nil
	q.waiting.Add(-1)
	f.requests = slices.DeleteFunc(f.requests, func(one *Request) bool { return one == r })
	if len(f.requests) == 0 {
		q.remove(f)
		f.cancel()
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
// f. kept is as in Request.Deliver.
func (f *InFlight) Deliver(r *wire.Response, kept bool) { f.deliver(nil, r, kept) }

// DeliverStale gives r to all requests that wait and to those that join later.
func (f *InFlight) DeliverStale(r *wire.Response) { f.deliver(r, r, true) }

// deliver gives r to all requests that wait. Without stale it ends f.
func (f *InFlight) deliver(stale, r *wire.Response, kept bool) {
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
		one.Deliver(r, kept)
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

// Wait returns when no question is in flight. None may be asked any more, and the
// contexts of those that were must have ended.
func (q *Queries) Wait() { q.running.Wait() }
