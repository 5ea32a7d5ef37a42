package firewall

import "slices"

// entry is what is known of one bridge's rules.
type entry struct {
	network Network
	rules   []Rule // shall stand, in this order
	former  []Rule // may stand as well, of a former process
}

// all are the rules of the entry in any form.
func (e entry) all() []Rule { return union(e.rules, e.former) }

// standing is what shall be there, the oldest network first.
type standing struct{ entries []entry }

// find returns the entry of a bridge, an empty one if there is none.
func (s *standing) find(bridge string) entry {
	if i := s.index(bridge); i >= 0 {
		return s.entries[i]
	}
	return entry{}
}

// index is the place of a bridge, -1 if it has none.
func (s *standing) index(bridge string) int {
	return slices.IndexFunc(s.entries, func(e entry) bool { return e.network.Bridge == bridge })
}

// adopt adds what a former process may have placed for n.
func (s *standing) adopt(n Network, rules []Rule) {
	i := s.index(n.Bridge)
	if i < 0 {
		s.entries = append(s.entries, entry{network: n, rules: rules})
		return
	}
	s.entries[i].former = union(s.entries[i].former, rules)
}

// set notes that exactly these rules stand for n. It becomes the newest unless
// it stood like this before.
func (s *standing) set(n Network, rules []Rule) {
	if i := s.index(n.Bridge); i >= 0 && slices.Equal(s.entries[i].rules, rules) {
		s.entries[i] = entry{network: n, rules: rules}
		return
	}
	s.forget(n.Bridge)
	s.entries = append(s.entries, entry{network: n, rules: rules})
}

// forget drops a bridge.
func (s *standing) forget(bridge string) {
	s.entries = slices.DeleteFunc(s.entries, func(e entry) bool { return e.network.Bridge == bridge })
}

// rules are those of all networks in any form.
func (s *standing) rules() []Rule {
	var out []Rule
	for _, e := range s.entries {
		out = append(out, e.all()...)
	}
	return out
}

// placed are the rules that shall stand.
func (s *standing) placed() []Rule {
	var out []Rule
	for _, e := range s.entries {
		out = append(out, e.rules...)
	}
	return out
}

// networks are those known, the oldest first.
func (s *standing) networks() []Network {
	var out []Network
	for _, e := range s.entries {
		out = append(out, e.network)
	}
	return out
}

// without are the networks known but for that of a bridge.
func (s *standing) without(bridge string) []Network {
	return slices.DeleteFunc(s.networks(), func(n Network) bool { return n.Bridge == bridge })
}

// changes make every network complete again, the newest last.
func (s *standing) changes() []change {
	var out []change
	for _, e := range s.entries {
		out = append(out, change{place: e.rules})
	}
	return out
}

// union is a followed by what only b has.
func union(a, b []Rule) []Rule {
	out := slices.Clone(a)
	for _, r := range b {
		if !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out
}
