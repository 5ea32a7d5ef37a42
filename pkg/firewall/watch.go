package firewall

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/vnetd/vnetd/internal/contention"
)

// What is done to the rules often comes in many steps. Watch looks at them when
// nothing has happened for quietTime, but not later than patience after the
// first step.
const (
	quietTime = 100 * time.Millisecond
	patience  = 400 * time.Millisecond
)

// retryTime is how long Watch waits before it looks for the bus again.
const retryTime = 5 * time.Second

// Watch puts the rules back whenever somebody else removes them, until ctx ends,
// whose error it returns. The writer tells of changes; what it does not hear of,
// as with iptables-legacy, is compared at every audit. firewalld tells on the system bus that it has loaded its rules anew;
// bridges are put back into their zones then. A program that removes rules as
// fast as they are put back makes the repairs rarer, see package contention. Only one Watch
// may run.
func (f *Firewall) Watch(ctx context.Context) error {
	w := &watch{Firewall: f, wake: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() {
		if err := w.writer.Watch(ctx, func() { w.note("") }); err != nil && ctx.Err() == nil {
			cancel(err)
		}
	})
	running.Go(func() { w.followFirewalld(ctx) })
	err := w.run(ctx)
	cancel(nil)
	return err
}

// watch is one run of Watch.
type watch struct {
	*Firewall
	wake chan struct{}

	mu    sync.Mutex
	cause Cause // of firewalld, the latest; guarded by mu
	limit contention.Limiter
}

// followFirewalld notes what firewalld tells, whenever there is a system bus, and
// puts the bridges back into its zones: here, because firewalld answers late
// while it starts.
func (w *watch) followFirewalld(ctx context.Context) {
	for {
		// What fails is tried again: the bus may come later, or come back.
		_ = watchFirewalld(ctx, func(reason Cause) {
			w.note(reason)
			w.rebind(ctx)
		})
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryTime):
		}
	}
}

// note wakes run, with what firewalld did if that is known.
func (w *watch) note(cause Cause) {
	w.mu.Lock()
	w.cause = cmp.Or(cause, w.cause)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run repairs until ctx ends.
func (w *watch) run(ctx context.Context) error {
	audit := time.NewTicker(w.audit)
	defer audit.Stop()
	due := time.NewTimer(time.Hour)
	due.Stop()
	var first time.Time // of the changes that were not looked at yet
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case now := <-audit.C:
			if first.IsZero() {
				w.look(ctx, now)
			}
		case <-w.wake:
			now := time.Now()
			if first.IsZero() {
				first = now
			}
			due.Reset(w.wait(now, first))
		case now := <-due.C:
			if later := w.limit.Wait(now); later > 0 {
				due.Reset(later)
				continue
			}
			first = time.Time{}
			w.look(ctx, now)
		}
	}
}

// wait is the time until the changes since first are looked at.
func (w *watch) wait(now, first time.Time) time.Duration {
	soon := min(quietTime, first.Add(patience).Sub(now))
	return max(soon, w.limit.Wait(now), 0)
}

// look repairs what is amiss, unless that happened too often of late.
func (w *watch) look(ctx context.Context, now time.Time) {
	if w.limit.Wait(now) > 0 {
		return
	}
	report, err := w.repair(ctx, w.take(), false)
	if err != nil || report.Repaired() {
		w.limit.Repaired(time.Now())
	}
	contended := w.limit.Contended(time.Now())
	if w.contend(contended) && contended {
		w.log.Warn("another program keeps removing firewall rules: repairing less often from now on",
			"process", report.Process, "repairs", contention.Burst, "within", contention.Window)
	}
}

// contend notes whether somebody keeps removing rules, and reports whether that is
// news.
func (f *Firewall) contend(contended bool) bool {
	f.counting.Lock()
	defer f.counting.Unlock()
	before := f.stats.Contended
	f.stats.Contended = contended
	return contended != before
}

// take returns what was found since the last time.
func (w *watch) take() finding {
	var found finding
	w.mu.Lock()
	found.cause, w.cause = w.cause, ""
	w.mu.Unlock()
	for _, program := range w.writer.Others() {
		if found.process != firewalldProcess {
			found.process = program
		}
	}
	// firewalld has iptables flushed by a program of its own, and changes its
	// tables of nftables itself.
	if found.cause == "" && found.process == firewalldProcess {
		found.cause = CauseFirewalldReload
	}
	return found
}
