package firewall

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"sync"
	"time"
)

// batchTime is how long a change that stands for several callers may take. It
// does not end with any one of them.
const batchTime = 30 * time.Second

// request is a Set or a Delete that waits for its turn.
type request struct {
	ctx     context.Context
	network Network
	set     bool

	done bool  // guarded by Firewall.mu, as is err
	err  error // the outcome
}

// queue holds the requests that no one has taken yet.
type queue struct {
	mu      sync.Mutex
	waiting []*request // guarded by mu
}

// add appends a request.
func (q *queue) add(r *request) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, r)
}

// take removes and returns the requests up to the second one for any bridge: what
// is done together must not depend on each other.
func (q *queue) take() []*request {
	q.mu.Lock()
	defer q.mu.Unlock()
	bridges := map[string]bool{}
	n := slices.IndexFunc(q.waiting, func(r *request) bool {
		again := bridges[r.network.Bridge]
		bridges[r.network.Bridge] = true
		return again
	})
	if n < 0 {
		n = len(q.waiting)
	}
	taken := q.waiting[:n:n]
	q.waiting = q.waiting[n:]
	return taken
}

// submit returns when the request was carried out. A lone one is at once; those
// that come while another is under way wait for it, and the first of them to go
// on carries out all of them as one transaction.
func (f *Firewall) submit(r *request) error {
	f.queue.add(r)
	f.mu.Lock()
	defer f.mu.Unlock()
	for !r.done {
		f.serve(f.queue.take())
	}
	return r.err
}

// serve carries out requests together or, if that fails, one by one, so that
// each has its own outcome. The caller holds mu.
func (f *Firewall) serve(batch []*request) {
	var live []*request
	for _, r := range batch {
		if r.err = r.ctx.Err(); r.err == nil {
			live = append(live, r)
		}
		r.done = true
	}
	if len(live) > 1 {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(live[0].ctx), batchTime)
		defer cancel()
		if f.carryOut(ctx, live) == nil {
			return
		}
	}
	for _, r := range live {
		r.err = f.carryOut(r.ctx, []*request{r})
	}
}

// carryOut makes the requests' changes in one transaction. After an error the
// rules that stood before stand again. The caller holds mu.
func (f *Firewall) carryOut(ctx context.Context, requests []*request) error {
	changes := make([]Change, len(requests))
	for i, r := range requests {
		changes[i] = f.change(r)
	}
	if err := setSpans(f.spans, f.desired.After(changes)); err != nil {
		return err
	}
	if err := f.writer.Apply(ctx, f.desired, changes); err != nil {
		return errors.Join(err, setSpans(f.spans, f.desired.After(nil)))
	}
	var gone, stay []Forward
	grown := true
	var ended []func(*Flow) bool
	for i, r := range requests {
		former, next := f.desired.find(r.network.Bridge).Network, Network{}
		if r.set {
			next = r.network
			if over := ends(former, next); over != nil {
				ended = append(ended, over)
			}
		}
		if over := strays(former, next); over != nil {
			ended = append(ended, over)
		}
		grown = grown && (former.Bridge == "" || reflect.DeepEqual(former, next))
		gone, stay = append(gone, Without(former.Forwards, next.Forwards)...), append(stay, next.Forwards...)
		if r.set {
			f.desired.set(r.network, changes[i].Rules)
		} else {
			f.desired.forget(r.network.Bridge)
		}
	}
	f.reconsider(grown, func() {
		f.cut(gone, stay)
		f.end(ended)
	})
	return nil
}

// setSpans keeps those networks apart from their parts on other hosts, as far as they have
// such.
func setSpans(spans Spans, networks iter.Seq[*Network]) error {
	if spans != nil {
		return spans.Set(networks)
	}
	for n := range networks {
		if n.Span != nil {
			return fmt.Errorf("network %q spans hosts: nothing keeps them apart", n.Label())
		}
	}
	return nil
}

// reconsider has the rules decide anew of what goes past them, when end has ended what they
// let through no more. If they only grew, what was let through would be again. The caller
// holds mu.
func (f *Firewall) reconsider(grown bool, end func()) {
	if f.offload == nil {
		end()
		return
	}
	if !grown {
		if err := f.offload.Suspend(); err != nil {
			f.log.Warn("connections go past rules that have changed", "error", err)
		}
	}
	end()
	f.offload.Set(f.desired.After(nil))
}

// end ends the connections that networks' rules and peers let through before, and would
// not any more, or would lead elsewhere.
func (f *Firewall) end(ended []func(*Flow) bool) {
	if len(ended) == 0 || f.flows == nil {
		return
	}
	err := f.flows.End(func(flow *Flow) bool {
		return slices.ContainsFunc(ended, func(over func(*Flow) bool) bool { return over(flow) })
	})
	if err != nil {
		f.log.Warn("connections go on that rules refuse by now, or lead elsewhere", "error", err)
	}
}

// cut ends what goes on by forwards that are gone, and not by those that stay. What the
// kernel does not forget then it does when the connections end.
func (f *Firewall) cut(gone, stay []Forward) {
	if len(gone) == 0 || f.flows == nil {
		return
	}
	if err := f.flows.Cut(gone, stay); err != nil {
		f.log.Warn("connections go on by forwards that are gone", "forwards", len(gone), "error", err)
	}
}

// change is what a request asks for. The caller holds mu.
func (f *Firewall) change(r *request) Change {
	known := f.desired.find(r.network.Bridge).All()
	if r.set {
		return Change{Network: r.network, Known: known, Rules: r.network.Rules()}
	}
	return Change{Network: r.network, Known: Entry{Rules: known, Former: r.network.Rules()}.All(), Remove: true}
}
