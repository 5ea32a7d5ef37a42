package dnsd

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// timing is how long to wait for upstreams.
type timing struct {
	total      time.Duration // for an answer from any server
	stagger    time.Duration // before the next server is asked too
	retransmit time.Duration // before a server is asked again; doubled each time
	tcp        time.Duration // for an answer over TCP
	stale      time.Duration // before clients get a stale answer
}

// defaultTiming gives a query as long as a resolver takes at most to find an
// answer, which is longer than clients wait before they ask again: what they
// repeat joins the flight.
func defaultTiming() timing {
	return timing{
		total:      10 * time.Second,
		stagger:    500 * time.Millisecond,
		retransmit: time.Second,
		tcp:        3 * time.Second,
		stale:      1800 * time.Millisecond, // RFC 8767 section 5
	}
}

// result is how asking one server ended.
type result struct {
	index int    // of the server in the order of asking
	msg   []byte // nil: it did not answer
	err   error
}

// exchange asks servers, each a moment after the one before or as soon as that
// one failed, until one has an answer. If there are only failures (SERVFAIL,
// REFUSED and their like) it returns the last; nil if no server said anything.
// query's id is not used. There must be a server.
func (f *forwarder) exchange(ctx context.Context, query []byte, servers []*upstream) []byte {
	first := f.begin(servers[0], query)
	defer first.end()
	if first.listen(ctx, f.timing.stagger); first.isAnswered() {
		servers[0].succeeded(time.Now(), first.begun)
		return first.msg
	}
	return f.exchangeAll(ctx, query, servers, first)
}

// exchangeAll is exchange when the first server has not answered in a moment,
// or not well.
func (f *forwarder) exchangeAll(ctx context.Context, query []byte, servers []*upstream, first *attempt) []byte {
	ctx, cancel := context.WithDeadline(ctx, first.begun.Add(f.timing.total))
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	stagger := time.NewTicker(f.timing.stagger)
	defer stagger.Stop()

	results := make(chan result, len(servers))
	asked := make([]time.Time, len(servers)) // zero: not yet, or it was heard
	started, running := 0, 0
	ask := func(t *attempt) {
		i := started
		asked[i] = t.begun
		started++
		running++
		asking.Go(func() {
			msg, err := f.ask(ctx, t)
			results <- result{index: i, msg: msg, err: err}
		})
	}
	next := func() {
		if started < len(servers) && ctx.Err() == nil {
			ask(f.begin(servers[started], query))
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
			if f.judge(ctx, servers, asked, r); r.msg != nil && !isFailure(r.msg) {
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

// judge notes what r, which has just come in, says about the servers; asked is
// when each was asked, zero for those that were heard.
func (f *forwarder) judge(ctx context.Context, servers []*upstream, asked []time.Time, r result) {
	switch {
	case r.msg != nil:
		servers[r.index].succeeded(time.Now(), asked[r.index])
	case errors.Is(ctx.Err(), context.Canceled):
		return // we were stopped, the server has done nothing wrong
	default:
		f.demote(servers[r.index], asked[r.index], r.err)
		return
	}
	if isFailure(r.msg) {
		servers[r.index].failures.Add(1)
		return // the others may do better
	}
	for i := range r.index {
		if !asked[i].IsZero() {
			f.demote(servers[i], asked[i], errSlower)
		}
	}
}

// errSlower is what a server did wrong whom another one beat.
var errSlower = errors.New("another server, asked later, answered first")

// demote notes that a server did not answer what it was asked then.
func (f *forwarder) demote(u *upstream, asked time.Time, err error) {
	u.failures.Add(1)
	if u.failed(time.Now(), asked) {
		f.counters.demoted.Add(1)
		f.log.Warn("upstream name server does not answer", keyUpstream, u.addr, keyError, err)
	}
}

// attempt is a question to one server. Each has its own id and spelling and a
// random port (RFC 5452 section 9.2), and hears only that server.
type attempt struct {
	u     *upstream
	query []byte
	begun time.Time
	port  *port // nil: it could not be asked
	*asking
	heard // zero: nothing yet
}

// begin asks u over UDP for the first time.
func (f *forwarder) begin(u *upstream, query []byte) *attempt {
	t := &attempt{u: u, query: append([]byte(nil), query...), begun: time.Now()}
	var random [maxWireName/8 + 1]byte
	if _, t.err = rand.Read(random[:]); t.err != nil {
		return t
	}
	mixCase(t.query, random[:])
	if t.port, t.asking, t.err = f.put(u, t.query); t.err == nil {
		t.err = f.send(t)
	}
	return t
}

// send sends the question.
func (f *forwarder) send(t *attempt) error {
	t.u.queries.Add(1)
	_, err := t.port.conn.Write(t.query)
	return err
}

// end stops hearing. It may be called more than once.
func (t *attempt) end() {
	if t.port != nil {
		t.port.end(t.asking)
	}
}

// isOver tells whether something was heard, or nothing will be.
func (t *attempt) isOver() bool { return t.msg != nil || t.err != nil }

// isAnswered tells whether an answer was heard that is one.
func (t *attempt) isAnswered() bool {
	return t.msg != nil && !t.doubtful && !isTruncated(t.msg) && !isFailure(t.msg)
}

// listen waits for an answer, for as long as d and ctx last.
func (t *attempt) listen(ctx context.Context, d time.Duration) {
	if t.isOver() {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case t.heard = <-t.answer:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// ask goes on with t until the server answers or ctx ends, over UDP and, if the
// answer is cut or its spelling in doubt, over TCP.
func (f *forwarder) ask(ctx context.Context, t *attempt) ([]byte, error) {
	f.insist(ctx, t)
	if t.err != nil || !t.doubtful && !isTruncated(t.msg) {
		return t.msg, t.err
	}
	whole, err := f.askTCP(ctx, t.u, t.query)
	if err != nil {
		return t.msg, nil //nolint:nilerr // the cut answer is one: the client learns that it is cut
	}
	if t.doubtful {
		t.u.proved(whole, t.query)
	}
	return whole, nil
}

// insist asks again after longer and longer waits, until t is over.
func (f *forwarder) insist(ctx context.Context, t *attempt) {
	defer t.end()
	wait := f.timing.retransmit - time.Since(t.begun)
	for gap := f.timing.retransmit; !t.isOver(); gap *= 2 {
		if t.listen(ctx, wait); t.isOver() {
			return
		}
		if t.err = ctx.Err(); t.err == nil {
			t.err = f.send(t)
		}
		wait = 2 * gap
	}
}

// errNoAnswer is what a server did wrong who sent something else over TCP.
var errNoAnswer = errors.New("the message does not answer the question")

// askTCP asks over TCP.
func (f *forwarder) askTCP(ctx context.Context, u *upstream, query []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timing.tcp)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "tcp", u.addr.String())
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	u.queries.Add(1)
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)); err != nil {
		return nil, err
	}
	var prefix [2]byte
	if _, err := io.ReadFull(c, prefix[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(prefix[:]))
	if _, err := io.ReadFull(c, msg); err != nil {
		return nil, err
	}
	if msg = readAnswer(msg, query); msg == nil {
		f.counters.ignored.Add(1)
		return nil, errNoAnswer
	}
	return msg, nil
}
