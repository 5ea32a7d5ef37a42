package eval

import "github.com/vnetd/vnetd/pkg/firewall/diagnose/ruleset"

// truth is the value of a statement of which not all may be known.
type truth uint8

const (
	no truth = iota
	maybe
	yes
)

// not turns a truth round.
func not(t truth) truth { return yes - t }

// truthOf is the truth of what is known.
func truthOf(is bool) truth {
	if is {
		return yes
	}
	return no
}

// values finds out an expression: one value for each part of a concatenation.
func (m *reader) values(p *Packet, e *ruleset.Expr) ([]ruleset.Value, []known) {
	if e.Op != "concat" {
		v, k := m.value(p, e)
		return []ruleset.Value{v}, []known{k}
	}
	var values []ruleset.Value
	var all []known
	for i := range e.Args {
		v, k := m.value(p, &e.Args[i])
		values, all = append(values, v), append(all, k)
	}
	return values, all
}

// value finds out an expression of one part.
func (m *reader) value(p *Packet, e *ruleset.Expr) (ruleset.Value, known) {
	switch e.Op {
	case "field":
		return m.field(p, e.Field)
	case "value":
		return e.Value, certain
	case "&", "|", "^":
		return m.combine(p, e)
	case "shift":
		v, k := m.value(p, &e.Args[0])
		return ruleset.Uint(uint16(v.Lo + e.Value.Lo)), k
	case "map":
		return m.lookUp(p, e)
	}
	return ruleset.Value{}, unclear
}

// combine finds out an operation on bits.
func (m *reader) combine(p *Packet, e *ruleset.Expr) (ruleset.Value, known) {
	out, k := m.value(p, &e.Args[0])
	for i := 1; i < len(e.Args) && k == certain; i++ {
		var v ruleset.Value
		v, k = m.value(p, &e.Args[i])
		switch e.Op {
		case "&":
			out.Number = out.And(v.Number)
		case "|":
			out.Number = out.Or(v.Number)
		case "^":
			out.Number = out.Xor(v.Number)
		}
	}
	return out, k
}

// lookUp finds out what a map leads to. Of a concatenation it is the first part, the
// address.
func (m *reader) lookUp(p *Packet, e *ruleset.Expr) (ruleset.Value, known) {
	element, is := m.element(p, &e.Args[0], e.Set)
	switch {
	case is == maybe || is == yes && len(element.Value) == 0:
		return ruleset.Value{}, unclear
	case is == no:
		return ruleset.Value{}, absent
	}
	return element.Value[0], certain
}

// element looks for the element of a set that an expression is in.
func (m *reader) element(p *Packet, e *ruleset.Expr, s *ruleset.Set) (*ruleset.Element, truth) {
	values, all := m.values(p, e)
	for _, k := range all {
		if k == absent {
			return nil, no
		}
	}
	var rest *ruleset.Element // for what is in no other
	result := no
	for i := range s.Elements {
		of := &s.Elements[i]
		if len(of.Key) == 0 {
			rest = of
			continue
		}
		switch in(values, all, of.Key) {
		case yes:
			if result == no {
				m.touch(of)
				return of, yes
			}
			return nil, maybe
		case maybe:
			result = maybe
		}
	}
	if s.Unknown {
		result = maybe
	}
	if result == no && rest != nil {
		return rest, yes
	}
	return nil, result
}

// touch notes an element that a packet was found in.
func (m *reader) touch(e *ruleset.Element) {
	if e.Comment != "" {
		m.touched = e
	}
}

// in reports whether values are those of a key.
func in(values []ruleset.Value, all []known, key []ruleset.Range) truth {
	if len(values) != len(key) {
		return maybe
	}
	result := yes
	for i, v := range values {
		switch {
		case all[i] == unclear:
			result = min(result, maybe)
		case !key[i].Holds(v):
			return no
		}
	}
	return result
}

// matches reports whether a match holds.
func (m *reader) matches(p *Packet, s *ruleset.Statement) truth {
	if s.Expr.Field == "ct status" {
		return m.status(p, s)
	}
	var one [1]ruleset.Value
	var its [1]known
	values, all := one[:], its[:]
	if s.Expr.Op == "concat" {
		values, all = m.values(p, &s.Expr)
	} else {
		one[0], its[0] = m.value(p, &s.Expr)
	}
	for _, k := range all {
		if k == absent {
			return no
		}
	}
	switch s.Op {
	case "==", "":
		return m.member(values, all, s.Set)
	case "!=":
		return not(m.member(values, all, s.Set))
	}
	if len(values) != 1 {
		return maybe
	}
	return compare(values[0], all[0], s)
}

// member reports whether values are in a set. An element of yes and others of maybe
// make a yes.
func (m *reader) member(values []ruleset.Value, all []known, s *ruleset.Set) truth {
	result := no
	if s.Unknown {
		result = maybe
	}
	for i := range s.Elements {
		if len(s.Elements[i].Key) == 0 {
			return yes
		}
		if result = max(result, in(values, all, s.Elements[i].Key)); result == yes {
			m.touch(&s.Elements[i])
			return yes
		}
	}
	return result
}

// compare compares a value with the one constant of the set. All there are are 0 at least, which
// is how rules ask whether a packet goes on as far as a field.
func compare(v ruleset.Value, k known, s *ruleset.Statement) truth {
	if len(s.Set.Elements) != 1 || len(s.Set.Elements[0].Key) != 1 {
		return maybe
	}
	with := s.Set.Elements[0].Key[0].Low.Number
	switch {
	case s.Op == ">=" && with == ruleset.Number{}:
		return yes
	case k != certain:
		return maybe
	}
	switch s.Op {
	case "<":
		return truthOf(v.Cmp(with) < 0)
	case "<=":
		return truthOf(v.Cmp(with) <= 0)
	case ">":
		return truthOf(v.Cmp(with) > 0)
	case ">=":
		return truthOf(v.Cmp(with) >= 0)
	case "in":
		return truthOf(v.And(with) != ruleset.Number{})
	case "!":
		return truthOf(v.And(with) == ruleset.Number{})
	}
	return maybe
}

// status asks for bits of a connection's status, of which those of translations are
// known.
func (m *reader) status(p *Packet, s *ruleset.Statement) truth {
	c := p.Connection
	switch {
	case m.hook.Layer == Bridge:
		return maybe
	case !m.follows(&c):
		return no
	case s.Op != "in" && s.Op != "!", len(s.Set.Elements) != 1:
		return maybe
	}
	bits := s.Set.Elements[0].Key[0].Low.Lo
	has := maybe
	switch {
	case bits&uint64(c.Status) != 0:
		has = yes
	case bits&^uint64(StatusSNAT|StatusDNAT) == 0:
		has = no
	}
	if s.Op == "!" {
		return not(has)
	}
	return has
}
