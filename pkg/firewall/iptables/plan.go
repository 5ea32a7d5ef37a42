package iptables

import (
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// change is one network's part in a transaction, in lines.
type change struct {
	remove []firewall.Line // must be absent afterwards, unless in place as well
	place  []firewall.Line // must be there once, in this order
	// network is the one whose rules are placed; what a libvirtd left for its
	// bridge is removed. Zero: nothing is looked for.
	network firewall.Network
	others  firewall.Desired // whose rules are none of libvirtd's leftovers
	// bridge is the network's, of which no rules of networks may be left in the chains for
	// policies but those placed. Empty: nothing is looked for.
	bridge string
}

// edit is a list of increments to one family's tables. It keeps the listing in
// step with the increments, so that later ones see the effect of earlier ones.
type edit struct {
	family   firewall.Family
	listed   listing
	before   map[chainKey][]string // the chains that change, as listed: the last rule first
	commands map[string][]command  // by table
	opened   bool                  // a rule was placed in DOCKER-USER
}

// The commands of iptables-restore that edits have.
const (
	opNewChain    = "-N"
	opDeleteChain = "-X"
	opInsert      = "-I"
	opDelete      = "-D"
)

// command is one line of a transaction.
type command struct {
	op, chain string
	args      string // of the rule, "" for a command about a chain
}

// newEdit starts from what was listed. The listing belongs to the edit then.
func newEdit(l listing, f firewall.Family) *edit {
	return &edit{family: f, listed: l, before: map[chainKey][]string{}, commands: map[string][]command{}}
}

// plan lists the increments that carry out the changes, in their order: that
// of the last change stands first in the chains. It is pure. Chains and jumps
// are made in both families as soon as any network places a rule in one, as
// libvirt does.
func plan(l listing, f firewall.Family, o options, changes []change) *edit {
	e := newEdit(l, f)
	if placesAny(changes) {
		e.scaffold(f, o.jumps(l.has, placedBy(changes)))
	}
	for _, c := range changes {
		placed := setOf(c.place)
		remove := slices.Concat(c.remove, leftovers(e.listed, f, o, c), strays(e.listed, f, c))
		for _, gone := range byChain(f, remove) {
			e.delete(gone.table, gone.name, without(gone.args, placed, f, gone))
		}
		for _, wanted := range byChain(f, c.place) {
			e.extend(wanted.table, wanted.name, wanted.args)
		}
	}
	if o.docker && placesAny(changes) {
		e.leadDocker(f, dockerJumps(o.jumps(e.listed.has, nil)))
	}
	return e
}

// placedBy are the lines that changes place.
func placedBy(changes []change) (all []firewall.Line) {
	for _, c := range changes {
		all = append(all, c.place...)
	}
	return all
}

// placesAny reports whether any change places a rule.
func placesAny(changes []change) bool {
	return slices.ContainsFunc(changes, func(c change) bool { return len(c.place) > 0 })
}

// leadDocker makes DOCKER-USER, where it exists, lead to the chains. The jumps
// stand before the accepts that were placed there just now: what the networks'
// rules reject must not pass by those.
func (e *edit) leadDocker(f firewall.Family, jumps []firewall.Line) {
	for _, c := range byChain(f, jumps) {
		if e.opened {
			e.delete(c.table, c.name, c.args)
		}
		e.place(c.table, c.name, c.args)
	}
}

// without are the rules of a chain that are not among those to be placed.
func without(args []string, placed map[firewall.Line]bool, f firewall.Family, c chainRules) []string {
	return slices.DeleteFunc(slices.Clone(args), func(a string) bool {
		return placed[firewall.Line{Family: f, Table: c.table, Chain: c.name, Args: a}]
	})
}

// scaffold makes the missing chains, and the jumps of every parent that lacks
// one or has them in another order.
func (e *edit) scaffold(f firewall.Family, jumps []firewall.Line) {
	for _, parent := range byChain(f, jumps) {
		for _, jump := range parent.args {
			e.newChain(parent.table, jumpTarget(jump))
		}
		e.place(parent.table, parent.name, parent.args)
	}
}

// newChain makes a chain if it is missing. It says -N, which fails on a chain
// that somebody made in the meantime; the form ":CHAIN" would empty it.
func (e *edit) newChain(table, chain string) {
	if e.listed.has(table, chain) {
		return
	}
	e.listed.declare(table, chain)
	e.command(table, command{op: opNewChain, chain: chain})
}

// place makes the chain hold each of the rules once and in this order, unless it
// is DOCKER-USER and Docker did not make it. If it does not hold them yet, all
// copies are deleted and the rules inserted at its head; what stands between and
// around them is not touched.
func (e *edit) place(table, chain string, rules []string) {
	if chain == chainDockerUser && !e.listed.has(table, chain) {
		return
	}
	held := e.listed[table][chain].held(rules)
	if slices.Equal(held, rules) {
		return
	}
	e.opened = e.opened || chain == chainDockerUser
	if len(held) > 0 {
		e.delete(table, chain, rules)
	}
	e.insert(table, chain, rules)
}

// extend is place, but inserts only the first rules where these alone are missing: among
// many forwards one that is new costs little.
func (e *edit) extend(table, chain string, rules []string) {
	held := e.listed[table][chain].held(rules)
	missing := len(rules) - len(held)
	if len(held) == 0 || missing <= 0 || chain == chainDockerUser || !slices.Equal(held, rules[missing:]) {
		e.place(table, chain, rules)
		return
	}
	e.insert(table, chain, rules[:missing])
}

// insert puts rules at the head of the chain.
func (e *edit) insert(table, chain string, rules []string) {
	e.touch(table, chain)
	e.listed[table][chain].insert(rules)
	for _, args := range slices.Backward(rules) {
		e.command(table, command{opInsert, chain, args})
	}
}

// delete removes every listed copy of the rules. Nothing else may be deleted: a
// -D without its rule fails the whole transaction.
func (e *edit) delete(table, chain string, rules []string) {
	if e.listed[table][chain].count(rules) == 0 {
		return
	}
	e.touch(table, chain)
	for _, args := range e.listed[table][chain].remove(rules) {
		e.command(table, command{opDelete, chain, args})
	}
}

// deleteChain removes an empty chain.
func (e *edit) deleteChain(table, chain string) {
	if !e.listed.has(table, chain) {
		return
	}
	delete(e.listed[table], chain)
	e.command(table, command{op: opDeleteChain, chain: chain})
}

// command notes one line of the transaction.
func (e *edit) command(table string, c command) {
	e.commands[table] = append(e.commands[table], c)
}

// touch keeps a chain as it was listed, once.
func (e *edit) touch(table, chain string) {
	key := chainKey{e.family, table, chain}
	if _, kept := e.before[key]; !kept {
		e.before[key] = e.listed.declare(table, chain).backwards
	}
}

// empty reports whether nothing is to do.
func (e *edit) empty() bool { return e.tables() == 0 }

// tables is the number of tables that change.
func (e *edit) tables() int { return len(e.commands) }

// text is the input of iptables-restore, "" when there is nothing to do.
func (e *edit) text() string {
	var b strings.Builder
	for _, table := range tables() {
		if len(e.commands[table]) == 0 {
			continue
		}
		b.WriteString("*" + table + "\n")
		for _, c := range e.commands[table] {
			b.WriteString(strings.TrimRight(c.op+" "+c.chain+" "+c.args, " ") + "\n")
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}
