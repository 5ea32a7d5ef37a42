package iptables

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"

	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose"
)

// snapshot is what others have in the tables that decide on guests' packets.
type snapshot struct {
	diagnose.Snapshot
	hidden error // of tables filter that iptables can't show
}

// snapshots keep the one that was taken last.
type snapshots struct {
	mu      sync.Mutex
	foreign uint32 // see cache; 0: nothing is remembered
	tools   []string
	last    snapshot
}

// absence is the condition of a family that can't be used. A kernel without IPv6
// is none as long as no network asks for it.
func (t *tool) absence(o options, networks []firewall.Network) []firewall.Condition {
	c := firewall.Condition{Kind: firewall.KindNoIPTables, Summary: t.missing.Error(), Evidence: "command -v " + t.command, Remedy: "apt-get install iptables"}
	for _, n := range networks {
		if slices.ContainsFunc(o.lines(n.Rules()), func(r firewall.Line) bool { return r.Family == t.family }) {
			c.Bridges = append(c.Bridges, n.Bridge)
		}
	}
	if !errors.Is(t.missing, errNotInstalled) {
		c.Evidence, c.Remedy = errors.Unwrap(t.missing).Error(), ""
	}
	if c.Harmless = t.family == firewall.IPv6 && len(c.Bridges) == 0; c.Harmless && c.Remedy == "" {
		return nil
	}
	return []firewall.Condition{c}
}

// legacyFilters reports whether iptables-legacy has a filter table, whose changes
// nobody counts.
func legacyFilters() bool {
	return slices.ContainsFunc([]firewall.Family{firewall.IPv4, firewall.IPv6}, func(f firewall.Family) bool { return slices.Contains(legacyTables(f), tableFilter) })
}

// legacyTables are the tables of iptables-legacy that are there.
func legacyTables(f firewall.Family) []string {
	names := "/proc/net/ip_tables_names"
	if f == firewall.IPv6 {
		names = "/proc/net/ip6_tables_names"
	}
	text, err := os.ReadFile(names)
	if err != nil {
		return nil
	}
	return strings.Fields(string(text))
}

// program is the program's name in commands for the administrator.
func (t *tool) program() string {
	if t.family == firewall.IPv6 {
		return "ip6tables"
	}
	return "iptables"
}

// take returns the last snapshot, or takes one with tools: one at a foreign of 0 is
// not remembered, nor is one that is not whole.
func (s *snapshots) take(ctx context.Context, foreign uint32, tools []tool, o options) (snapshot, error) {
	var names []string
	for i := range tools {
		names = append(names, tools[i].path)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if foreign != 0 && foreign == s.foreign && slices.Equal(names, s.tools) {
		return s.last, nil
	}
	last, err := takeSnapshot(ctx, tools, o)
	s.foreign, s.tools, s.last = foreign, names, last
	if err != nil {
		s.foreign = 0
	}
	return last, err
}

// takeSnapshot lists all rules. What it could not list is in the error.
func takeSnapshot(ctx context.Context, tools []tool, o options) (s snapshot, err error) {
	if len(tools) == 0 {
		return s, nil
	}
	var faults []error
	for i := range tools {
		faults = append(faults, tools[i].addFilters(ctx, &s, o))
	}
	tables, err := nftTables(ctx)
	for _, table := range tables {
		if !slices.ContainsFunc(tools, func(t tool) bool { return t.owns(table) }) {
			s.Tables = append(s.Tables, table)
		}
	}
	if err := errors.Join(append(faults, err)...); err != nil {
		return s, fmt.Errorf("looking for rules that cut guests off: %w", err)
	}
	return s, nil
}

// addFilters adds the tables filter of the family, of both variants.
func (t *tool) addFilters(ctx context.Context, s *snapshot, o options) error {
	text, err := run(ctx, "", t.path+"-save", "-t", tableFilter)
	if err != nil {
		return err
	}
	s.add(diagnose.Filter{Family: t.family, Program: t.program()}, text, o)
	// Listing a table makes it; one that is not there drops nothing.
	if t.variant != variantNFT || !slices.Contains(legacyTables(t.family), tableFilter) {
		return nil
	}
	program := t.program() + "-legacy"
	path, err := exec.LookPath(program + "-save")
	if err != nil {
		return nil
	}
	if text, err = run(ctx, "", path, "-t", tableFilter); err != nil {
		return err
	}
	s.add(diagnose.Filter{Family: t.family, Program: program, Rival: true}, text, o)
	return nil
}

// add fills in a filter from the output of iptables-save and adds it.
func (s *snapshot) add(f diagnose.Filter, text string, o options) {
	l, err := parseListing(text)
	if err != nil {
		s.hidden = errors.Join(s.hidden, err)
		return
	}
	f.Rules = map[string][]string{}
	for name, held := range l[tableFilter] {
		if !strings.HasPrefix(name, o.prefix) {
			f.Rules[name] = held.rules()
		}
		if strings.Contains(text, "\n:"+name+" DROP ") {
			f.Drops = append(f.Drops, name)
		}
	}
	s.Filters = append(s.Filters, f)
}

// nftTables are the tables of nftables, none without the program nft.
func nftTables(ctx context.Context) ([]diagnose.Table, error) {
	path, err := exec.LookPath("nft")
	if err != nil {
		return nil, nil
	}
	out, err := run(ctx, "", path, "--stateless", "--terse", "list", "ruleset")
	if err != nil {
		return nil, err
	}
	return diagnose.ParseTables(out), nil
}

// owns reports whether the tool's own program shows the table.
func (t *tool) owns(table diagnose.Table) bool {
	return t.variant == variantNFT && (table.Family == "ip" || table.Family == "ip6") && table.Name == tableFilter
}
