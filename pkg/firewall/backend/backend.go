// Package backend writes networks' rules by one of several writers, removes what another
// one left, and changes over from one to another while networks are up.
package backend

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// Kind is a firewall of the kernel for which there is a writer.
type Kind struct {
	Name string
	// Open makes the writer.
	Open func(ctx context.Context) (firewall.Writer, error)
	// Stands reports whether rules of its form are there, by whomever.
	Stands func(ctx context.Context) bool
	// Works says why the writer can't write, if so. It is asked before networks change
	// over to it. nil: it always can.
	Works func(w firewall.Writer) error
}

// Choice is which kind shall be used, by name, and why.
type Choice struct {
	Name, Reason string
	// Doubt is why that could not be told. Name is the kind for a host on which no rules
	// stand then: what stands stays, until there is no doubt.
	Doubt error
}

// Config is what New needs to know.
type Config struct {
	Kinds []Kind
	// Choose says which of Kinds to use for networks, none of which is known at first.
	Choose func(ctx context.Context, networks []firewall.Network) Choice
	// Leave is the kind of which networks change over to another one, if Choose says so as
	// others change rules. Back they change at a restart alone. Empty: they never do.
	Leave  string
	Logger *slog.Logger // told what was found and changed
}

// Writer writes by the kind that was chosen.
type Writer struct {
	cfg Config

	mu     sync.Mutex // guards what follows, for moments
	inner  firewall.Writer
	choice Choice
	ended  context.CancelFunc // of Watch of inner; nil: none runs
	heard  bool               // others changed rules since Choose was asked

	// Apply, Complete and Purge alone use it, which are never called side by side.
	stale map[string]firewall.Writer // kinds whose rules may stand beside, by name
}

var _ firewall.Writer = (*Writer)(nil)

// New returns a Writer by the kind that is chosen.
func New(ctx context.Context, cfg Config) (*Writer, error) {
	w := &Writer{cfg: cfg, stale: map[string]firewall.Writer{}, choice: cfg.Choose(ctx, nil)}
	standing := slices.DeleteFunc(slices.Clone(cfg.Kinds), func(k Kind) bool { return !k.Stands(ctx) })
	if w.choice.Doubt != nil && len(standing) == 1 {
		w.choice.Name, w.choice.Reason = standing[0].Name, "its rules stand"
	}
	for _, k := range cfg.Kinds {
		chosen := k.Name == w.choice.Name
		if !chosen && !slices.ContainsFunc(standing, func(s Kind) bool { return s.Name == k.Name }) {
			continue
		}
		opened, err := k.Open(ctx)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("firewall %s: %w", k.Name, err), w.Close())
		}
		if chosen {
			w.inner = opened
		} else {
			w.stale[k.Name] = opened
		}
	}
	if w.inner == nil {
		return nil, errors.Join(fmt.Errorf("there is no firewall %q", w.choice.Name), w.Close())
	}
	cfg.Logger.Info("firewall chosen", "backend", w.choice.Name, "reason", w.choice.Reason)
	return w, nil
}

// Choice is the kind in use, and why.
func (w *Writer) Choice() (name, reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.choice.Name, w.choice.Reason
}

// current is the writer in use.
func (w *Writer) current() firewall.Writer {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.inner
}

// Apply is firewall.Writer's. A network that ends leaves nothing in another kind.
func (w *Writer) Apply(ctx context.Context, desired firewall.Desired, changes []firewall.Change) error {
	if err := w.current().Apply(ctx, desired, changes); err != nil {
		return err
	}
	ended := slices.DeleteFunc(slices.Clone(changes), func(c firewall.Change) bool { return !c.Remove })
	var errs []error
	for _, stale := range w.stale {
		if len(ended) > 0 {
			errs = append(errs, stale.Apply(ctx, desired, ended))
		}
	}
	return errors.Join(errs...)
}

// Complete is firewall.Writer's. Once all of desired stands, what another kind has of it
// is removed.
func (w *Writer) Complete(ctx context.Context, desired firewall.Desired, afresh bool) (firewall.Report, error) {
	changed := w.reconsider(ctx, desired) || len(w.stale) > 0
	report, err := w.current().Complete(ctx, desired, afresh)
	if err == nil && len(desired) > 0 {
		w.sweep(ctx, desired)
	}
	if changed && err == nil {
		report = firewall.Report{} // nothing was amiss
	}
	return report, err
}

// reconsider changes over if that is better by now, and reports whether it did.
func (w *Writer) reconsider(ctx context.Context, desired firewall.Desired) (changed bool) {
	w.mu.Lock()
	was := w.choice
	due := was.Doubt != nil || w.cfg.Leave == was.Name && w.heard && len(desired) > 0
	w.heard = false
	w.mu.Unlock()
	if !due {
		return false
	}
	var networks []firewall.Network
	for _, e := range desired {
		networks = append(networks, e.Network)
	}
	now := w.cfg.Choose(ctx, networks)
	if now.Doubt != nil || now.Name == was.Name || w.cfg.Leave != was.Name {
		w.stay(now)
		return false
	}
	if err := w.changeOver(ctx, now); err != nil {
		w.cfg.Logger.Error("firewall could not be changed", "from", was.Name, "to", now.Name, "reason", now.Reason, "error", err)
		return false
	}
	w.cfg.Logger.Warn("firewall changed", "from", was.Name, "to", now.Name, "reason", now.Reason)
	return true
}

