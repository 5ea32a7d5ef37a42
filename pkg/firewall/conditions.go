package firewall

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
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
// as nftables says that nobody else has changed a rule since the last time and
// there are no legacy rules. What it could not look at is in the error, which
// comes with the conditions that were found all the same.
func (f *Firewall) Conditions(ctx context.Context) ([]Condition, error) {
	var found []Condition
	f.mu.Lock()
	known, tracked := f.standing.networks(), f.tracked()
	f.memory.refresh()
	foreign := f.memory.foreign
	tools := f.present(ctx)
	f.mu.Unlock()
	if !tracked || legacyFilters() {
		foreign = 0
	}
	var needed []tool
	for _, t := range tools {
		g := guestsOf(t.family, known)
		switch {
		case t.missing != nil:
			found = append(found, t.absence(f.layout, known)...)
		case !g.none():
			found = append(found, settings(t.family, g)...)
			needed = append(needed, t)
		}
	}
	p, err := f.sight.look(ctx, foreign, needed, f.layout)
	rules, fault := p.conditions(f.layout, known)
	return distinct(slices.Concat(found, rules)), errors.Join(err, fault)
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
		none := len(n.subnets(f)) == 0
		if f == IPv6 && none {
			continue
		}
		if n.Mode.filtered() {
			g.served = append(g.served, n.Bridge)
			g.routed6 = f == IPv6
		}
		switch {
		case none:
		case n.Mode == ModeNAT || n.Mode == ModeRoute:
			g.forwarded = append(g.forwarded, n.Bridge)
		case n.Mode == ModeOpen:
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

// program is the program's name in commands for the administrator.
func (t *tool) program() string {
	if t.family == IPv6 {
		return "ip6tables"
	}
	return "iptables"
}
