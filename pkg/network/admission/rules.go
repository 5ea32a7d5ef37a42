package admission

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/netdef/policy"
)

// Port is a port with rules of its own.
type Port struct {
	Label string // for comments and the log, such as "vnet0"
	Guest firewall.Guest
	Rules []policy.Rule
}

// Equal reports whether both are the same.
func (p *Port) Equal(o *Port) bool {
	return p.Label == o.Label && slices.Equal(p.Guest.MACs, o.Guest.MACs) && slices.Equal(p.Guest.Addrs, o.Guest.Addrs) &&
		slices.EqualFunc(p.Rules, o.Rules, func(a, b policy.Rule) bool { return a.String() == b.String() })
}

// Policy is what the rules of doc and of its ports, which come first, are in the firewall's
// terms. names are the addresses that a name has now. A rule for names that have none is left
// out.
func Policy(doc *netdef.Network, ports []Port, names func(name string) []netip.Addr) firewall.Policy {
	p := firewall.Policy{Egress: firewall.Action(doc.Rules.Egress), Ingress: firewall.Action(doc.Rules.Ingress)}
	add := func(rule *policy.Rule, guest *firewall.Guest, label string) {
		remote := remotes(doc.Rules.Members(rule), names)
		if len(rule.Remotes) > 0 && len(remote) == 0 {
			return
		}
		p.Rules = append(p.Rules, firewall.PolicyRule{
			Direction: firewall.Direction(rule.Direction), Action: firewall.Action(rule.Action), Guest: guest,
			Services: services(rule.Services()), Remote: remote, Log: rule.Log, Label: label,
		})
	}
	for i := range ports {
		port := &ports[i]
		for j := range port.Rules {
			add(&port.Rules[j], &port.Guest, fmt.Sprintf("%s rule %d", port.Label, j+1))
		}
	}
	for i := range doc.Rules.Rules {
		add(&doc.Rules.Rules[i], nil, fmt.Sprintf("rule %d", i+1))
	}
	return p
}

// remotes are the subnets and addresses of members, each once.
func remotes(members []policy.Remote, names func(name string) []netip.Addr) (all []netip.Prefix) {
	for _, m := range members {
		if m.Name == "" {
			all = append(all, m.Prefix)
			continue
		}
		for _, a := range names(m.Name) {
			all = append(all, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	return slices.Compact(all)
}

// RuleNames are the names in the rules of doc and of its ports, each once.
func RuleNames(doc *netdef.Network, ports []Port) (all []policy.Remote) {
	add := func(members []policy.Remote) {
		for _, m := range members {
			if m.Name != "" && !slices.Contains(all, m) {
				all = append(all, m)
			}
		}
	}
	for i := range ports {
		for j := range ports[i].Rules {
			add(doc.Rules.Members(&ports[i].Rules[j]))
		}
	}
	for i := range doc.Rules.Rules {
		add(doc.Rules.Members(&doc.Rules.Rules[i]))
	}
	return all
}

// Describe are the peerings and rules of doc in words, a line each, as people are told what
// they open.
func Describe(doc *netdef.Network) (lines []string) {
	for _, p := range doc.Peers {
		services := "everything"
		if len(p.Services) > 0 {
			services = policy.JoinServices(p.Services)
		}
		if p.Opens(policy.Out) {
			lines = append(lines, fmt.Sprintf("guests may open %s to guests of %s, where that agrees", services, p.Network))
		}
		if p.Opens(policy.In) {
			lines = append(lines, fmt.Sprintf("guests of %s may open %s to guests, where that agrees", p.Network, services))
		}
	}
	for i := range doc.Rules.Rules {
		lines = append(lines, fmt.Sprintf("rule %d: %s", i+1, doc.Rules.Rules[i]))
	}
	for _, d := range []struct{ direction, action string }{{policy.Egress, doc.Rules.Egress}, {policy.Ingress, doc.Rules.Ingress}} {
		if d.action != "" {
			lines = append(lines, fmt.Sprintf("all else at %s: %s", d.direction, d.action))
		}
	}
	return lines
}
