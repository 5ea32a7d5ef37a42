package document

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/vnetd/vnetd/pkg/netdef/policy"
)

// SetPeer has guests of the network and those of another open services to each other, in the
// place of what was said of that direction; services are words such as tcp/5432, none:
// everything.
func (d *Document) SetPeer(network, direction string, services []string) error {
	if !slices.Contains([]string{policy.Out, policy.In, policy.Both}, direction) {
		return oneOf(direction, policy.Out, policy.In, policy.Both)
	}
	p := policy.Peer{Network: network, Direction: direction}
	if len(services) > 0 {
		var err error
		if p.Services, err = policy.ParseServices(strings.Join(services, " ")); err != nil {
			return err
		}
	}
	if i := slices.IndexFunc(d.n.Peers, func(o policy.Peer) bool { return o.Network == network && o.Direction == direction }); i >= 0 {
		d.n.Peers[i] = p
		return nil
	}
	d.n.Peers = append(d.n.Peers, p)
	return nil
}

// DropPeer ends the peerings with another network in that direction, "" for all.
func (d *Document) DropPeer(network, direction string) error {
	had := len(d.n.Peers)
	d.n.Peers = slices.DeleteFunc(d.n.Peers, func(p policy.Peer) bool {
		return p.Network == network && p.Direction == cmp.Or(direction, p.Direction)
	})
	if len(d.n.Peers) == had {
		return fmt.Errorf("network %q has no such peer %q", d.n.Name, network)
	}
	return nil
}

// AddRule adds a rule, as policy.ParseRule reads it, as the one of that number, 0 for the last.
func (d *Document) AddRule(text string, at int) error {
	r, err := policy.ParseRule(text)
	rules := &d.n.Rules.Rules
	switch {
	case err != nil:
		return err
	case at < 0 || at > len(*rules)+1:
		return fmt.Errorf("there is no place %d among %d rules: want 1 to %d", at, len(*rules), len(*rules)+1)
	case slices.ContainsFunc(*rules, func(o policy.Rule) bool { return o.String() == r.String() }):
		return fmt.Errorf("the rule %q is there already", r)
	case at == 0:
		at = len(*rules) + 1
	}
	*rules = slices.Insert(*rules, at-1, r)
	return nil
}

// DropRule drops a rule, by its number or as it is written.
func (d *Document) DropRule(text string) error {
	rules := &d.n.Rules.Rules
	at, err := strconv.Atoi(text)
	if err != nil {
		r, err := policy.ParseRule(text)
		if err != nil {
			return err
		}
		at = 1 + slices.IndexFunc(*rules, func(o policy.Rule) bool { return o.String() == r.String() })
	}
	if at < 1 || at > len(*rules) {
		return fmt.Errorf("network %q has %d rules, and none is %q", d.n.Name, len(*rules), text)
	}
	*rules = slices.Delete(*rules, at-1, at)
	return nil
}

// SetDefault says what becomes of connections that no rule fits: allow, reject or drop; none has
// the network's mode say.
func (d *Document) SetDefault(direction, action string) error {
	r := &d.n.Rules
	of := map[string]*string{policy.Egress: &r.Egress, policy.Ingress: &r.Ingress}[direction]
	switch {
	case of == nil:
		return oneOf(direction, policy.Egress, policy.Ingress)
	case action == "none":
		*of = ""
	case !slices.Contains([]string{policy.Allow, policy.Reject, policy.Drop}, action):
		return oneOf(action, policy.Allow, policy.Reject, policy.Drop, "none")
	default:
		*of = action
	}
	return nil
}

// SetMembers has a set of that name have those members; with none there is no such set.
func (d *Document) SetMembers(name string, members []string) error {
	r := &d.n.Rules
	i := slices.IndexFunc(r.Sets, func(s policy.Set) bool { return s.Name == name })
	if len(members) == 0 {
		if i < 0 {
			return fmt.Errorf("network %q has no set %q", d.n.Name, name)
		}
		r.Sets = slices.Delete(r.Sets, i, i+1)
		return nil
	}
	list, err := policy.ParseMembers(strings.Join(members, " "))
	if err != nil {
		return err
	}
	if i < 0 {
		r.Sets = append(r.Sets, policy.Set{Name: name})
		i = len(r.Sets) - 1
	}
	r.Sets[i].Members = list
	return nil
}

// CheckRules finds what can't be of rules of ports: text that is none.
func CheckRules(texts []string) error {
	var errs []error
	for _, text := range texts {
		_, err := policy.ParseRule(text)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
