package diagnose

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// Table is a table as nft(8) lists it.
type Table struct {
	Family, Name string // "ip", "ip6", "inet", ...; its own
	chains       []tableChain
}

// tableChain is a chain of a table.
type tableChain struct {
	name  string
	hook  string // "" for a chain that is only jumped to
	drops bool   // the policy
	base  string // the line with type, hook and policy
	rules []string
}

// ParseTables reads the output of "nft list ruleset". Everything but tables, chains
// and rules is skipped. nft indents by tabs: chains by one, their content by two.
func ParseTables(text string) []Table {
	var tables []Table
	inChain := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		words := strings.Fields(line)
		switch {
		case len(words) >= 4 && words[0] == "table" && line[0] == 't':
			tables = append(tables, Table{Family: words[1], Name: words[2]})
			inChain = false
		case len(tables) == 0 || len(words) == 0:
		case strings.HasPrefix(line, "\t\t") && inChain:
			last(last(tables).chains).add(strings.Join(words, " "))
		case strings.HasPrefix(line, "\tchain ") && len(words) >= 3:
			t := last(tables)
			t.chains = append(t.chains, tableChain{name: words[1]})
			inChain = true
		case strings.HasPrefix(line, "\t") && !strings.HasPrefix(line, "\t\t"):
			inChain = false
		}
	}
	return tables
}

// last points to the last element, of which there is one.
func last[T any](s []T) *T { return &s[len(s)-1] }

// add notes a line of the chain.
func (c *tableChain) add(line string) {
	words := strings.Fields(line)
	hook := slices.Index(words, "hook")
	if words[0] != "type" || hook < 0 || hook+1 >= len(words) {
		c.rules = append(c.rules, line)
		return
	}
	c.base, c.hook = line, words[hook+1]
	c.drops = strings.Contains(line, "policy drop")
}

// of reports whether packets of the family pass through the table.
func (t Table) of(f firewall.Family) bool {
	return t.Family == "inet" || t.Family == "ip" && f == firewall.IPv4 || t.Family == "ip6" && f == firewall.IPv6
}

// conditions are those of the table's chains on the hooks that guests' packets
// pass: one that drops all it does not accept, by policy or by a rule, cuts off
// the bridges that no rule of the table names. An accept in another table does
// not help, as each table decides for itself.
func (t Table) conditions(g guests) []firewall.Condition {
	var out []firewall.Condition
	for _, c := range t.chains {
		if c.hook != "forward" && c.hook != "input" {
			continue
		}
		bridges := slices.DeleteFunc(g.on(c.hook), t.names)
		rule := slices.IndexFunc(c.rules, dropsAll)
		if len(bridges) == 0 || rule < 0 && !c.drops {
			continue
		}
		kind, evidence := firewall.KindPolicy, c.base
		if rule >= 0 {
			kind, evidence = firewall.KindDrop, c.rules[rule]
		}
		out = append(out, firewall.Condition{
			Kind: kind,
			Summary: fmt.Sprintf("the chain %s of the nftables table %s %s drops what it does not accept: guests on %s are cut off",
				c.name, t.Family, t.Name, strings.Join(bridges, ", ")),
			Evidence: fmt.Sprintf("table %s %s, chain %s: %s", t.Family, t.Name, c.name, evidence),
			Remedy:   t.accepts(c, bridges),
			Bridges:  bridges,
		})
	}
	return out
}

// dropsAll reports whether a rule drops or rejects every packet that comes to it.
func dropsAll(rule string) bool {
	return regexp.MustCompile(`^(counter( packets \d+ bytes \d+)? |log( (prefix "[^"]*"|level \w+|flags \w+))* )*(drop|reject( with .*)?)( comment .*)?$`).MatchString(rule)
}

// names reports whether a rule of the table lets the bridge's packets go elsewhere.
func (t Table) names(bridge string) bool {
	for _, c := range t.chains {
		if slices.ContainsFunc(c.rules, func(rule string) bool { return admits(rule, bridge) }) {
			return true
		}
	}
	return false
}

// admits reports whether the rule is about the bridge and may accept.
func admits(rule, bridge string) bool {
	if !regexp.MustCompile(`\b(accept|jump|goto)\b`).MatchString(rule) {
		return false
	}
	for _, quoted := range regexp.MustCompile(`"([^"]*)"`).FindAllStringSubmatch(rule, -1) {
		if deviceMatches(quoted[1], "*", bridge) {
			return true
		}
	}
	return false
}

// accepts are the commands that accept what comes from and goes to bridges.
func (t Table) accepts(c tableChain, bridges []string) string {
	var commands []string
	for _, bridge := range bridges {
		for _, match := range []string{"iifname", "oifname"} {
			if match == "iifname" || c.hook == "forward" {
				commands = append(commands, fmt.Sprintf("nft insert rule %s %s %s %s %s accept", t.Family, t.Name, c.name, match, bridge))
			}
		}
	}
	return strings.Join(commands, "; ")
}
