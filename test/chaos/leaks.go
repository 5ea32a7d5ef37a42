package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/pkg/client"
)

// usage is what of vnetd could leak.
type usage struct {
	files, goroutines int
	heap              size // in use after a collection
}

// size is of memory.
type size float64

func (s size) String() string { return fmt.Sprintf("%.2f MiB", s/(1<<20)) }

// usage counts it.
func (w *world) usage() (u usage, err error) {
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", w.vnetd.PID()))
	if err != nil {
		return u, err
	}
	u.files = len(files)
	return u, eachMetric(func(name string, value float64) {
		if name == "go_goroutines" {
			u.goroutines = int(value)
		}
	})
}

// least is the least of it within some seconds: what has come to its end ends in between.
func (w *world) least() (u usage, err error) {
	u, err = w.usage()
	for until := time.Now().Add(3 * time.Second); err == nil && time.Now().Before(until); time.Sleep(300 * time.Millisecond) {
		var now usage
		now, err = w.usage()
		u = usage{files: min(u.files, now.files), goroutines: min(u.goroutines, now.goroutines)}
	}
	if err == nil {
		u.heap, err = heapInUse()
	}
	return u, err
}

// heapInUse is the least heap that vnetd has while it collects garbage twice: what a first
// collection leaves to finalizers and in pools the second one takes. Being asked is what makes
// garbage.
func heapInUse() (least size, err error) {
	least = math.MaxFloat64
	first, now := -1.0, 0.0
	for deadline := time.Now().Add(actLimit); err == nil && now < first+2; {
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("vnetd has collected no garbage twice within %v", actLimit)
		}
		err = eachMetric(func(name string, value float64) {
			switch name {
			case "go_gc_duration_seconds_count":
				now = value
			case "go_memstats_heap_alloc_bytes":
				least = min(least, size(value))
			}
		})
		if first < 0 {
			first = now
		}
	}
	return least, err
}

// By how much a process that has been at work may have more than a fresh one, and a fresh one
// more than the first one that was looked at.
const (
	slack     = 12
	heapSlack = 3 << 20
)

// workTime is how long clients are at work before it is looked for what has leaked: most of
// what they do they have done hundreds of times by then.
const workTime = 20 * time.Second

// drain has all ports end and all networks stop, holds that nothing is left of them, in the
// kernel or in vnetd, and starts those of the guests again.
func (w *world) drain() error {
	for _, g := range w.guests {
		g.halt()
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), settleLimit)
	defer cancel()
	for uuid := range w.books.ports {
		_ = w.watch.with(ctx, func(c *client.Client) error { return c.Port(uuid).Release(ctx) })
		w.books.endPort(uuid, nil)
	}
	var errs []error
	for _, n := range w.books.networks {
		if n.active == yes {
			errs = append(errs, w.watch.stop(ctx, n.name))
		}
		n.active = no
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("stopping all networks: %w", err)
	}
	if err := w.within(settleLimit, w.nothingLeft); err != nil {
		return err
	}
	if err := w.leaksNothing(); err != nil {
		return err
	}
	for k := range bases {
		errs = append(errs, w.watch.start(ctx, baseName(k)))
		w.books.network(baseName(k)).active = yes
	}
	return errors.Join(errs...)
}

// nothingLeft compares the kernel with what it had at first.
func (w *world) nothingLeft(context.Context) error {
	is, err := w.kernel()
	if err != nil {
		return err
	}
	if diff := gocmp.Diff(w.empty, is); diff != "" {
		return fmt.Errorf("the kernel after all networks have stopped (-at first +now):\n%s", diff)
	}
	return nil
}

// leaksNothing compares vnetd, which has no network and no port any more, with a fresh one,
// and that with the first one that was looked at.
func (w *world) leaksNothing() error {
	for _, a := range w.admins {
		a.end()
	}
	before, err := w.least()
	if err != nil {
		return err
	}
	if err := restarted(w); err != nil {
		return err
	}
	var after usage
	err = w.within(settleLimit, func(context.Context) error {
		if after, err = w.usage(); err != nil {
			return err
		}
		if before.files > after.files+slack || before.goroutines > after.goroutines+slack {
			return fmt.Errorf("without networks and ports vnetd had %+v, a fresh one has %+v", before, after)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if after.heap, err = heapInUse(); err != nil {
		return err
	}
	w.first = cmp.Or(w.first, after.heap)
	fmt.Printf("  without networks and ports vnetd had %v, a fresh one has %v, the first one had %v\n", before.heap, after.heap, w.first)
	if before.heap > after.heap+heapSlack || after.heap > w.first+heapSlack {
		return fmt.Errorf("without networks and ports vnetd had %v in use, a fresh one has %v, and the first one had %v", before.heap, after.heap, w.first)
	}
	return nil
}

// leaks looks for what vnetd has kept of clients that were at work, with all taken down.
func (w *world) leaks() error {
	if err := w.work(); err != nil {
		return err
	}
	return w.drain()
}

// work has all clients at work for a while in which nothing breaks, after which a client that
// followed what came and went knows what is there.
func (w *world) work() error {
	t, err := follow(w.t.Context())
	if err != nil {
		return err
	}
	defer t.close()
	w.disturb(func(ctx context.Context) {
		select {
		case <-ctx.Done():
		case <-time.After(workTime):
		}
	})
	if err := w.settle(); err != nil {
		return err
	}
	return w.within(settleLimit, t.knowsAll)
}
