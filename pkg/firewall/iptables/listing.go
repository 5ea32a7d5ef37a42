package iptables

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// listing is what one family's tables hold, by table and chain. A chain that
// exists has an entry, an empty one too.
type listing map[string]map[string]*chain

// parseListing reads the output of iptables-save. Tables that exist but hold
// rules which iptables can't show are an error if we have chains in them:
// acting on half of them could double or lose rules.
func parseListing(text string) (listing, error) {
	l := listing{}
	read := map[*chain][]string{}
	table := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "#"):
			if name, hidden := hiddenTable(line); hidden {
				return nil, fmt.Errorf("table %s holds rules that iptables can't show, made by nft(8): see \"nft list ruleset\"", name)
			}
		case strings.HasPrefix(line, "*"):
			table = line[1:]
			if l[table] == nil {
				l[table] = map[string]*chain{}
			}
		case table == "":
		case strings.HasPrefix(line, ":"):
			name, _, _ := strings.Cut(line[1:], " ")
			l.declare(table, name)
		case strings.HasPrefix(line, "-A "):
			name, args, _ := strings.Cut(line[len("-A "):], " ")
			args = lowerMAC(args)
			c := l.declare(table, name)
			read[c] = append(read[c], args)
		}
	}
	for c, rules := range read {
		c.insert(rules)
	}
	return l, nil
}

// lowerMAC has a MAC address be written as we write it: older iptables print
// capital letters.
func lowerMAC(args string) string {
	const flag, size = "--mac-source ", len("52:54:00:00:00:00")
	at := strings.Index(args, flag)
	if at < 0 || len(args) < at+len(flag)+size {
		return args
	}
	at += len(flag)
	return args[:at] + strings.ToLower(args[at:at+size]) + args[at+size:]
}

// hiddenTable recognises the comment in place of a table that iptables-nft
// can't express, and tells which of our tables it is about.
func hiddenTable(comment string) (string, bool) {
	name, found := strings.CutPrefix(comment, "# Table `")
	name, rest, _ := strings.Cut(name, "'")
	return name, found && strings.HasPrefix(rest, " is incompatible") && slices.Contains(tables(), name)
}

// tables are those in which we have chains, in the order of the transaction: a
// network's packets are translated before they are let through, and mangle,
// whose rule is dispensable, comes last.
func tables() []string {
	return []string{tableNAT, tableFilter, tableMangle}
}

// declare makes sure that the chain has an entry, and returns it.
func (l listing) declare(table, name string) *chain {
	if l[table] == nil {
		l[table] = map[string]*chain{}
	}
	if l[table][name] == nil {
		l[table][name] = &chain{texts: map[string]spot{}}
	}
	return l[table][name]
}

// has reports whether the chain exists.
func (l listing) has(table, name string) bool { return l[table][name] != nil }

// held are those of the rules that the listing has, each once, in the order in
// which the chains hold them.
func (l listing) held(f firewall.Family, rules []firewall.Line) []firewall.Line {
	var out []firewall.Line
	for _, c := range byChain(f, rules) {
		seen := map[string]bool{}
		for _, args := range l[c.table][c.name].held(c.args) {
			if !seen[args] {
				seen[args] = true
				out = append(out, firewall.Line{Family: f, Table: c.table, Chain: c.name, Args: args})
			}
		}
	}
	return out
}

// ofFamily are the rules of one family.
func ofFamily(f firewall.Family, rules []firewall.Line) []firewall.Line {
	return slices.DeleteFunc(slices.Clone(rules), func(r firewall.Line) bool { return r.Family != f })
}

// chainRules are the rules of one chain.
type chainRules struct {
	table, name string
	args        []string
}

// byChain groups the rules of one family by chain, both in order of appearance.
func byChain(f firewall.Family, rules []firewall.Line) []chainRules {
	var out []chainRules
	at := map[[2]string]int{}
	for _, r := range rules {
		if r.Family != f {
			continue
		}
		key := [2]string{r.Table, r.Chain}
		i, known := at[key]
		if !known {
			i = len(out)
			at[key] = i
			out = append(out, chainRules{table: r.Table, name: r.Chain})
		}
		out[i].args = append(out[i].args, r.Args)
	}
	return out
}

// chain is what one chain holds: each rule as iptables-save prints it after
// "-A CHAIN ". What is asked about a network's rules costs little however many
// rules others have in the chain. A nil chain holds nothing.
type chain struct {
	// backwards are the rules, the last one first, so that those that come to the
	// head are appended. The elements are never altered.
	backwards []string
	texts     map[string]spot // no entry for none
}

// spot is where a rule is in backwards, if it is there once, and how many copies there are.
type spot struct{ at, copies int }

// all yields the rules in their order.
func (c *chain) all() iter.Seq[string] {
	return func(yield func(string) bool) {
		if c == nil {
			return
		}
		for _, args := range slices.Backward(c.backwards) {
			if !yield(args) {
				return
			}
		}
	}
}

// rules are all, as a slice of its own.
func (c *chain) rules() []string { return slices.Collect(c.all()) }

// has reports whether the chain holds the rule.
func (c *chain) has(args string) bool { return c != nil && c.texts[args].copies > 0 }

// count is the number of copies of any of the rules, which are distinct.
func (c *chain) count(rules []string) int {
	n := 0
	if c != nil {
		for _, args := range rules {
			n += c.texts[args].copies
		}
	}
	return n
}

// held are the copies of the rules in the order in which they stand.
func (c *chain) held(rules []string) []string {
	left := c.count(rules)
	if left == 0 {
		return nil
	}
	places := make([]int, 0, left)
	for _, args := range rules {
		switch spot := c.texts[args]; spot.copies {
		case 0:
		case 1:
			places = append(places, spot.at)
		default:
			return c.search(rules, left)
		}
	}
	slices.Sort(places)
	out := make([]string, 0, left)
	for _, at := range slices.Backward(slices.Compact(places)) {
		out = append(out, c.backwards[at])
	}
	return out
}

// search is held of rules of which some stand more than once; left is how many copies there are.
func (c *chain) search(rules []string, left int) (out []string) {
	wanted := setOf(rules)
	for args := range c.all() {
		if wanted[args] {
			out = append(out, args)
			if left--; left == 0 {
				break
			}
		}
	}
	return out
}

// insert puts rules at the head.
func (c *chain) insert(rules []string) {
	for _, args := range slices.Backward(rules) {
		c.texts[args] = spot{len(c.backwards), c.texts[args].copies + 1}
		c.backwards = append(c.backwards, args)
	}
}

// remove takes out every copy of the rules and returns them in their order.
func (c *chain) remove(rules []string) []string {
	removed := c.held(rules)
	if len(removed) == 0 {
		return nil
	}
	left, at, gone := len(removed), len(c.backwards), setOf(rules)
	var ahead []string // what stays of those that were looked at
	for ; left > 0; at-- {
		if args := c.backwards[at-1]; gone[args] {
			left--
		} else {
			ahead = append(ahead, args)
		}
	}
	slices.Reverse(ahead)
	c.backwards = slices.Concat(c.backwards[:at], ahead)
	for i, args := range ahead {
		c.texts[args] = spot{at + i, c.texts[args].copies}
	}
	for _, args := range rules {
		delete(c.texts, args)
	}
	return removed
}

// chainKey names a chain of one family.
type chainKey struct {
	family      firewall.Family
	table, name string
}

// setOf has what is in a list.
func setOf[T comparable](list []T) map[T]bool {
	set := make(map[T]bool, len(list))
	for _, v := range list {
		set[v] = true
	}
	return set
}