// stay notes what is known by now of the kind in use, which stays.
func (w *Writer) stay(now Choice) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now.Doubt == nil && now.Name == w.choice.Name {
		w.choice = now
	}
	w.choice.Doubt = now.Doubt
}

// changeOver has another kind be used. What the former one has written stands until the
// new one has written all.
func (w *Writer) changeOver(ctx context.Context, to Choice) error {
	i := slices.IndexFunc(w.cfg.Kinds, func(k Kind) bool { return k.Name == to.Name })
	if i < 0 {
		return fmt.Errorf("there is no firewall %q", to.Name)
	}
	k := w.cfg.Kinds[i]
	next := w.stale[to.Name]
	if next == nil {
		var err error
		if next, err = k.Open(ctx); err != nil {
			return err
		}
	}
	if k.Works != nil {
		if err := k.Works(next); err != nil {
			return errors.Join(err, next.Close())
		}
	}
	delete(w.stale, to.Name)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stale[w.choice.Name] = w.inner
	w.inner, w.choice = next, to
	if w.ended != nil {
		w.ended()
	}
	return nil
}

// sweep removes what other kinds have of desired, and what leads to it if nobody else's
// rules are there.
func (w *Writer) sweep(ctx context.Context, desired firewall.Desired) {
	for name, stale := range w.stale {
		var ended []firewall.Change
		for _, e := range desired {
			ended = append(ended, firewall.Change{Network: e.Network, Known: e.All(), Remove: true})
		}
		if err := stale.Apply(ctx, desired, ended); err != nil {
			w.cfg.Logger.Warn("rules of the former firewall could not be removed", "backend", name, "error", err)
			continue
		}
		if err := stale.Purge(ctx, nil); err != nil {
			w.cfg.Logger.Info("chains of the former firewall stay", "backend", name, "error", err)
		}
		if err := stale.Close(); err != nil {
			w.cfg.Logger.Warn("closing the former firewall", "backend", name, "error", err)
		}
		delete(w.stale, name)
		w.cfg.Logger.Info("rules of the former firewall removed", "backend", name)
	}
}

// Purge is firewall.Writer's, of all kinds.
func (w *Writer) Purge(ctx context.Context, desired firewall.Desired) error {
	errs := []error{w.current().Purge(ctx, desired)}
	for _, stale := range w.stale {
		errs = append(errs, stale.Purge(ctx, desired))
	}
	return errors.Join(errs...)
}

// RemoveLeftovers is firewall.Writer's.
func (w *Writer) RemoveLeftovers(ctx context.Context, n firewall.Network) error {
	return w.current().RemoveLeftovers(ctx, n)
}

// Conditions is firewall.Writer's.
func (w *Writer) Conditions(ctx context.Context, networks []firewall.Network) ([]firewall.Condition, error) {
	found, err := w.current().Conditions(ctx, networks)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.choice.Doubt != nil {
		found = append(found, firewall.Condition{
			Kind:     firewall.KindUndecided,
			Summary:  "whether something in iptables cuts guests off can't be told: networks stay with " + w.choice.Name,
			Evidence: w.choice.Doubt.Error(),
			Remedy:   "nft --json list ruleset",
		})
	}
	return found, err
}

// Lines is firewall.Writer's.
func (w *Writer) Lines(n firewall.Network) []firewall.Line { return w.current().Lines(n) }

// Counts is firewall.Writer's.
func (w *Writer) Counts(ctx context.Context, n firewall.Network) (map[firewall.Rule]firewall.Count, error) {
	return w.current().Counts(ctx, n)
}

// Others is firewall.Writer's.
func (w *Writer) Others() []string { return w.current().Others() }

// Watch is firewall.Writer's.
func (w *Writer) Watch(ctx context.Context, changed func()) error {
	for ctx.Err() == nil {
		once, cancel := context.WithCancel(ctx)
		w.mu.Lock()
		inner := w.inner
		w.ended = cancel
		w.mu.Unlock()
		err := inner.Watch(once, func() {
			w.mu.Lock()
			w.heard = true
			w.mu.Unlock()
			changed()
		})
		cancelled := once.Err() != nil
		cancel()
		if !cancelled {
			return err
		}
	}
	return ctx.Err()
}

// Close is firewall.Writer's.
func (w *Writer) Close() error {
	var errs []error
	if w.inner != nil {
		errs = append(errs, w.inner.Close())
	}
	for _, stale := range w.stale {
		errs = append(errs, stale.Close())
	}
	return errors.Join(errs...)
}
