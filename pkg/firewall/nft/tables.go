package nft

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// table is one family's table as it was written.
type table struct {
	ipFamily
	place    nfnetlink.Place
	elements map[element]int     // how many networks want each
	sections map[string]*counted // by name
	// rules are the kernel's form of what stands in chains, by which it is seen whether
	// somebody has changed one. nil: not known.
	rules map[string][]nfnetlink.Rule
}

// counted is a section that networks want.
type counted struct {
	section
	networks int
}

func newTable(f ipFamily, name string) *table {
	t := &table{ipFamily: f, place: nfnetlink.Place{Family: f.number, Table: name}}
	t.forget()
	return t
}

// forget has nothing be written.
func (t *table) forget() {
	t.elements, t.sections, t.rules = map[element]int{}, map[string]*counted{}, nil
}

// delta is what becomes of a table.
type delta struct {
	add, remove  []element
	build, raze  []section
	refill       []section // whose chain has other rules
	first, empty bool      // the table comes or goes
}

// touched are the chains that come, go, or have other rules then.
func (d *delta) touched() (names []string) {
	for _, s := range slices.Concat(d.build, d.raze, d.refill) {
		names = append(names, chainNames(s.chains)...)
	}
	return append(names, d.into()...)
}

// into are the chains of other sections in which other clauses stand then.
func (d *delta) into() (names []string) {
	for _, s := range slices.Concat(d.build, d.raze) {
		if s.into != "" && !slices.Contains(names, s.into) {
			names = append(names, s.into)
		}
	}
	return names
}

// exchange counts what networks want anew, of whom each had a share before and has one
// after, either nil for none.
func (t *table) exchange(before, after []*share) (d delta) {
	d.first = t.sections[sectionFilter] == nil
	for _, s := range after {
		if s != nil {
			t.want(&d, s)
		}
	}
	for _, s := range before {
		if s != nil {
			t.leave(&d, s)
		}
	}
	d.empty = t.sections[sectionFilter] == nil
	return d
}

// want counts in a share.
func (t *table) want(d *delta, s *share) {
	for _, e := range s.elements {
		if t.elements[e]++; t.elements[e] == 1 {
			d.add = append(d.add, e)
		}
	}
	for _, part := range s.sections {
		c := t.sections[part.name]
		switch {
		case c == nil:
			c = &counted{section: part}
			t.sections[part.name] = c
			d.build = append(d.build, part)
		case part.own && !slices.EqualFunc(c.chains[0].clauses, part.chains[0].clauses, func(a, b clause) bool { return a.text == b.text }):
			c.section = part
			d.refill = append(d.refill, part)
		}
		c.networks++
	}
}

// leave takes out a share.
func (t *table) leave(d *delta, s *share) {
	for _, e := range s.elements {
		if t.elements[e]--; t.elements[e] == 0 {
			delete(t.elements, e)
			d.remove = append(d.remove, e)
		}
	}
	for _, part := range s.sections {
		c := t.sections[part.name]
		if c.networks--; c.networks == 0 {
			delete(t.sections, part.name)
			d.raze = append(d.raze, part)
		}
	}
}

// tableComment is what nft(8) says of the table.
const tableComment = "vnetd's networks; what others put here is taken out"

// messages are what becomes of the table, in the order in which the kernel takes it.
func (t *table) messages(d delta) (all [][]byte, err error) {
	switch {
	case d.first && d.empty:
		return nil, nil
	case d.empty:
		return t.drop(), nil
	case d.first:
		all = append(t.drop(), t.place.NewTable(0, tableComment))
		d.remove, d.raze = nil, nil
	}
	for _, name := range d.into() {
		if !d.first && !holds(d.build, name) {
			all = append(all, t.place.FlushChain(name))
		}
	}
	all = append(all, bySet(d.remove, t.place.DeleteElements)...)
	for _, s := range d.raze {
		for _, c := range s.chains {
			all = append(all, t.place.DeleteChain(c.name))
		}
		for _, set := range s.sets {
			all = append(all, t.place.DeleteSet(set.Name))
		}
	}
	built, err := t.build(&d)
	all = append(all, built...)
	return append(all, bySet(d.add, t.place.NewElements)...), err
}

// build makes sections: chains before their rules, which lead to each other.
func (t *table) build(d *delta) (all [][]byte, err error) {
	var filled []stage
	id := uint32(0)
	for _, s := range d.build {
		for _, set := range s.sets {
			id++
			all = append(all, t.place.NewSet(set, id))
		}
		for _, c := range s.chains {
			all = append(all, t.place.NewChain(c.name, c.hook))
		}
		filled = append(filled, s.chains...)
	}
	for _, s := range d.refill {
		all = append(all, t.place.FlushChain(s.name))
		filled = append(filled, s.chains...)
	}
	for _, name := range d.into() {
		filled = append(filled, t.refilled(d, name)...)
	}
	for _, c := range filled {
		rules, err := t.fill(c)
		if err != nil {
			return nil, err
		}
		all = append(all, rules...)
	}
	return all, nil
}

