package firewall

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Cause is what most likely made a repair necessary.
type Cause string

// The causes, told by what is missing and by who was heard of.
const (
	CauseFlush            Cause = "rule set flushed"
	CauseTableFlush       Cause = "table flushed"
	CauseChainDeleted     Cause = "chain deleted"
	CauseJumpDeleted      Cause = "jump deleted"
	CauseRulesDeleted     Cause = "rules deleted"
	CauseReordered        Cause = "rules out of order"
	CauseDockerUser       Cause = "DOCKER-USER made by Docker"
	CauseFirewalldReload  Cause = "firewalld reloaded"
	CauseFirewalldRestart Cause = "firewalld started or stopped"
)

// Report says what a repair found and did.
type Report struct {
	// Cause is "" if nothing was amiss.
	Cause Cause
	// Process is the program that changed the rules, as far as nftables told; its
	// name has at most 15 characters. "" if not known.
	Process string
	// Chains are those that were missing, and Missing the rules of ours, jumps
	// included. Both are empty if rules were only out of order or doubled.
	Chains  []string
	Missing []Rule
	// Zones is the number of bridges that Repair put back into firewalld's zones.
	Zones int
}

// Repaired tells whether any rule was put back.
func (r Report) Repaired() bool { return r.Cause != "" }

// Stats are counts since New.
type Stats struct {
	// Repairs is the number of times that rules were put back, ByCause the same by
	// cause, Rules the number of rules that were missing, and Zones the number of
	// bridges put back into firewalld's zones.
	Repairs uint64
	ByCause map[Cause]uint64
	Rules   uint64
	Zones   uint64
	// Checks is the number of times that the rules were compared.
	Checks uint64
	// Failed is the number of repairs that failed.
	Failed uint64
	// LastRepair is when the last one was, zero if there was none.
	LastRepair time.Time
	// Contended tells that somebody removes rules as fast as they are put back,
	// so that Watch repairs less often.
	Contended bool
}

// Stats returns the counts so far.
func (f *Firewall) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.stats
	s.ByCause = maps.Clone(s.ByCause)
	return s
}

// Repair lists the rules, puts back what is missing of every network that Set
// or Adopt knows of, and bridges into their zones of firewalld. Rules that are
// complete are not touched, nor are those of others. Nothing amiss is no error.
func (f *Firewall) Repair(ctx context.Context) (Report, error) {
	f.mu.Lock()
	f.memory.forget()
	f.mu.Unlock()
	report, err := f.repair(ctx, finding{})
	report.Zones = f.rebind(ctx)
	return report, err
}

// finding is what Watch has heard that may make a repair necessary.
type finding struct {
	cause   Cause // of firewalld, "" else
	process string
}

// repair is Repair with what is known about the cause.
func (f *Firewall) repair(ctx context.Context, found finding) (Report, error) {
	f.mu.Lock()
	report, err := f.complete(ctx)
	f.mu.Unlock()
	if report.Repaired() && found.cause != "" {
		report.Cause = found.cause
	}
	report.Process = found.process
	f.count(report, err)
	if err != nil {
		return report, fmt.Errorf("repairing the firewall: %w", err)
	}
	return report, nil
}

// rebind puts bridges back into their zones of firewalld, and returns how many
// were not there.
func (f *Firewall) rebind(ctx context.Context) int {
	f.mu.Lock()
	networks := f.standing.networks()
	f.mu.Unlock()
	moved := f.zones.rebind(ctx, networks, f.log)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stats.Zones += uint64(moved)
	return moved
}

// complete makes every network's rules complete. The caller holds mu.
func (f *Firewall) complete(ctx context.Context) (Report, error) {
	f.stats.Checks++
	f.keepConnections()
	changes := f.standing.changes()
	if f.memory.refresh(); f.memory.whole || len(changes) == 0 {
		return Report{}, nil
	}
	rules := f.usable(f.standing.placed())
	if len(rules) == 0 {
		return Report{}, nil
	}
	found := map[Family]*damage{IPv4: {}, IPv6: {}}
	_, err := f.transact(ctx, transaction{rules: rules, plan: func(l listing, family Family) (*edit, error) {
		d := assess(l, family, f.layout, rules)
		e := plan(l, family, f.layout, changes)
		if !e.empty() {
			d.changed = true
			*found[family] = d
		}
		return e, nil
	}})
	if err == nil {
		f.memory.whole = f.memory.id != 0 && f.tracked()
	}
	return summary(f.layout.prefix, found[IPv4], found[IPv6]), err
}

