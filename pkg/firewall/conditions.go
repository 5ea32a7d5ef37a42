package firewall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// Kind is a class of conditions.
type Kind string

// The kinds of conditions.
const (
	KindPolicy          Kind = "drop-policy"      // a base chain drops what no rule of its table accepts
	KindDrop            Kind = "drop-rule"        // a rule drops guests' packets before ours are asked
	KindBridgeNetfilter Kind = "bridge-netfilter" // packets within a bridge pass through iptables
	KindForwardingOff   Kind = "forwarding-off"   // the kernel forwards no packets
	KindNoIPTables      Kind = "no-iptables"      // networks that need rules can't start
)

// Condition is something on this host, not of our making, that cuts guests off
// or would if our rules were not before it.
type Condition struct {
	Kind Kind
	// Summary is one sentence for the administrator, Evidence the rule, policy or
	// setting as its program shows it, Remedy the command that would put it right.
	Summary, Evidence, Remedy string
	// Bridges are those whose guests are cut off; empty where it is harmless.
	Bridges []string
	// Harmless tells that no guest is cut off as things are.
	Harmless bool
}

// Conditions looks for what cuts the guests of the networks known to Set and
// Adopt off: rules and policies in iptables of both variants and in any table of
// nftables, and settings of the kernel. Without the program nft the tables of
// nftables are left out. It changes nothing, and executes nothing either as long
// as nftables says that no rule has changed since the last time and there are no
// legacy rules. What it could not look at is in the error, which comes with the
// conditions that were found all the same.
func (f *Firewall) Conditions(ctx context.Context) ([]Condition, error) {
	var found []Condition
	f.mu.Lock()
	known, generation, tracked := f.standing.networks(), f.memory.generation(), f.tracked()
	tools := f.present(ctx)
	f.mu.Unlock()
	for _, t := range tools {
		g := guestsOf(t.family, known)
		switch {
		case t.missing != nil:
			found = append(found, t.absence(f.layout, known)...)
		case !g.none():
			found = append(found, settings(t.family, g)...)
		}
	}
	if !tracked || legacyFilters() {
		generation = 0
	}
	rules, err := f.sight.look(generation, known, func() ([]Condition, error) { return f.inRules(ctx, tools, known) })
	return distinct(append(found, rules...)), err
}

// present are the families' programs as they are now; those that were not
// installed are looked for again. The caller holds mu.
func (f *Firewall) present(ctx context.Context) []tool {
	var out []tool
	for _, t := range f.tools {
		if t.appeared() {
			t.detect(ctx)
		}
		out = append(out, *t)
	}
	return out
}

// absence is the condition of a family that can't be used. A kernel without IPv6
// is none as long as no network asks for it.
func (t *tool) absence(as layout, known []Network) []Condition {
	c := Condition{Kind: KindNoIPTables, Summary: t.missing.Error(), Evidence: "command -v " + t.command, Remedy: "apt-get install iptables"}
	for _, n := range known {
		if slices.ContainsFunc(as.rules(n), func(r Rule) bool { return r.Family == t.family }) {
			c.Bridges = append(c.Bridges, n.Bridge)
		}
	}
	if !errors.Is(t.missing, errNotInstalled) {
		c.Evidence, c.Remedy = errors.Unwrap(t.missing).Error(), ""
	}
	if c.Harmless = t.family == IPv6 && len(c.Bridges) == 0; c.Harmless && c.Remedy == "" {
		return nil
	}
	return []Condition{c}
}

// inRules are the conditions of rules and policies.
func (f *Firewall) inRules(ctx context.Context, tools []tool, known []Network) ([]Condition, error) {
	var found []Condition
	var faults []error
	for i := range tools {
		t := &tools[i]
		g := guestsOf(t.family, known)
		if t.missing != nil || g.none() {
			continue
		}
		own, err := t.conditions(ctx, f.layout, g)
		found, faults = append(found, own...), append(faults, err)
		other, err := t.rivalConditions(ctx, f.layout, g)
		found, faults = append(found, other...), append(faults, err)
		tables, err := nftConditions(ctx, t, g)
		found, faults = append(found, tables...), append(faults, err)
	}
	return found, errors.Join(faults...)
}

// sight is what was last found in the rules, and when that holds: for one
// generation of nftables and the same networks.
type sight struct {
	mu         sync.Mutex
	generation uint32 // 0: nothing is remembered
	known      []Network
	found      []Condition
}

// look returns what was found, or finds it with search. A generation of 0 is not
// remembered, nor is a search that failed.
func (s *sight) look(generation uint32, known []Network, search func() ([]Condition, error)) ([]Condition, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if generation != 0 && generation == s.generation && reflect.DeepEqual(known, s.known) {
		return slices.Clone(s.found), nil
	}
	found, err := search()
	s.generation, s.known, s.found = generation, known, slices.Clone(found)
	if err != nil {
		s.generation = 0
	}
	return found, err
}

// legacyFilters tells whether iptables-legacy has a filter table, whose changes
// nobody counts.
func legacyFilters() bool {
	return slices.ContainsFunc([]Family{IPv4, IPv6}, func(f Family) bool { return slices.Contains(legacyTables(f), tableFilter) })
}

// legacyTables are the tables of iptables-legacy that are there.
func legacyTables(f Family) []string {
	names := "/proc/net/ip_tables_names"
	if f == IPv6 {
		names = "/proc/net/ip6_tables_names"
	}
	text, err := os.ReadFile(names)
	if err != nil {
		return nil
	}
	return strings.Fields(string(text))
}

