package ruleset

import (
	"fmt"
	"slices"
	"strings"
)

// builtin are the hooks of the built-in chains of iptables, and priorities their
// tables', as the kernel has them.
var (
	builtin = map[string]string{
		"PREROUTING": "prerouting", "INPUT": "input", "FORWARD": "forward", "OUTPUT": "output", "POSTROUTING": "postrouting",
	}
	priorities = map[string]int{"raw": -300, "mangle": -150, "nat": -100, "filter": 0, "security": 50}
)

// priority is that of a built-in chain.
func priority(table, hook string) int {
	if table == "nat" && (hook == "input" || hook == "postrouting") {
		return 100
	}
	return priorities[table]
}

// Xtables is what a program of iptables lists.
type Xtables struct {
	Family  string // "ip" or "ip6"
	Program string // the program's name in commands
	Legacy  bool
	Text    string          // the output of its -save
	IPSets  map[string]*Set // that rules may name
}

// Parse reads it. Matches that it does not know become unknown parts of their rules.
func (x Xtables) Parse() (Ruleset, error) {
	var r Ruleset
	var t *Table
	for line := range strings.Lines(x.Text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "*"):
			t = &Table{Family: x.Family, Name: line[1:], Program: x.Program, Legacy: x.Legacy, Sets: x.IPSets}
			r.Tables = append(r.Tables, t)
		case line == "", strings.HasPrefix(line, "#"), line == "COMMIT":
		case t == nil:
			return r, fmt.Errorf("reading the output of %s-save: %q stands in no table", x.Program, line)
		case strings.HasPrefix(line, ":"):
			t.addXtablesChain(strings.Fields(line[1:]))
		default:
			if err := t.addXtablesRule(line); err != nil {
				return r, fmt.Errorf("reading the output of %s-save: %w", x.Program, err)
			}
		}
	}
	return r, nil
}

// addXtablesChain adds a chain by its name and policy.
func (t *Table) addXtablesChain(words []string) {
	if len(words) == 0 || t.Chain(words[0]) != nil {
		return
	}
	c := &Chain{Table: t, Name: words[0]}
	if hook, ok := builtin[c.Name]; ok && len(words) > 1 && words[1] != "-" {
		c.Hook, c.Priority, c.Type, c.Drops = hook, priority(t.Name, hook), "filter", words[1] == "DROP"
		if t.Name == "nat" {
			c.Type = "nat"
		}
	}
	t.Chains = append(t.Chains, c)
}

// addXtablesRule adds a rule as -save prints it, with or without counters.
func (t *Table) addXtablesRule(line string) error {
	if strings.HasPrefix(line, "[") {
		_, line, _ = strings.Cut(line, "] ")
	}
	rest, ok := strings.CutPrefix(line, "-A ")
	if !ok {
		return fmt.Errorf("%q is no rule", line)
	}
	name, args, _ := strings.Cut(rest, " ")
	c := t.Chain(name)
	if c == nil {
		return fmt.Errorf("%q names a chain that is not there", line)
	}
	p := xtablesParser{table: t, words: splitWords(args)}
	c.Rules = append(c.Rules, &Rule{Chain: c, Text: args, Statements: p.rule()})
	return nil
}

// splitWords splits as a shell does words in double quotes with backslashes.
func splitWords(s string) []string {
	var words []string
	var word strings.Builder
	quoted, inWord := false, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && quoted && i+1 < len(s):
			i++
			word.WriteByte(s[i])
		case c == '"':
			quoted, inWord = !quoted, true
		case c == ' ' && !quoted:
			if inWord {
				words = append(words, word.String())
				word.Reset()
			}
			inWord = false
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return words
}

// Complete replaces what nft can't show of rules that iptables has written by what
// x, the list of that iptables, tells of them. Where the two differ in the number of
// a chain's rules, which another program may have changed in between, the rules stay
// unknown.
func (r *Ruleset) Complete(x Xtables) error {
	saved, err := x.Parse()
	for _, s := range saved.Tables {
		t := r.Table(s.Family, s.Name)
		if t == nil || t.Program != "" {
			continue
		}
		t.Program = x.Program
		for _, c := range s.Chains {
			if of := t.Chain(c.Name); of != nil && len(of.Rules) == len(c.Rules) {
				of.complete(c.Rules)
			}
		}
	}
	return err
}

// complete does so for one chain.
func (c *Chain) complete(saved []*Rule) {
	for i, rule := range c.Rules {
		if rule.native {
			continue
		}
		rule.Text = saved[i].Text
		if slices.ContainsFunc(rule.Statements, func(s Statement) bool { return s.Kind >= MayMatch }) {
			rule.Statements = saved[i].Statements
		}
	}
}

// Add adds the tables of o, such as those of iptables-legacy.
func (r *Ruleset) Add(o Ruleset) { r.Tables = append(r.Tables, o.Tables...) }

// SetText gives the rules the text that text has for them.
func (r *Ruleset) SetText(text func(family, table, chain string, handle int) string) {
	for _, t := range r.Tables {
		for _, c := range t.Chains {
			for _, rule := range c.Rules {
				if rule.Text == "" {
					rule.Text = text(t.Family, t.Name, c.Name, rule.Handle)
				}
			}
		}
	}
}
