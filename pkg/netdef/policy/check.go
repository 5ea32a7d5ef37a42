package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// What one network may have, so that its rules stay quick to write.
const (
	maxPeers = 256
	maxRules = 256 // also of one port
	maxSets  = 64
	maxParts = 4096 // protocols and ports by remotes, of all rules; also of one port
)

// Context is what of a network its rules must go with.
type Context struct {
	Name   string
	Mode   string // in words, for faults
	Routed bool   // the host routes for its guests by rules of vnetd's: nat, route or isolated
	Domain string // of its guests; empty: none
	// DNS says that guests find names by vnetd.
	DNS bool
}

// add takes a fault: where it is, the value there, and what would be right.
type add func(path, value, problem string)

// Check finds what can't be of peerings and rules.
func Check(c Context, peers []Peer, rules *Rules, add func(path, value, problem string)) {
	checkPeers(c, peers, add)
	checkRules(c, rules, add)
}

// checkPeers checks <vnetd:peer>.
func checkPeers(c Context, all []Peer, add add) {
	const path = "network/vnetd:peer"
	switch {
	case len(all) == 0:
		return
	case !c.Routed:
		add(path, "", "not allowed in mode "+c.Mode+": want nat, route or no <forward>")
		return
	case len(all) > maxPeers:
		add(path, "", fmt.Sprintf("%d peers, want at most %d", len(all), maxPeers))
		return
	}
	for i := range all {
		p := &all[i]
		at := fmt.Sprintf("%s[%d]/@network", path, i+1)
		same := func(o Peer) bool {
			return o.Network == p.Network && (o.Direction == p.Direction || o.Direction == Both || p.Direction == Both)
		}
		switch {
		case p.Network == "":
			add(at, "", "missing, want the name of another network")
		case p.Network == c.Name:
			add(at, p.Network, "is this network, whose guests reach each other: want another")
		case slices.ContainsFunc(all[:i], same):
			add(at, p.Network, "has a <vnetd:peer> of that direction already: want all services in one")
		}
	}
}

// checkRules checks <vnetd:rules>.
func checkRules(c Context, r *Rules, add add) {
	const path = "network/vnetd:rules"
	switch {
	case r.IsZero():
		return
	case !c.Routed:
		add(path, "", "not allowed in mode "+c.Mode+": want nat, route or no <forward>")
		return
	case len(r.Rules) > maxRules || len(r.Sets) > maxSets:
		add(path, "", fmt.Sprintf("%d rules and %d sets, want at most %d and %d", len(r.Rules), len(r.Sets), maxRules, maxSets))
		return
	}
	checkSets(c, path, r, add)
	for i := range r.Rules {
		checkRule(c, fmt.Sprintf("%s/vnetd:rule[%d]", path, i+1), r, &r.Rules[i], add)
	}
	if problem := tooMany(r, r.Rules); problem != "" {
		add(path, "", problem)
	}
}

// tooMany says what is too much of some rules, whose sets of has; "" where nothing is.
func tooMany(of *Rules, rules []Rule) string {
	parts := 0
	for i := range rules {
		parts += max(1, len(rules[i].Services())) * max(1, len(of.Members(&rules[i])))
	}
	if parts > maxParts {
		return fmt.Sprintf("%d pairs of what is opened and where, want at most %d", parts, maxParts)
	}
	return ""
}

// checkSets checks <vnetd:set>.
func checkSets(c Context, path string, r *Rules, add add) {
	for i := range r.Sets {
		s := &r.Sets[i]
		at := fmt.Sprintf("%s/vnetd:set[%d]", path, i+1)
		if problem := setName(s.Name); problem != "" {
			add(at+"/@name", s.Name, problem)
		}
		if slices.ContainsFunc(r.Sets[:i], func(o Set) bool { return o.Name == s.Name }) {
			add(at+"/@name", s.Name, "want each name once")
		}
		for _, m := range s.Members {
			if m.Set != "" {
				add(at, m.String(), "a set in a set: want addresses, subnets and names")
			}
			checkName(c, at, m, add)
		}
	}
}

// checkRule checks one <vnetd:rule>.
func checkRule(c Context, path string, all *Rules, r *Rule, add add) {
	if len(r.Ports) > 0 && !hasPorts(r.Protocol) {
		add(path+"/@ports", join(r.Ports), "want proto tcp, udp or sctp with ports")
	}
	at := path + "/@" + preposition(r.Direction)
	for _, m := range r.Remotes {
		if m.Set != "" && !slices.ContainsFunc(all.Sets, func(s Set) bool { return s.Name == m.Set }) {
			add(at, m.String(), "there is no such <vnetd:set>")
		}
		checkName(c, at, m, add)
	}
	for _, m := range all.Members(r) {
		if m.Name != "" && r.Direction == Ingress {
			add(at, m.String(), "a name at ingress: guests ask for names of what they open. Want addresses and subnets")
		}
	}
}

// checkName finds names that open nothing: those of guests.
func checkName(c Context, path string, m Remote, add add) {
	domain := strings.ToLower(strings.TrimSuffix(c.Domain, "."))
	name := strings.TrimPrefix(m.Name, "*.")
	switch {
	case m.Name == "":
	case !c.DNS:
		add(path, m.String(), "a name, where guests don't ask vnetd for names: want an address, or no <dns enable='no'/>")
	case domain != "" && (name == domain || strings.HasSuffix(name, "."+domain)):
		add(path, m.String(), "is in the domain "+domain+" of this network, whose guests reach each other without rules: want a name outside")
	}
}

// CheckPort finds what can't be of the rules of one port of a network whose rules those are;
// the error says which.
func CheckPort(c Context, of *Rules, rules []Rule) (err error) {
	if len(rules) > 0 && !c.Routed {
		return fmt.Errorf("rules are not possible in mode %s: want a network of mode nat, route, or isolated", c.Mode)
	}
	if len(rules) > maxRules {
		return fmt.Errorf("%d rules, want at most %d", len(rules), maxRules)
	}
	if problem := tooMany(of, rules); problem != "" {
		return errors.New(problem)
	}
	for i := range rules {
		checkRule(c, "", of, &rules[i], func(path, value, problem string) {
			if err == nil {
				err = fmt.Errorf("rule %q: %s: %s", rules[i], value, problem)
			}
		})
	}
	return err
}
