package eval

import "github.com/vnetd/vnetd/pkg/firewall/diagnose/ruleset"

// outcome is what one rule may make of a fate. Without a verdict the next rule is
// asked.
type outcome struct {
	fate    fate
	verdict ruleset.Verdict
}

// rule carries out a rule. What is not known of it makes several outcomes.
func (m *machine) rule(r *ruleset.Rule, f fate) []outcome {
	var all []outcome
	for i := range r.Statements {
		s := &r.Statements[i]
		m.touched = nil
		switch is := m.holds(&f, s); is {
		case no:
			return append(all, outcome{fate: f})
		case maybe:
			if f.why == nil {
				f.why = r
			}
			all = append(all, outcome{fate: f})
		}
		if m.touched != nil {
			f.element = m.touched
		}
		if ends := m.carryOut(r, s, &f); ends != nil {
			return append(all, ends...)
		}
	}
	return append(all, outcome{fate: f})
}

// holds reports whether a statement lets the rule go on.
func (m *machine) holds(f *fate, s *ruleset.Statement) truth {
	switch s.Kind {
	case ruleset.Match:
		return m.matches(&f.packet, s)
	case ruleset.MayMatch:
		return maybe
	case ruleset.Limited:
		if m.query.WithinRates {
			return truthOf(s.Op != "over")
		}
		return maybe
	case ruleset.DecideBy:
		_, is := m.element(&f.packet, &s.Expr, s.Set)
		if is == maybe && !s.Set.Unknown {
			return yes // which element is the question
		}
		return is
	}
	return yes
}

// carryOut does what a statement says. It returns the rule's ends, nil if the rule goes
// on.
func (m *machine) carryOut(r *ruleset.Rule, s *ruleset.Statement, f *fate) []outcome {
	switch s.Kind {
	case ruleset.Decide:
		return []outcome{{*f, s.Verdict}}
	case ruleset.DecideBy:
		return m.decideBy(r, s, *f)
	case ruleset.Assign:
		if !m.assign(s, f) {
			return []outcome{{fate: *f}}
		}
	case ruleset.Untrack:
		f.packet.Connection.State, f.packet.Connection.NoTrack = StateUntracked, true
	case ruleset.Translate:
		m.touched = nil
		if !m.translate(r, f, s) {
			return []outcome{{fate: *f}}
		}
		if m.touched != nil {
			f.element, f.last.Element = m.touched, m.touched
		}
		return []outcome{{*f, ruleset.Verdict{Name: "accept"}}}
	case ruleset.MayDecide, ruleset.MayConsume:
		if f.why == nil {
			f.why = r
		}
		m.finish(*f, Unknown, r.Chain, r)
		return []outcome{}
	}
	return nil
}

// decideBy looks the verdict up: where a part is not known, each element that it may be
// is a possible end.
func (m *machine) decideBy(r *ruleset.Rule, s *ruleset.Statement, f fate) []outcome {
	element, is := m.element(&f.packet, &s.Expr, s.Set)
	if is == yes {
		if element.Comment != "" {
			f.element = element
		}
		return []outcome{{f, element.Verdict}}
	}
	if f.why == nil {
		f.why = r
	}
	values, all := m.values(&f.packet, &s.Expr)
	out := []outcome{{fate: f}}
	for i := range s.Set.Elements {
		e := &s.Set.Elements[i]
		if len(e.Key) == 0 || in(values, all, e.Key) != no {
			out = append(out, outcome{f, e.Verdict})
		}
	}
	return out
}

// assign sets a mark, or another part of the packet. It reports false where there is
// no value, which ends the rule.
func (m *machine) assign(s *ruleset.Statement, f *fate) bool {
	p := &f.packet
	v, k := m.value(p, &s.Expr)
	if k == absent {
		return false
	}
	switch s.Field {
	case "meta mark":
		p.Mark, p.unknownMark = uint32(v.Lo), k != certain
		if k != certain {
			p.Mark = 0
		}
	case "ct mark":
		p.Connection.Mark, p.Connection.MarkUnknown = uint32(v.Lo), k != certain
		if k != certain {
			p.Connection.Mark = 0
		}
	case "meta pkttype":
		p.Cast = Cast(v.Lo)
	case "ip daddr", "ip6 daddr":
		p.Dst = v.Address(p.v6())
	case "ip saddr", "ip6 saddr":
		p.Src = v.Address(p.v6())
	case "tcp dport", "udp dport", "th dport":
		p.DstPort = uint16(v.Lo)
	case "ether saddr":
		p.SrcMAC = MAC{}
	case "ether daddr":
		p.DstMAC = MAC{}
	}
	return true
}
