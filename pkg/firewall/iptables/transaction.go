package iptables

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// undoTime is how long a failed Set may take to put the former rules back.
const undoTime = 15 * time.Second

// kernel is what both families hold, and the way to change it.
type kernel struct {
	options options
	log     *slog.Logger
	tools   []*tool // IPv4, IPv6
	cache   cache
}

// planner turns what a family holds, which becomes the edit's, into increments.
type planner func(l listing, f firewall.Family) (*edit, error)

// transaction is a change of both families.
type transaction struct {
	lines  []firewall.Line // those concerned, which the way back puts back
	plan   planner
	whole  bool // begun only if both families could be listed and planned
	strict bool // no fault of a usable family is excused
}

// part is one family's share of a transaction.
type part struct {
	*tool
	transaction
	needed bool // the family has rules to be changed

	edit    *edit
	back    *change // puts rules back, nil if nothing can be different
	commits int
}

// apply carries out the changes of any number of networks, with one transaction
// per family, and returns the changes that put back what it may have altered.
// Both families are tried, side by side; errors are joined. A family that can't
// be used, or a table of it that fails, matters only where the changes have
// rules. The caller holds mu.
func (k *kernel) apply(ctx context.Context, changes []change) ([]change, error) {
	var lines []firewall.Line
	for _, c := range changes {
		lines = append(append(lines, c.remove...), c.place...)
	}
	if len(lines) == 0 {
		return nil, nil
	}
	return k.transact(ctx, transaction{lines: lines, whole: placesAny(changes), plan: func(l listing, family firewall.Family) (*edit, error) {
		return plan(l, family, k.options, changes), nil
	}})
}

// transact lists, plans and carries out in both families. The caller holds mu.
func (k *kernel) transact(ctx context.Context, tx transaction) ([]change, error) {
	before := k.cache.refresh()
	parts, faults := k.parts(ctx, tx)
	sideBySide(parts, func(p *part) error { return k.prepare(ctx, p) }, faults)
	if errors.Join(faults...) == nil || !tx.whole {
		k.carry(ctx, parts, before, faults, tx.whole)
	}
	commits := 0
	var back []change
	for _, p := range parts {
		commits += p.commits
		if p.back != nil {
			back = append(back, *p.back)
		}
		if p.edit != nil && p.variant == variantNFT {
			k.cache.keep(p.family, p.edit.listed)
		}
	}
	err := errors.Join(faults...)
	if err != nil {
		k.cache.forget()
	} else {
		k.cache.settle(before, commits)
	}
	return back, err
}

// carry carries out what was planned, by iptables-restore only where that must
// be. After a transaction that failed it plans anew: somebody else was faster.
func (k *kernel) carry(ctx context.Context, parts []*part, before uint32, faults []error, whole bool) {
	err := k.commitDirectly(parts, before)
	if err == nil {
		return
	}
	k.log.Debug("changing the rules by iptables-restore", "reason", err)
	if !errors.Is(err, errUnsuited) {
		k.cache.forget()
		sideBySide(parts, func(p *part) error { return k.prepare(ctx, p) }, faults)
		if whole && errors.Join(faults...) != nil {
			return
		}
	}
	sideBySide(parts, func(p *part) error { return k.commit(ctx, p) }, faults)
	for _, p := range parts {
		if p.edit != nil {
			k.cache.restored(p.edit.before)
		}
	}
}

// commitDirectly is cache's, of the parts' edits.
func (k *kernel) commitDirectly(parts []*part, before uint32) error {
	var edits []*edit
	var first *part
	for _, p := range parts {
		if p.edit == nil || p.edit.empty() {
			continue
		}
		if p.variant != variantNFT || !p.edit.simple() {
			return errUnsuited
		}
		if edits = append(edits, p.edit); first == nil {
			first = p
		}
	}
	if before == 0 || first == nil {
		return errUnsuited
	}
	if err := k.cache.commitDirectly(edits); err != nil {
		return err
	}
	first.commits = 1
	return nil
}

