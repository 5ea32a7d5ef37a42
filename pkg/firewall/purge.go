package firewall

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Purge removes the jumps and chains, and with them the rules that Set or Adopt
// knows of. If any chain holds another rule, or a rule of somebody else leads
// to one, it changes nothing in either family and the error names what it
// found. Nothing to remove is no error.
func (f *Firewall) Purge(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	known := f.standing.rules()
	_, err := f.transact(ctx, transaction{whole: true, strict: true, plan: func(l listing, family Family) (*edit, error) {
		return planPurge(l, family, f.layout, known)
	}})
	if err != nil {
		return fmt.Errorf("removing the chains %s*: %w", f.layout.prefix, err)
	}
	for _, e := range f.standing.entries {
		f.zones.unbind(ctx, e.network, f.log)
	}
	f.standing = standing{}
	if err := f.hold.release(); err != nil {
		return fmt.Errorf("removing the table %s: %w", holdTable, err)
	}
	return nil
}

// planPurge lists the increments that remove everything of ours. It is pure,
// and fails if rules of others would be in the way.
func planPurge(l listing, f Family, as layout, known []Rule) (*edit, error) {
	e := newEdit(l, f)
	for _, c := range byChain(f, slices.Concat(known, Jumps(as.prefix), as.dockerJumps())) {
		e.delete(c.table, c.name, c.args)
	}
	var faults []error
	for _, c := range byChain(f, Jumps(as.prefix)) {
		for _, jump := range c.args {
			faults = append(faults, foreign(e.listed, c.table, jumpTarget(jump)))
			e.deleteChain(c.table, jumpTarget(jump))
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
