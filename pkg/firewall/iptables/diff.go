package iptables

import (
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// diff is what a listing lacks.
type diff struct {
	changed bool // something must be done
	chains  []string
	missing []firewall.Line
	left    bool // a rule of ours is there
	emptied bool // no rule of ours is left in a table that should have some
}

// compare finds what a listing lacks of the lines that should be there
// and of the jumps. It is pure.
func compare(l listing, f firewall.Family, o options, lines []firewall.Line) diff {
	var d diff
	jumps := o.jumps(l.has, lines)
	for _, j := range ofFamily(f, jumps) {
		if chain := jumpTarget(j.Args); !l.has(j.Table, chain) {
			d.chains = append(d.chains, chain)
		}
	}
	wanted := slices.Concat(jumps, lines)
	if o.docker {
		wanted = append(wanted, dockerJumps(jumps)...)
	}
	tables := map[string]int{} // lines of ours that are there
	for _, c := range byChain(f, wanted) {
		if c.name == chainDockerUser && !l.has(c.table, c.name) {
			continue
		}
		before := len(d.missing)
		for _, args := range c.args {
			if !l[c.table][c.name].has(args) {
				d.missing = append(d.missing, firewall.Line{Family: f, Table: c.table, Chain: c.name, Args: args})
			}
		}
		tables[c.table] += len(c.args) - (len(d.missing) - before)
	}
	for _, held := range tables {
		d.left = d.left || held > 0
		d.emptied = d.emptied || held == 0
	}
	return d
}

// onlyIn reports whether all missing rules are in chains of that prefix.
func (d diff) onlyIn(prefix string) bool {
	return !slices.ContainsFunc(d.missing, func(r firewall.Line) bool { return !strings.HasPrefix(r.Chain, prefix) })
}

// noneIn reports whether no missing rule is in a chain of that prefix, or of ownPrefix.
func (d diff) noneIn(prefix string) bool {
	return !slices.ContainsFunc(d.missing, func(r firewall.Line) bool {
		return strings.HasPrefix(r.Chain, prefix) || strings.HasPrefix(r.Chain, ownPrefix)
	})
}

// cause is what most likely made the difference.
func (d diff) cause(prefix string) firewall.Cause {
	switch {
	case !d.changed:
		return ""
	case len(d.missing) == 0 && len(d.chains) == 0:
		return firewall.CauseReordered
	case d.onlyIn(chainDockerUser) && len(d.chains) == 0:
		return firewall.CauseDockerUser
	case !d.left:
		return firewall.CauseFlush
	case d.emptied:
		return firewall.CauseTableFlush
	case len(d.chains) > 0:
		return firewall.CauseChainDeleted
	case d.noneIn(prefix):
		return firewall.CauseJumpDeleted
	}
	return firewall.CauseRulesDeleted
}

// summary joins what both families lack; the worst cause counts.
func summary(prefix string, parts ...*diff) firewall.Report {
	var r firewall.Report
	var causes []firewall.Cause
	for _, d := range parts {
		r.Chains = append(r.Chains, d.chains...)
		r.Missing = append(r.Missing, d.missing...)
		causes = append(causes, d.cause(prefix))
	}
	worst := []firewall.Cause{firewall.CauseFlush, firewall.CauseTableFlush, firewall.CauseChainDeleted, firewall.CauseRulesDeleted, firewall.CauseJumpDeleted, firewall.CauseDockerUser, firewall.CauseReordered}
	if i := slices.IndexFunc(worst, func(c firewall.Cause) bool { return slices.Contains(causes, c) }); i >= 0 {
		r.Cause = worst[i]
	}
	slices.Sort(r.Chains)
	r.Chains = slices.Compact(r.Chains)
	return r
}
