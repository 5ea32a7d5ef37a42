package diagnose

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose/eval"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose/ruleset"
)

// finding is all that one rule, or one policy, does to guests.
type finding struct {
	chain   *ruleset.Chain
	rule    *ruleset.Rule
	verdict eval.Verdict
	hits    []hit
}

// hit is a packet that a finding is about.
type hit struct {
	probe  Probe
	result eval.Result
}

// Asking asks again and again what rules do to the guests of networks. It is for one goroutine
// at a time.
type Asking struct {
	rules    *ruleset.Ruleset
	index    *eval.Index
	ours     func(chain string) bool
	networks []firewall.Network

	facts *Facts  // of the last time; nil: it was not asked yet
	hits  [][]hit // of each network then
}

// NewAsking returns one of rules and networks that are not altered any more; ours reports whether a
// chain of that name has rules of networks.
func NewAsking(rules *ruleset.Ruleset, ours func(chain string) bool, networks []firewall.Network) *Asking {
	return &Asking{rules: rules, index: eval.NewIndex(), ours: ours, networks: networks, hits: make([][]hit, len(networks))}
}

// Conditions are what the rules do to the guests. Of a network nothing is asked anew as long as
// facts are the same of the host and of its bridge.
func (a *Asking) Conditions(facts *Facts) []firewall.Condition {
	same := a.facts != nil && facts.sameHost(a.facts)
	for i := range a.networks {
		if !same || !facts.sameBridge(a.facts, a.networks[i].Bridge) {
			a.hits[i] = a.ask(a.networks[i], facts)
		}
	}
	a.facts = facts
	var found []*finding
	for _, hits := range a.hits {
		for _, h := range hits {
			found = note(found, h)
		}
	}
	var all []firewall.Condition
	for _, f := range found {
		all = append(all, f.condition())
	}
	slices.SortStableFunc(all, func(a, b firewall.Condition) int { return strings.Compare(a.Evidence, b.Evidence) })
	return all
}

// ask is what becomes of a network's probes, as far as that matters.
func (a *Asking) ask(n firewall.Network, facts *Facts) (hits []hit) {
	for _, p := range Probes(n, facts) {
		r := p.Ask(a.rules, a.index, facts)
		if matters(&p, &r, a.ours) {
			hits = append(hits, hit{p, r})
		}
	}
	return hits
}

// matters reports whether what becomes of a probe is worth saying: what our own rules
// do is meant, and what a link that nobody knows decides is not known to be amiss.
func matters(p *Probe, r *eval.Result, ours func(chain string) bool) bool {
	switch {
	case r.Chain == nil, ours(r.Chain.Name):
		return false
	case r.Verdict == eval.Translated:
		return p.port != 0
	case r.Verdict == eval.Unknown && p.Network.Mode == firewall.ModeBridge:
		return false // nor are the guests' addresses known
	case r.Verdict == eval.Unknown:
		above := r.Chain.Table.Family != "bridge" && r.Chain.Table.Family != "netdev"
		return !slices.ContainsFunc(p.Path, func(h eval.Hook) bool {
			return (h.In == eval.Unnamed || h.Out == eval.Unnamed) && (h.Layer == eval.IP) == above
		})
	}
	return r.Stopped()
}

// note adds a hit to the finding that it belongs to.
func note(found []*finding, h hit) []*finding {
	r := &h.result
	verdict := r.Verdict
	if r.Stopped() {
		verdict = eval.Dropped
	}
	i := slices.IndexFunc(found, func(f *finding) bool { return f.chain == r.Chain && f.rule == r.Rule && f.verdict == verdict })
	if i < 0 {
		i, found = len(found), append(found, &finding{chain: r.Chain, rule: r.Rule, verdict: verdict})
	}
	found[i].hits = append(found[i].hits, h)
	return found
}

// bridges are those of the hits.
func (f *finding) bridges() []string {
	var all []string
	for _, h := range f.hits {
		if !slices.Contains(all, h.probe.Network.Bridge) {
			all = append(all, h.probe.Network.Bridge)
		}
	}
	return all
}

// what names the packets.
func (f *finding) what() string {
	var all []string
	for _, h := range f.hits {
		if !slices.Contains(all, h.probe.Text) {
			all = append(all, h.probe.Text)
		}
	}
	return strings.Join(all, ", ")
}

// condition puts a finding into words.
func (f *finding) condition() firewall.Condition {
	bridges := f.bridges()
	c := firewall.Condition{Kind: firewall.KindDrop, Evidence: f.evidence(), Bridges: bridges}
	on := strings.Join(bridges, ", ")
	switch {
	case f.verdict == eval.Unknown:
		c.Kind, c.Harmless = firewall.KindUnclear, true
		c.Summary = fmt.Sprintf("whether a rule of %s cuts off guests on %s is not known: it may drop %s", where(f.chain), on, f.what())
		return c
	case f.verdict == eval.Translated:
		c.Kind = firewall.KindDiverted
		c.Summary = fmt.Sprintf("a rule of %s sends %s of guests on %s %s", where(f.chain), f.what(), on, elsewhere(&f.hits[0]))
	case f.rule == nil:
		c.Kind = firewall.KindPolicy
		c.Summary = fmt.Sprintf("%s drops what no rule accepts: guests on %s are cut off (%s)", where(f.chain), on, f.what())
	default:
		c.Summary = fmt.Sprintf("a rule of %s drops packets of guests on %s: %s", where(f.chain), on, f.what())
	}
	if !slices.ContainsFunc(f.hits, func(h hit) bool { return h.probe.Name != kindIn.Name }) { // which may well be meant
		c.Harmless = true
		c.Summary = fmt.Sprintf("guests on %s are not reached from outside: %s drops what others begin to send them", on, where(f.chain))
	}
	c.Remedy = f.remedy()
	return c
}

// elsewhere is where a query goes instead of the gateway.
func elsewhere(h *hit) string {
	to := h.result.Packet
	if !to.Dst.IsValid() {
		return "elsewhere, not to the network's name server"
	}
	return fmt.Sprintf("to %s port %d, not to the network's name server", to.Dst, to.DstPort)
}

// where names a chain for a sentence.
func where(c *ruleset.Chain) string {
	t := c.Table
	if t.Program != "" {
		return fmt.Sprintf("the chain %s of %s", c.Name, t.Program)
	}
	return fmt.Sprintf("the chain %s of the nftables table %s %s", c.Name, t.Family, t.Name)
}

// evidence is the rule or the policy as its program shows it.
func (f *finding) evidence() string {
	t := f.chain.Table
	switch {
	case t.Program != "" && f.rule == nil:
		return fmt.Sprintf("%s%s -P %s DROP", t.Program, tableOption(t), f.chain.Name)
	case t.Program != "":
		return fmt.Sprintf("%s%s -A %s %s", t.Program, tableOption(t), f.chain.Name, f.rule.Text)
	case f.rule == nil:
		c := f.chain
		return fmt.Sprintf("table %s %s, chain %s: type %s hook %s priority %d; policy drop;", t.Family, t.Name, c.Name, c.Type, c.Hook, c.Priority)
	}
	return fmt.Sprintf("table %s %s, chain %s: %s # handle %d", t.Family, t.Name, f.chain.Name, f.rule.Text, f.rule.Handle)
}

// tableOption names a table of iptables that is not the usual one.
func tableOption(t *ruleset.Table) string {
	if t.Name == "filter" {
		return ""
	}
	return " -t " + t.Name
}
