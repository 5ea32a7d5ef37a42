package diagnose

import (
	"regexp"
	"strconv"
	"strings"
)

// Table is a table as nft(8) lists it with handles.
type Table struct {
	Family, Name string // "ip", "ip6", "inet", ...; its own
	chains       []tableChain
}

// tableChain is a chain of a table.
type tableChain struct {
	name  string
	rules []string
}

// ParseTables reads the output of "nft -a list ruleset". Everything but tables, chains
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
			c := last(last(tables).chains)
			c.rules = append(c.rules, strings.Join(words, " "))
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

// handle ends a rule in a listing with handles.
var handle = regexp.MustCompile(` # handle (\d+)$`)

// The first line of a chain that stands on links, and the names in it.
var (
	devices = regexp.MustCompile(`^type \w+ hook (?:ingress|egress) devices? (?:= )?(?:\{ ([^}]*) \}|(\S+)) priority`)
	quoted  = regexp.MustCompile(`[^",\s]+`)
)

// devicesOf are the links that a chain stands on, which not every nft has in its JSON.
func devicesOf(tables []Table, family, table, chain string) []string {
	for _, t := range tables {
		for _, c := range t.chains {
			if t.Family != family || t.Name != table || c.name != chain {
				continue
			}
			for _, line := range c.rules {
				if m := devices.FindStringSubmatch(line); m != nil {
					return quoted.FindAllString(m[1]+" "+m[2], -1)
				}
			}
		}
	}
	return nil
}

// place is where a rule stands.
type place struct {
	family, table, chain string
	handle               int
}

// texts are the rules of tables as nft prints them.
func texts(tables []Table) map[place]string {
	all := map[place]string{}
	for _, t := range tables {
		for _, c := range t.chains {
			for _, rule := range c.rules {
				at := strings.LastIndex(rule, " # handle ")
				if at < 0 {
					continue
				}
				if n, err := strconv.Atoi(rule[at+len(" # handle "):]); err == nil {
					all[place{t.Family, t.Name, c.name, n}] = rule[:at]
				}
			}
		}
	}
	return all
}
