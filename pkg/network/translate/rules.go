package translate

import (
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/netdef/policy"
)

// CheckPortRules refuses rules that a port of n can't have, which may be none.
func CheckPortRules(n *netdef.Network, texts []string) error {
	var rules []policy.Rule
	for _, text := range texts {
		r, err := policy.ParseRule(text)
		if err != nil {
			return api.Errorf(api.Invalid, "rules: %w", err)
		}
		rules = append(rules, r)
	}
	if err := policy.CheckPort(netdef.PolicyContext(n), &n.Rules, rules); err != nil {
		return api.Errorf(api.Invalid, "rules: %w", err)
	}
	return nil
}

// Reaches reports whether guests of n may reach others by a router, or be reached: all but
// those of an isolated network for which neither a peering nor a rule says so.
func Reaches(n *netdef.Network) bool {
	if n.Mode() != netdef.ModeIsolated || len(n.Peers) > 0 {
		return true
	}
	allows := n.Rules.Egress == policy.Allow || n.Rules.Ingress == policy.Allow
	for i := range n.Rules.Rules {
		allows = allows || n.Rules.Rules[i].Action == policy.Allow
	}
	return allows
}

// askedByName are the domains of names in the rules of n, whose guests may ask for no others.
func askedByName(n *netdef.Network) (all []string) {
	add := func(members []policy.Remote) {
		for _, m := range members {
			if m.Name != "" {
				all = append(all, m.Domain())
			}
		}
	}
	for i := range n.Rules.Rules {
		add(n.Rules.Members(&n.Rules.Rules[i]))
	}
	for i := range n.Rules.Sets {
		add(n.Rules.Sets[i].Members)
	}
	return all
}
