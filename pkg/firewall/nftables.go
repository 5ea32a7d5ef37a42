package firewall

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// nftTable is a table as nft(8) lists it.
type nftTable struct {
	family, name string
	chains       []nftChain
}

// nftChain is a chain of a table.
type nftChain struct {
	name  string
	hook  string // "" for a chain that is only jumped to
	drops bool   // the policy
	base  string // the line with type, hook and policy
	rules []string
}

// parseNFT reads the output of "nft list ruleset". Everything but tables, chains
// and rules is skipped. nft indents by tabs: chains by one, their content by two.
func parseNFT(text string) []nftTable {
	var tables []nftTable
	inChain := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		words := strings.Fields(line)
		switch {
		case len(words) >= 4 && words[0] == "table" && line[0] == 't':
			tables = append(tables, nftTable{family: words[1], name: words[2]})
			inChain = false
		case len(tables) == 0 || len(words) == 0:
		case strings.HasPrefix(line, "\t\t") && inChain:
			last(last(tables).chains).add(strings.Join(words, " "))
		case strings.HasPrefix(line, "\tchain ") && len(words) >= 3:
			t := last(tables)
			t.chains = append(t.chains, nftChain{name: words[1]})
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
func (c *nftChain) add(line string) {
	words := strings.Fields(line)
	hook := slices.Index(words, "hook")
	if words[0] != "type" || hook < 0 || hook+1 >= len(words) {
		c.rules = append(c.rules, line)
		return
	}
	c.base, c.hook = line, words[hook+1]
	c.drops = strings.Contains(line, "policy drop")
}

// of tells whether packets of the family pass through the table.
func (t nftTable) of(f Family) bool {
	return t.family == "inet" || t.family == "ip" && f == IPv4 || t.family == "ip6" && f == IPv6
}

// conditions are those of the table's chains on the hooks that guests' packets
// pass: one that drops all it does not accept, by policy or by a rule, cuts off
// the bridges that no rule of the table names. An accept in another table does
// not help, as each table decides for itself.
func (t nftTable) conditions(g guests) []Condition {
	var out []Condition
	for _, c := range t.chains {
		if c.hook != "forward" && c.hook != "input" {
			continue
		}
		bridges := slices.DeleteFunc(g.on(c.hook), t.names)
		rule := slices.IndexFunc(c.rules, dropsAll)
		if len(bridges) == 0 || rule < 0 && !c.drops {
			continue
		}
		kind, evidence := KindPolicy, c.base
		if rule >= 0 {
			kind, evidence = KindDrop, c.rules[rule]
		}
		out = append(out, Condition{
			Kind: kind,
			Summary: fmt.Sprintf("the chain %s of the nftables table %s %s drops what it does not accept: guests on %s are cut off",
				c.name, t.family, t.name, strings.Join(bridges, ", ")),
			Evidence: fmt.Sprintf("table %s %s, chain %s: %s", t.family, t.name, c.name, evidence),
			Remedy:   t.accepts(c, bridges),
			Bridges:  bridges,
		})
	}
	return out
}

// dropsAll tells whether a rule drops or rejects every packet that comes to it.
func dropsAll(rule string) bool {
	return regexp.MustCompile(`^(counter( packets \d+ bytes \d+)? |log( (prefix "[^"]*"|level \w+|flags \w+))* )*(drop|reject( with .*)?)( comment .*)?$`).MatchString(rule)
}

// names tells whether a rule of the table lets the bridge's packets go elsewhere.
func (t nftTable) names(bridge string) bool {
	for _, c := range t.chains {
		if slices.ContainsFunc(c.rules, func(rule string) bool { return admits(rule, bridge) }) {
			return true
		}
	}
	return false
}

// admits tells whether the rule is about the bridge and may accept.
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
func (t nftTable) accepts(c nftChain, bridges []string) string {
	var commands []string
	for _, bridge := range bridges {
		for _, match := range []string{"iifname", "oifname"} {
			if match == "iifname" || c.hook == "forward" {
				commands = append(commands, fmt.Sprintf("nft insert rule %s %s %s %s %s accept", t.family, t.name, c.name, match, bridge))
			}
		}
	}
	return strings.Join(commands, "; ")
}
