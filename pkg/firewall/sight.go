package firewall

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
)

// picture is all that may drop guests' packets and is not ours.
type picture struct {
	filters []filterTable
	tables  []nftTable // that iptables does not show
}

// filterTable is a table filter as a program of iptables shows it.
type filterTable struct {
	family  Family
	program string // the program's name in commands for the administrator
	text    string
	rival   bool // of the variant that is not in use: nothing of ours is before it
}

// sight is the picture that was seen last.
type sight struct {
	mu      sync.Mutex
	foreign uint32 // see memory; 0: nothing is remembered
	tools   []string
	seen    picture
}

// look returns what was seen, or looks with tools: a foreign of 0 is not
// remembered, nor is what could not be seen as a whole.
func (s *sight) look(ctx context.Context, foreign uint32, tools []tool, as layout) (picture, error) {
	var names []string
	for i := range tools {
		names = append(names, tools[i].path)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if foreign != 0 && foreign == s.foreign && slices.Equal(names, s.tools) {
		return s.seen, nil
	}
	p, err := takePicture(ctx, tools, as)
	s.foreign, s.tools, s.seen = foreign, names, p
	if err != nil {
		s.foreign = 0
	}
	return p, err
}

// takePicture lists all rules. What it could not list is in the error.
func takePicture(ctx context.Context, tools []tool, as layout) (p picture, err error) {
	if len(tools) == 0 {
		return p, nil
	}
	var faults []error
	for i := range tools {
		filters, err := tools[i].filterTables(ctx, as)
		p.filters, faults = append(p.filters, filters...), append(faults, err)
	}
	tables, err := nftTables(ctx)
	for _, table := range tables {
		if !slices.ContainsFunc(tools, func(t tool) bool { return t.owns(table) }) {
			p.tables = append(p.tables, table)
		}
	}
	if err := errors.Join(append(faults, err)...); err != nil {
		return p, fmt.Errorf("looking for rules that cut guests off: %w", err)
	}
	return p, nil
}

// filterTables are those of the family, of both variants.
func (t *tool) filterTables(ctx context.Context, as layout) ([]filterTable, error) {
	text, err := run(ctx, "", t.path+"-save", "-t", tableFilter)
	if err != nil {
		return nil, err
	}
	tables := []filterTable{{family: t.family, program: t.program(), text: foreignLines(text, as)}}
	// Listing a table makes it; one that is not there drops nothing.
	if t.variant != variantNFT || !slices.Contains(legacyTables(t.family), tableFilter) {
		return tables, nil
	}
	program := t.program() + "-legacy"
	path, err := exec.LookPath(program + "-save")
	if err != nil {
		return tables, nil
	}
	text, err = run(ctx, "", path, "-t", tableFilter)
	if err != nil {
		return tables, err
	}
	return append(tables, filterTable{family: t.family, program: program, text: text, rival: true}), nil
}

// foreignLines drops the rules in our chains from the output of iptables-save.
func foreignLines(text string, as layout) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "-A "+as.prefix) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// nftTables are the tables of nftables, none without the program nft.
func nftTables(ctx context.Context) ([]nftTable, error) {
	path, err := exec.LookPath("nft")
	if err != nil {
		return nil, nil
	}
	out, err := run(ctx, "", path, "--stateless", "--terse", "list", "ruleset")
	if err != nil {
		return nil, err
	}
	return parseNFT(out), nil
}

// conditions are what the picture means for the networks. It is pure.
func (p picture) conditions(as layout, known []Network) ([]Condition, error) {
	var out []Condition
	var faults []error
	for _, table := range p.filters {
		g := guestsOf(table.family, known)
		if table.rival {
			// Nothing there is harmless.
			g = guests{open: slices.Concat(g.served, g.open), routed6: g.routed6}
		}
		found, err := filterConditions(table.text, table.program, as, g)
		out, faults = append(out, found...), append(faults, err)
	}
	for _, table := range p.tables {
		for _, f := range []Family{IPv4, IPv6} {
			if g := guestsOf(f, known); table.of(f) && !g.none() {
				out = append(out, table.conditions(g)...)
			}
		}
	}
	return out, errors.Join(faults...)
}

// owns tells whether the tool's own program shows the table.
func (t *tool) owns(table nftTable) bool {
	return t.variant == variantNFT && (table.family == "ip" || table.family == "ip6") && table.name == tableFilter
}
