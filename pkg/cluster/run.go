package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/vnetd/vnetd/pkg/cluster/record"
)

// How long is waited for one answer of the store, and before it is tried again.
const (
	answerWithin = 10 * time.Second
	firstRetry   = 100 * time.Millisecond
	lastRetry    = 30 * time.Second
	lastSilent   = 500 * time.Millisecond // of a store that does not answer
	lastFull     = 5 * time.Second        // of one that is full: its operator waits to see what helped
	lookAgain    = time.Second
	probeAgain   = 300 * time.Millisecond
	firstList    = 300 * time.Millisecond
)

// errClosed says that a watch ended without saying why.
var errClosed = errors.New("the watch has ended")

// Runner moves a member by a store.
type Runner struct {
	Member *Member
	Store  Store
	Disk   Disk
	TTL    time.Duration // how long the store takes this host for alive that it has not heard of
	Logger *slog.Logger

	unkept Saving // what the disk has not kept
}

// Run keeps the member in step with the store until ctx ends. It never gives up: what
// fails is tried again, ever more rarely where the store answers, and soon where it does not.
func (r *Runner) Run(ctx context.Context) {
	wait := firstRetry
	var told tale
	for ctx.Err() == nil {
		began := time.Now()
		answered, err := r.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) >= lastRetry {
			wait = firstRetry
		}
		if !answered {
			wait = min(wait, lastSilent)
		}
		if errors.Is(err, ErrFull) {
			wait = min(wait, lastFull)
		}
		r.Member.Lost(err, time.Now())
		if err := r.save(); err != nil {
			r.Logger.Error("what is known of the cluster is not kept", "error", err)
		}
		if told.news(err, time.Now()) {
			r.Logger.Warn("cluster is away", "error", err, "retry", wait)
		}
		pause(ctx, wait/2+rand.N(wait/2), r.Member.retry)
		wait = min(2*wait, lastRetry)
	}
}

// tale is what was logged last.
type tale struct {
	text string
	at   time.Time
}

// news reports whether an error is to be logged: another one, or one that lasts.
func (t *tale) news(err error, now time.Time) bool {
	if err.Error() == t.text && now.Sub(t.at) < lastRetry {
		return false
	}
	*t = tale{err.Error(), now}
	return true
}

// list lists, and asks again each time that there has been no answer for so long; the first
// answer counts. A server of the store that was cut off may leave a question without one
// for seconds when it, or another server, would answer the next at once.
func (r *Runner) list(ctx context.Context, prefix string, again func(n int) time.Duration) (Listing, error) {
	type answer struct {
		l   Listing
		err error
	}
	limited, done := context.WithTimeout(ctx, answerWithin)
	defer done()
	others, end := context.WithCancel(ctx)
	defer end()
	answers := make(chan answer)
	ask := func(ctx context.Context) {
		l, err := r.Store.List(ctx, prefix, 0)
		select {
		case answers <- answer{l, err}:
		case <-others.Done():
		}
	}
	go ask(limited) // which says why there is no answer, if there is none
	for n := 0; ; n++ {
		t := time.NewTimer(again(n))
		select {
		case a := <-answers:
			t.Stop()
			return a.l, a.err
		case <-ctx.Done():
			t.Stop()
			return Listing{}, ctx.Err()
		case <-t.C:
			go ask(others)
		}
	}
}

// Answers reports, by an error, that the store does not answer within a time, or ctx.
func (r *Runner) Answers(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	_, err := r.list(ctx, r.Member.key(record.KindMeta), everyProbe)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("the store has not answered within %v", within)
	}
	return err
}

// everyProbe is after how long a list of one key is asked for again.
func everyProbe(int) time.Duration { return probeAgain }

// everyList is after how long one of all keys is: ever later, for it may be long.
func everyList(n int) time.Duration { return firstList << min(n, 4) }

// pause waits, or until somebody wants it to end.
func pause(ctx context.Context, d time.Duration, now <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-now:
	case <-ctx.Done():
	}
}

// outcome is what became of a request.
type outcome struct {
	r   *Request
	res Result
	err error
}

// follow lists, and follows by watch, until something fails. It reports whether the store
// has answered at all.
func (r *Runner) follow(ctx context.Context) (answered bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	prefix := record.Prefix(r.Member.cfg.Cluster)
	if err := r.reach(ctx); err != nil {
		return errors.Is(err, ErrDenied), err
	}
	l, err := r.list(ctx, prefix, everyList)
	if err != nil {
		return errors.Is(err, ErrDenied), err
	}
	if !r.Member.Listed(l, time.Now()) {
		return true, r.Member.cause()
	}
	return true, r.watch(ctx, r.Store.Watch(ctx, prefix, l.Revision+1))
}

// reach finds a server of the store that answers.
func (r *Runner) reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	return r.Store.Reach(ctx, r.Member.key(record.KindMeta))
}

// watch follows a watch until something fails.
func (r *Runner) watch(ctx context.Context, watch <-chan Batch) error {
	r.Member.SetSession(0) // the one before has ended with the watch before
	sessions := make(chan error, 1)
	go func() { sessions <- r.keepSession(ctx) }()
	outcomes := make(chan outcome, 1)
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		if err := r.send(ctx, outcomes); err != nil {
			return err
		}
		ok := true
		select {
		case <-ctx.Done():
			return ctx.Err()
		case b, open := <-watch:
			if !open {
				return errClosed
			}
			ok = r.Member.Seen(b, time.Now())
		case o := <-outcomes:
			ok = r.Member.Done(o.r, o.res, o.err, time.Now())
		case err := <-sessions:
			return err
		case <-r.Member.wakes:
		case <-tick.C:
			if err := r.save(); err != nil {
				return err
			}
		}
		if !ok || r.Member.isAway() {
			return r.Member.cause()
		}
	}
}

// send sends what is to be asked of the store, once the disk has what must be kept before.
func (r *Runner) send(ctx context.Context, outcomes chan<- outcome) error {
	req := r.Member.Next(time.Now())
	if req == nil {
		return nil
	}
	if req.Keep {
		if err := r.keep(r.Member.Saving()); err != nil {
			return err
		}
	}
	go func() {
		ctx, cancel := context.WithTimeout(ctx, answerWithin)
		defer cancel()
		res, err := r.Store.Txn(ctx, req.Txn)
		outcomes <- outcome{req, res, err}
	}()
	return nil
}

// save keeps what was seen since the last request, so that a vnetd that is started while the
// store is away knows it.
func (r *Runner) save() error {
	s := r.Member.Saving()
	if !s.All && len(s.Events)+len(r.unkept.Events) == 0 {
		return nil
	}
	return r.keep(s)
}

// keep has the disk keep s, and what it has not kept before.
func (r *Runner) keep(s Saving) error {
	if !s.All {
		s.All, s.Events = r.unkept.All, append(r.unkept.Events, s.Events...)
	}
	r.unkept = Saving{}
	err := r.Disk.Save(s)
	if err != nil {
		r.unkept = s
	}
	return err
}

// keepSession has a session at all times. It returns when none is to be had.
func (r *Runner) keepSession(ctx context.Context) error {
	for {
		s, err := r.Store.Session(ctx, r.TTL)
		if err != nil {
			return err
		}
		r.Member.SetSession(s.Lease)
		select {
		case <-s.Done:
			r.Member.SetSession(0)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
