package ruleset

import (
	"slices"
	"strings"
)

// Own are rules of iptables that stand, or will in a moment, whatever was listed.
type Own struct {
	Family, Program string
	Legacy          bool
	Table, Chain    string
	Args            []string
	Head            bool // they stand before all others of the chain
}

// With returns a copy of r in which rules of own that are missing stand. Those of one
// chain that are not complete are put behind the others, or at the head.
func (r *Ruleset) With(own []Own) *Ruleset {
	out := &Ruleset{}
	for _, t := range r.Tables {
		out.Tables = append(out.Tables, t.clone())
	}
	for _, o := range own {
		out.ensureChain(o)
		for _, args := range o.Args {
			if to, jumps := strings.CutPrefix(args, "-j "); jumps && o.Head {
				target := o
				target.Chain = to
				out.ensureChain(target)
			}
		}
	}
	known := make(map[*Chain]map[string]bool)
	for _, o := range own {
		out.ensure(o, known)
	}
	return out
}

// clone copies a table with its chains; rules stay what they are.
func (t *Table) clone() *Table {
	out := *t
	out.Chains = nil
	for _, c := range t.Chains {
		copied := *c
		copied.Table, copied.Rules = &out, slices.Clone(c.Rules)
		out.Chains = append(out.Chains, &copied)
	}
	return &out
}

// ensureChain makes the chain that rules of own stand in.
func (r *Ruleset) ensureChain(o Own) *Chain {
	i := slices.IndexFunc(r.Tables, func(t *Table) bool { return t.Family == o.Family && t.Name == o.Table && t.Legacy == o.Legacy })
	if i < 0 {
		i, r.Tables = len(r.Tables), append(r.Tables, &Table{Family: o.Family, Name: o.Table, Program: o.Program, Legacy: o.Legacy})
	}
	t := r.Tables[i]
	policy := "ACCEPT"
	if builtin[o.Chain] == "" {
		policy = "-"
	}
	t.addXtablesChain([]string{o.Chain, policy})
	return t.Chain(o.Chain)
}

// ensure puts the rules into their chain unless all are there. known are the texts of chains' rules,
// as far as these were asked for.
func (r *Ruleset) ensure(o Own, known map[*Chain]map[string]bool) {
	c := r.ensureChain(o)
	texts := known[c]
	if texts == nil {
		texts = make(map[string]bool, len(c.Rules))
		for _, r := range c.Rules {
			texts[r.Text] = true
		}
		known[c] = texts
	}
	there := func(args string) bool { return texts[args] }
	if !slices.ContainsFunc(o.Args, func(args string) bool { return !there(args) }) {
		return
	}
	if slices.ContainsFunc(o.Args, there) {
		c.Rules = slices.DeleteFunc(c.Rules, func(r *Rule) bool { return slices.Contains(o.Args, r.Text) })
	}
	var rules []*Rule
	for _, args := range o.Args {
		p := xtablesParser{table: c.Table, words: splitWords(args)}
		rules = append(rules, &Rule{Chain: c, Text: args, Statements: p.rule()})
		texts[args] = true
	}
	if o.Head {
		c.Rules = append(rules, c.Rules...)
	} else {
		c.Rules = append(c.Rules, rules...)
	}
}