// refilled is what is put into a chain with clauses of other sections: these alone where it
// is made just now, nothing where it is gone.
func (t *table) refilled(d *delta, name string) []stage {
	for _, s := range t.sections {
		for _, c := range s.chains {
			if c.name != name {
				continue
			}
			more := t.more()[name]
			if !holds(d.build, name) {
				more = slices.Concat(c.clauses, more)
			}
			return []stage{{name: name, clauses: more}}
		}
	}
	return nil
}

// holds reports whether a chain is one of the sections'.
func holds(sections []section, chain string) bool {
	return slices.ContainsFunc(sections, func(s section) bool { return slices.Contains(chainNames(s.chains), chain) })
}

// more are the clauses of other sections in chains, in the order of the sections' names.
func (t *table) more() map[string][]clause {
	var leading []string
	for name, s := range t.sections {
		if s.into != "" {
			leading = append(leading, name)
		}
	}
	slices.Sort(leading)
	all := map[string][]clause{}
	for _, name := range leading {
		s := t.sections[name]
		all[s.into] = append(all[s.into], s.more...)
	}
	return all
}

// fill puts rules into a chain.
func (t *table) fill(c stage) (rules [][]byte, err error) {
	rules = make([][]byte, 0, len(c.clauses))
	for _, r := range c.clauses {
		expressions, err := r.rule.expressions(t.number)
		if err != nil {
			return nil, fmt.Errorf("chain %s: %w", c.name, err)
		}
		rules = append(rules, t.place.NewRule(c.name, expressions...))
	}
	return rules, nil
}

// drop has the table be gone, whether or not it is there.
func (t *table) drop() [][]byte {
	return [][]byte{t.place.NewTable(0, ""), t.place.DeleteTable()}
}

func chainNames(all []stage) (names []string) {
	for _, c := range all {
		names = append(names, c.name)
	}
	return names
}

// maxTouched is how many chains are read back one by one: more of them with all others.
const maxTouched = 64

// learn reads back what stands in chains that a transaction has touched, whatever else the
// table has: one network's change costs the same beside one other as beside hundreds. What can't
// be listed while others commit is learned with the next change.
func (t *table) learn(s *nfnetlink.Socket, touched []string) error {
	err := t.readBack(s, touched)
	if errors.Is(err, netlink.ErrInterrupted) {
		return nil
	}
	return err
}

// readBack is learn; after an error nothing is known.
func (t *table) readBack(s *nfnetlink.Socket, touched []string) error {
	known := t.rules
	t.rules = nil
	if known == nil || len(touched) > maxTouched {
		rules, err := t.read(s, "")
		if err == nil {
			t.rules = rules
		}
		return err
	}
	for _, chain := range touched {
		rules, err := t.read(s, chain)
		if err != nil {
			return err
		}
		delete(known, chain)
		maps.Copy(known, rules)
	}
	t.rules = known
	return nil
}

// read reads what stands in a chain, or in all of them where it is empty.
func (t *table) read(s *nfnetlink.Socket, chain string) (map[string][]nfnetlink.Rule, error) {
	all, err := s.Rules(t.number, t.place.Table, chain)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, err
	}
	rules := map[string][]nfnetlink.Rule{}
	for _, r := range all {
		r.Expressions = uncounted(r.Expressions)
		rules[r.Chain] = append(rules[r.Chain], r)
	}
	return rules, nil
}

// uncounted are a rule's expressions without counters, whose counts change.
func uncounted(expressions []byte) (out []byte) {
	for kind, e := range netlink.Attributes(expressions) {
		if !counts(e) {
			out = netlink.AppendAttribute(out, unix.NLA_F_NESTED|kind, e)
		}
	}
	return out
}

// wanted are all sets, and all chains, that shall be there.
func (t *table) wanted() (sets []nfnetlink.Set, chains []stage) {
	for _, c := range t.sections {
		sets, chains = append(sets, c.sets...), append(chains, c.chains...)
	}
	more := t.more()
	for i := range chains {
		chains[i].clauses = slices.Concat(chains[i].clauses, more[chains[i].name])
	}
	slices.SortFunc(sets, func(a, b nfnetlink.Set) int { return compareText(a.Name, b.Name) })
	slices.SortFunc(chains, func(a, b stage) int { return compareText(a.name, b.name) })
	return sets, chains
}

// line is an element for people.
func (e element) line(f firewall.Family) firewall.Line {
	return firewall.Line{Family: f, Table: networksTable, Chain: e.set, Args: e.String(), Form: firewall.FormElement}
}

func compareText(a, b string) int { return strings.Compare(a, b) }