// parts are the families that take part, and a place for the fault of each.
func (k *kernel) parts(ctx context.Context, tx transaction) ([]*part, []error) {
	var parts []*part
	var unusable []error
	for _, t := range k.tools {
		needed := slices.ContainsFunc(tx.lines, func(r firewall.Line) bool { return r.Family == t.family })
		if t.missing != nil && needed {
			t.detect(ctx)
		}
		switch {
		case t.missing == nil:
			parts = append(parts, &part{tool: t, transaction: tx, needed: needed || tx.strict})
		case needed:
			unusable = append(unusable, t.missing)
		}
	}
	return parts, append(make([]error, len(parts)), unusable...)
}

// sideBySide does the same for every part that has no fault yet and notes the
// faults by the parts' order.
func sideBySide(parts []*part, do func(*part) error, faults []error) {
	var wg sync.WaitGroup
	for i, p := range parts {
		if faults[i] == nil {
			wg.Go(func() { faults[i] = do(p) })
		}
	}
	wg.Wait()
}

// prepare plans on what is remembered of the family, or on a fresh listing.
func (k *kernel) prepare(ctx context.Context, p *part) error {
	return k.excuse(ctx, p, p.replan(ctx, k.cache.recall(p.family)))
}

// replan plans on l, or on a fresh listing if l is nil.
func (p *part) replan(ctx context.Context, l listing) (err error) {
	if l == nil {
		if l, err = p.list(ctx); err != nil {
			return err
		}
	}
	back := &change{remove: ofFamily(p.family, p.lines), place: l.held(p.family, p.lines)}
	if p.edit, err = p.plan(l, p.family); err != nil {
		p.edit = nil
		return err
	}
	if p.back == nil && !p.edit.empty() {
		p.back = back
	}
	return nil
}

// commit carries out what was planned. When that fails and a fresh listing asks
// for other increments, somebody changed the rules in between: it tries those,
// once.
func (k *kernel) commit(ctx context.Context, p *part) error {
	if p.edit == nil || p.edit.empty() {
		return nil
	}
	return k.excuse(ctx, p, p.try(ctx))
}

// try is commit without excuses.
func (p *part) try(ctx context.Context) error {
	text := p.edit.text()
	p.commits = p.edit.tables()
	failure := p.apply(ctx, text)
	if failure == nil {
		return nil
	}
	if err := p.replan(ctx, nil); err != nil {
		return errors.Join(failure, err)
	}
	switch p.edit.text() {
	case text:
		return failure
	case "":
		return nil
	}
	return p.apply(ctx, p.edit.text())
}

// excuse drops a fault that keeps no network from working, and logs it. What the
// family holds is not known then.
func (k *kernel) excuse(ctx context.Context, p *part, err error) error {
	if err == nil || ctx.Err() != nil || p.needed && !dispensable(err, p.family, p.lines) {
		return err
	}
	k.log.Warn("firewall incomplete, going on without", "family", p.family, "error", err)
	p.edit = nil
	return nil
}

// dispensable reports whether networks work without what failed: they have no
// rule in the table, or the CHECKSUM rule alone. Tables are written in an order
// in which mangle is the last, so its failure leaves nothing else undone.
func dispensable(err error, f firewall.Family, rules []firewall.Line) bool {
	var e *RestoreError
	if !errors.As(err, &e) || e.Table == "" {
		return false
	}
	return e.Table == tableMangle || !slices.ContainsFunc(rules, func(r firewall.Line) bool {
		return r.Family == f && r.Table == e.Table
	})
}

// undo takes the way back that apply returned. Tables that failed are as they
// were; those that were committed before them are not. It runs even if ctx is
// over. The caller holds mu.
func (k *kernel) undo(ctx context.Context, back []change) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	if _, err := k.apply(ctx, back); err != nil {
		return fmt.Errorf("putting the former rules back: %w", err)
	}
	return nil
}
