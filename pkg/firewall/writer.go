package firewall

import (
	"context"
	"errors"
	"iter"
	"slices"
)

// ErrChanging says that rules are changed too fast just now to be listed: what was found last is more
// than what is found now, and better ask again.
var ErrChanging = errors.New("rules are being changed all the time")

// Writer keeps rules in the kernel of one network namespace, in the form of one
// of its firewalls. It is safe for concurrent use; Apply, Complete and Purge
// are never called side by side. Desired is the caller's, and not altered.
type Writer interface {
	// Apply carries out changes together. desired is what shall stand before
	// them. A network whose rules are not complete comes ahead of all others, the
	// last one first, or its first rules alone where only these are missing; rules that Change.Known has and Change.Rules has not are
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
	// of networks; see Firewall.Conditions, also of ErrChanging.
	Conditions(ctx context.Context, networks []Network) ([]Condition, error)
	// Lines show n's rules as the writer writes them.
	Lines(n Network) []Line
	// Counts are what n's rules of the paths Leaving, Entering, Asking and Admission have
	// met since they were last written. A rule that stands for no packets of its own is not
	// there.
	Counts(ctx context.Context, n Network) (map[Rule]Count, error)
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

// After are the networks that stand after changes, which are not to be altered.
func (d Desired) After(changes []Change) iter.Seq[*Network] {
	changed := make(map[string]bool, len(changes))
	for i := range changes {
		changed[changes[i].Network.Bridge] = true
	}
	return func(yield func(*Network) bool) {
		for i := range changes {
			if c := &changes[i]; !c.Remove && !yield(&c.Network) {
				return
			}
		}
		for i := range d {
			if n := &d[i].Network; !changed[n.Bridge] && !yield(n) {
				return
			}
		}
	}
}

// Entry is what is known of one bridge's rules.
type Entry struct {
	Network Network
	Rules   []Rule // shall stand, in this order
	Former  []Rule // may stand as well, of a former process
}

// All are the rules of the entry in any form.
func (e Entry) All() []Rule {
	out := slices.Clone(e.Rules)
	for _, r := range e.Former {
		if !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out
}

// Desired is what shall stand, the oldest network first.
type Desired []Entry

// find returns the entry of a bridge, an empty one if there is none.
func (d Desired) find(bridge string) Entry {
	if i := d.index(bridge); i >= 0 {
		return d[i]
	}
	return Entry{}
}

// index is the place of a bridge, -1 if it has none.
func (d Desired) index(bridge string) int {
	return slices.IndexFunc(d, func(e Entry) bool { return e.Network.Bridge == bridge })
}

// adopt adds what a former process may have placed for n.
func (d *Desired) adopt(n Network) {
	i := d.index(n.Bridge)
	if i < 0 {
		*d = append(*d, Entry{Network: n, Rules: n.Rules()})
		return
	}
	(*d)[i].Former = Entry{Rules: (*d)[i].Former, Former: n.Rules()}.All()
}

// set notes that exactly these rules stand for n. It becomes the newest unless
// it stood like this before.
func (d *Desired) set(n Network, rules []Rule) {
	if i := d.index(n.Bridge); i >= 0 && slices.Equal((*d)[i].Rules, rules) {
		(*d)[i] = Entry{Network: n, Rules: rules}
		return
	}
	d.forget(n.Bridge)
	*d = append(*d, Entry{Network: n, Rules: rules})
}

// forget drops a bridge.
func (d *Desired) forget(bridge string) {
	*d = slices.DeleteFunc(*d, func(e Entry) bool { return e.Network.Bridge == bridge })
}

// Count is how many packets a rule has met.
type Count struct{ Packets, Bytes uint64 }

// Line is a rule as a writer writes it.
type Line struct {
	Family Family
	Table  string
	Chain  string
	// Args is the rule as the writer's program prints it without its chain.
	Args string
	// Form is how it is written.
	Form Form
}

// Form is how a line is written.
type Form uint8

// The forms.
const (
	FormIPTables Form = iota // a rule as iptables-save prints it
	FormElement              // an element as nft(8) lists it; Chain is its set or map
	FormRule                 // a rule as nft(8) lists it
)

// String is the rule as a command of iptables or ip6tables, or of nft, without the
// program's name.
func (l Line) String() string {
	family := "ip"
	if l.Family == IPv6 {
		family = "ip6"
	}
	switch l.Form {
	case FormElement:
		return "add element " + family + " " + l.Table + " " + l.Chain + " { " + l.Args + " }"
	case FormRule:
		return "add rule " + family + " " + l.Table + " " + l.Chain + " " + l.Args
	}
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

// Causes lists all causes.
func Causes() []Cause {
	return []Cause{
		CauseFlush, CauseTableFlush, CauseChainDeleted, CauseJumpDeleted, CauseRulesDeleted, CauseReordered, CauseDockerUser,
		CauseFirewalldReload, CauseFirewalldRestart,
	}
}

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