// distinct drops what both families show, such as a table of family inet.
func distinct(conditions []Condition) []Condition {
	var out []Condition
	for _, c := range conditions {
		if !slices.ContainsFunc(out, func(o Condition) bool { return o.Evidence == c.Evidence }) {
			out = append(out, c)
		}
	}
	return out
}

// guests are the bridges of one family, by what their guests need of the host.
type guests struct {
	served    []string // bridges with this host's DHCP and DNS: needs INPUT
	forwarded []string // bridges to and from which packets are forwarded, by our rules
	open      []string // the same, without rules of ours
	routed6   bool     // guests look for routers
}

// none tells whether nobody needs anything.
func (g guests) none() bool { return len(g.served)+len(g.open) == 0 }

// guestsOf sorts the networks' bridges.
func guestsOf(f Family, networks []Network) guests {
	var g guests
	for _, n := range networks {
		if f == IPv6 && len(n.subnets(f)) == 0 {
			continue
		}
		if n.Mode.filtered() {
			g.served = append(g.served, n.Bridge)
			g.routed6 = f == IPv6
		}
		switch n.Mode {
		case ModeNAT, ModeRoute:
			g.forwarded = append(g.forwarded, n.Bridge)
		case ModeOpen:
			g.open = append(g.open, n.Bridge)
		}
	}
	return g
}

// on are the bridges that a drop on a hook concerns, whether our rules stand
// before it or not.
func (g guests) on(hook string) []string {
	if hook == "input" {
		return slices.Concat(g.served, g.open)
	}
	return slices.Concat(g.forwarded, g.open)
}

// settings are the conditions of the kernel's settings for a family.
func settings(f Family, g guests) []Condition {
	var out []Condition
	forward, bridged, prefix := "net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables", "IPv4"
	if f == IPv6 {
		forward, bridged, prefix = "net/ipv6/conf/all/forwarding", "net/bridge/bridge-nf-call-ip6tables", "IPv6"
	}
	if needs := g.on("forward"); len(needs) > 0 && sysctl(forward) == "0" {
		out = append(out, Condition{
			Kind:     KindForwardingOff,
			Summary:  prefix + " forwarding is off: guests on " + strings.Join(needs, ", ") + " reach nothing beyond this host",
			Evidence: dotted(forward) + " = 0",
			Remedy:   "sysctl -w " + dotted(forward) + "=1",
			Bridges:  needs,
		})
	}
	if sysctl(bridged) == "1" {
		out = append(out, Condition{
			Kind:     KindBridgeNetfilter,
			Summary:  prefix + " packets between guests on one bridge pass through the FORWARD chain",
			Evidence: dotted(bridged) + " = 1",
			Remedy:   "sysctl -w " + dotted(bridged) + "=0",
			Bridges:  g.open,
			Harmless: len(g.open) == 0,
		})
	}
	return out
}

// sysctl reads a setting, "" if the kernel does not have it.
func sysctl(path string) string {
	text, err := os.ReadFile("/proc/sys/" + path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// dotted is a setting's name for sysctl(8).
func dotted(path string) string { return strings.ReplaceAll(path, "/", ".") }

// conditions are those of the family's own tables.
func (t *tool) conditions(ctx context.Context, as layout, g guests) ([]Condition, error) {
	out, err := run(ctx, "", t.path+"-save", "-t", tableFilter)
	if err != nil {
		return nil, fmt.Errorf("looking for rules that cut guests off: %w", err)
	}
	return filterConditions(out, t.program(), as, g)
}

// program is the program's name in commands for the administrator.
func (t *tool) program() string {
	if t.family == IPv6 {
		return "ip6tables"
	}
	return "iptables"
}

// rivalConditions are those of the other variant's tables. Ours are not among
// them, so nothing there is harmless. Tables of nf_tables are looked at by nft.
func (t *tool) rivalConditions(ctx context.Context, as layout, g guests) ([]Condition, error) {
	// Listing a table makes it; one that is not there drops nothing.
	if t.variant != variantNFT || !slices.Contains(legacyTables(t.family), tableFilter) {
		return nil, nil
	}
	program := t.program() + "-legacy"
	path, err := exec.LookPath(program + "-save")
	if err != nil {
		return nil, nil
	}
	out, err := run(ctx, "", path, "-t", tableFilter)
	if err != nil {
		return nil, fmt.Errorf("looking for rules that cut guests off: %w", err)
	}
	return filterConditions(out, program, as, guests{open: slices.Concat(g.served, g.open), routed6: g.routed6})
}

// nftConditions are those of the tables that iptables does not show.
func nftConditions(ctx context.Context, t *tool, g guests) ([]Condition, error) {
	path, err := exec.LookPath("nft")
	if err != nil {
		return nil, nil
	}
	out, err := run(ctx, "", path, "--stateless", "--terse", "list", "ruleset")
	if err != nil {
		return nil, fmt.Errorf("looking for rules that cut guests off: %w", err)
	}
	var found []Condition
	for _, table := range parseNFT(out) {
		if table.of(t.family) && !t.owns(table) {
			found = append(found, table.conditions(g)...)
		}
	}
	return found, nil
}

// owns tells whether the tool's own program shows the table.
func (t *tool) owns(table nftTable) bool {
	return t.variant == variantNFT && (table.family == "ip" || table.family == "ip6") && table.name == tableFilter
}
