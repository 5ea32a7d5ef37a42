package firewall

import "context"

// Writer keeps rules in the kernel of one network namespace, in the form of one
// of its firewalls. It is safe for concurrent use; Apply, Complete and Purge
// are never called side by side. Desired is the caller's, and not altered.
type Writer interface {
	// Apply carries out changes together. desired is what shall stand before
	// them. A network whose rules are not complete comes ahead of all others, the
	// last one first; rules that Change.Known has and Change.Rules has not are
	// deleted in every copy, and so are those that a libvirtd left for the bridge.
	// After an error what stood before stands again, unless the only change was a
	// removal, of which then as much was done as could be.
	Apply(ctx context.Context, desired Desired, changes []Change) error
	// Complete puts back what is missing of desired and reports it. Without afresh
	// it need not look at rules of which the kernel says that nobody has changed
	// them.
	Complete(ctx context.Context, desired Desired, afresh bool) (Report, error)
	// Purge removes all that the writer has made, and changes nothing if others'
	// rules are in the way.
	Purge(ctx context.Context, desired Desired) error
	// RemoveLeftovers removes rules of a libvirtd for n's bridge that Apply does
	// not see.
	RemoveLeftovers(ctx context.Context, n Network) error
	// Conditions are what others' rules and the kernel's settings do to the guests
	// of networks; see Firewall.Conditions.
	Conditions(ctx context.Context, networks []Network) ([]Condition, error)
	// Lines show n's rules as the writer writes them.
	Lines(n Network) []Line
	// Watch calls changed after every change of the kernel's rules, by whomever,
	// until ctx ends. It returns nil at once where the kernel does not tell.
	Watch(ctx context.Context, changed func()) error
	// Others are the programs that Watch has seen change rules since the last call,
	// the latest last; the writer's own changes are none. A name has at most 15
	// characters.
	Others() []string
	// Close gives back what the writer has opened. It touches no rule.
	Close() error
}

// Change is what becomes of the rules of one network.
type Change struct {
	Network Network
	Known   []Rule // may stand for its bridge now
	Rules   []Rule // shall stand for it then
	Remove  bool   // the network ends; Rules is empty
}

// Line is a rule as a writer writes it.
type Line struct {
	Family Family
	Table  string
	Chain  string
	// Args is the rule as the writer's program prints it without its chain.
	Args string
}

// String is the rule as a command of iptables or ip6tables without the
// program's name.
func (l Line) String() string {
	return "-t " + l.Table + " -A " + l.Chain + " " + l.Args
}

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
	Missing []Line
	// Zones is the number of bridges that Repair put back into firewalld's zones.
	Zones int
}

// Repaired reports whether any rule was put back.
func (r Report) Repaired() bool { return r.Cause != "" }
