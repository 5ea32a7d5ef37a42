// Package ruleset reads what the programs of nftables, iptables and ipset list, and
// has it in one form, in which eval asks what becomes of a packet. It executes
// nothing. What it does not understand of a rule stays in it as unknown.
package ruleset

import "slices"

// Ruleset is all that a host's firewalls hold.
type Ruleset struct {
	Tables []*Table
}

// Table is a table of nftables, or of iptables in either variant.
type Table struct {
	Family  string // "ip", "ip6", "inet", "bridge", "arp", "netdev"
	Name    string
	Program string // the program of iptables that lists it; empty: nft
	Legacy  bool   // of iptables-legacy
	Chains  []*Chain
	Sets    map[string]*Set
}

// Chain returns the chain of that name, nil if there is none.
func (t *Table) Chain(name string) *Chain {
	i := slices.IndexFunc(t.Chains, func(c *Chain) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	return t.Chains[i]
}

// Chain is a chain. Hook is empty for one that is only jumped to.
type Chain struct {
	Table    *Table
	Name     string
	Type     string // "filter", "nat", "route"
	Hook     string // "prerouting", "input", ...
	Priority int
	Devices  []string // of the hooks ingress and egress
	Drops    bool     // the policy
	Rules    []*Rule
}

// Rule is a rule. Text is as its program prints it, without its chain.
type Rule struct {
	Chain      *Chain
	Handle     int // 0: not known
	Text       string
	Comment    string // without it in Text where its program shows it so
	Statements []Statement
	native     bool // has a lookup that iptables-save does not show
}

// Kind says what a statement does.
type Kind uint8

// The kinds of statements. Those that do nothing to the packet's way are left out.
const (
	Match      Kind = iota // ends the rule unless Expr and Set are in the relation Op
	Decide                 // ends the rule with Verdict
	DecideBy               // looks Expr up in Set, and ends the rule with the element's verdict
	Assign                 // Field becomes Expr
	Translate              // Verdict's name is that of the translation
	Untrack                // the packet belongs to no connection
	MayMatch               // matches or not, nobody knows
	MayDecide              // what becomes of the packet is not known
	MayConsume             // the packet ends here, or goes on
	Limited                // matches while a rate or a count is kept, or with the Op "over" while it is not
)

// Statement is a part of a rule. They are carried out in order.
type Statement struct {
	Kind    Kind
	Expr    Expr
	Op      string // "==", "!=", "<", "<=", ">", ">=", "in" (any bit), "!" (no bit)
	Set     *Set
	Verdict Verdict
	Field   string
	Addr    *Expr // of Translate; nil: stays, or is the host's
	Port    *Expr // the same
}

// Verdict is where a packet goes.
type Verdict struct {
	Name   string // "accept", "drop", "reject", "jump", "goto", "return", "continue"; "dnat", "snat", "masquerade", "redirect"
	Target string // of jump and goto
}

// Expr is a value that is found out for a packet.
type Expr struct {
	Op    string // "field", "value", "&", "|", "^", "concat", "map", "shift" (a port and Value), "range" (any of Args[0] to Args[1]); else unknown
	Field string // as nft names it, such as "ip saddr" or "meta iifname"
	Value Value
	Args  []Expr
	Set   *Set // of a map
}

// Set is a named or anonymous set or map, or a single constant.
type Set struct {
	Name     string   // empty for an anonymous one
	Types    []string // of the parts of a named set's keys, as nft calls them
	Elements []Element
	Unknown  bool // it may have others
}

// Element is an element: a range for each part of a concatenation. None stands for
// all that is in no other.
type Element struct {
	Key     []Range
	Value   []Value // of a map
	Verdict Verdict // of a verdict map
	Comment string
	in      *Set // that it is of, if that has a name
}

// Range is an inclusive range of numbers, or a text of its own, in which a trailing
// "*" stands for any end.
type Range struct {
	Low, High Value
}

// field makes the expression of a field.
func field(name string) Expr { return Expr{Op: "field", Field: name} }

// constant makes the set of one value.
func constant(v Value) *Set {
	return &Set{Elements: []Element{{Key: []Range{{v, v}}}}}
}