// tracked tells whether generations count the changes of all families in use.
func (f *Firewall) tracked() bool {
	return !slices.ContainsFunc(f.tools, func(t *tool) bool { return t.missing == nil && t.variant != variantNFT })
}

// count keeps the counts and writes the log.
func (f *Firewall) count(r Report, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case err != nil:
		f.stats.Failed++
		f.log.Error("firewall could not be repaired", "cause", string(r.Cause), "process", r.Process, "error", err)
	case r.Repaired():
		f.stats.Repairs++
		f.stats.Rules += uint64(len(r.Missing))
		if f.stats.ByCause == nil {
			f.stats.ByCause = map[Cause]uint64{}
		}
		f.stats.ByCause[r.Cause]++
		f.stats.LastRepair = time.Now()
		f.log.Warn("firewall repaired", "cause", string(r.Cause), "process", r.Process,
			"rules", len(r.Missing), "chains", strings.Join(r.Chains, " "))
	}
}

// damage is what a listing lacks.
type damage struct {
	changed bool // something must be done
	chains  []string
	missing []Rule
	left    bool // a rule of ours is there
	emptied bool // no rule of ours is left in a table that should have some
}

// assess compares a listing with the rules that should be there and the jumps.
// It is pure.
func assess(l listing, f Family, as layout, rules []Rule) damage {
	var d damage
	for _, j := range ofFamily(f, Jumps(as.prefix)) {
		if chain := jumpTarget(j.Args); !l.has(j.Table, chain) {
			d.chains = append(d.chains, chain)
		}
	}
	wanted := append(Jumps(as.prefix), rules...)
	if as.docker {
		wanted = append(wanted, as.dockerJumps()...)
	}
	tables := map[string]int{} // rules of ours that are there
	for _, c := range byChain(f, wanted) {
		if c.name == chainDockerUser && !l.has(c.table, c.name) {
			continue
		}
		before := len(d.missing)
		for _, args := range c.args {
			if !l[c.table][c.name].has(args) {
				d.missing = append(d.missing, Rule{f, c.table, c.name, args})
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

// onlyIn tells whether all missing rules are in chains of that prefix.
func (d damage) onlyIn(prefix string) bool {
	return !slices.ContainsFunc(d.missing, func(r Rule) bool { return !strings.HasPrefix(r.Chain, prefix) })
}

// noneIn tells whether no missing rule is in a chain of that prefix.
func (d damage) noneIn(prefix string) bool {
	return !slices.ContainsFunc(d.missing, func(r Rule) bool { return strings.HasPrefix(r.Chain, prefix) })
}

// cause is what most likely did the damage.
func (d damage) cause(prefix string) Cause {
	switch {
	case !d.changed:
		return ""
	case len(d.missing) == 0 && len(d.chains) == 0:
		return CauseReordered
	case d.onlyIn(chainDockerUser) && len(d.chains) == 0:
		return CauseDockerUser
	case !d.left:
		return CauseFlush
	case d.emptied:
		return CauseTableFlush
	case len(d.chains) > 0:
		return CauseChainDeleted
	case d.noneIn(prefix):
		return CauseJumpDeleted
	}
	return CauseRulesDeleted
}

// summary joins what both families lack; the worst cause counts.
func summary(prefix string, parts ...*damage) Report {
	var r Report
	var causes []Cause
	for _, d := range parts {
		r.Chains = append(r.Chains, d.chains...)
		r.Missing = append(r.Missing, d.missing...)
		causes = append(causes, d.cause(prefix))
	}
	worst := []Cause{CauseFlush, CauseTableFlush, CauseChainDeleted, CauseRulesDeleted, CauseJumpDeleted, CauseDockerUser, CauseReordered}
	if i := slices.IndexFunc(worst, func(c Cause) bool { return slices.Contains(causes, c) }); i >= 0 {
		r.Cause = worst[i]
	}
	slices.Sort(r.Chains)
	r.Chains = slices.Compact(r.Chains)
	return r
}
