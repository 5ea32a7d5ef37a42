package iptables

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/keep"
)

// Purge removes the jumps and chains, and with them the rules of desired. If any
// chain holds another rule, or a rule of somebody else leads to one, it changes
// nothing in either family and the error names what it found. The administrator's chains
// stay where they hold a rule or one leads to them; only our jump to them goes.
func (w *Writer) Purge(ctx context.Context, desired firewall.Desired) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	known := w.options.known(desired)
	_, err := w.transact(ctx, transaction{whole: true, strict: true, plan: func(l listing, family firewall.Family) (*edit, error) {
		return planPurge(l, family, w.options, known)
	}})
	if err != nil {
		return fmt.Errorf("removing the chains %s*: %w", w.options.prefix, err)
	}
	if err := w.keeper.Release(); err != nil {
		return fmt.Errorf("removing the table %s: %w", keep.Table, err)
	}
	return nil
}

// planPurge lists the increments that remove everything of ours. It is pure,
// and fails if rules of others would be in the way.
func planPurge(l listing, f firewall.Family, o options, known []firewall.Line) (*edit, error) {
	e := newEdit(l, f)
	for _, c := range byChain(f, slices.Concat(known, allJumps(o.prefix), dockerJumps(allJumps(o.prefix)))) {
		e.delete(c.table, c.name, c.args)
	}
	var faults []error
	for _, c := range byChain(f, allJumps(o.prefix)) {
		for _, jump := range c.args {
			chain := jumpTarget(jump)
			inUse := foreign(e.listed, c.table, chain)
			if inUse != nil && users(chain) {
				continue
			}
			faults = append(faults, inUse)
			e.deleteChain(c.table, chain)
		}
	}
	return e, errors.Join(faults...)
}

// foreign is an error if the chain holds rules, or if any rule of the table
// leads to it.
func foreign(l listing, table, chain string) error {
	if rules := l[table][chain].rules(); len(rules) > 0 {
		return fmt.Errorf("table %s: chain %s still holds %d rules of others, the first is %q", table, chain, len(rules), rules[0])
	}
	for parent, held := range l[table] {
		for args := range held.all() {
			if strings.HasSuffix(" "+args, " -j "+chain) || strings.HasSuffix(" "+args, " -g "+chain) {
				return fmt.Errorf("table %s: rule %q of chain %s leads to chain %s", table, args, parent, chain)
			}
		}
	}
	return nil
}
