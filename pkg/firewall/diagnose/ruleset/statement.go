package ruleset

import "slices"

// ruleParser reads the parts of a rule of nft's.
type ruleParser struct {
	sets    map[string]*Set
	lookups bool // there was one in a set
}

// single is the only key of an object and its value.
func single(v any) (key string, value any) {
	m, ok := v.(map[string]any)
	if !ok || len(m) != 1 {
		return "", nil
	}
	for key, value = range m {
		break
	}
	return key, value
}

// get is a member of an object, nil if there is none.
func get(v any, key string) any {
	m, _ := v.(map[string]any)
	return m[key]
}

// text is a member that is a text.
func text(v any, key string) string {
	s, _ := get(v, key).(string)
	return s
}

// neutral are the statements that leave the packet's way alone.
var neutral = []string{"counter", "log", "comment", "ct helper", "ct timeout", "ct expectation", "flow", "dup", "secmark", "last"}

// statement reads one statement: none if it does nothing to the packet's way.
func (p *ruleParser) statement(v any) []Statement {
	key, value := single(v)
	if verdict, ok := parseVerdict(key, value); ok {
		return []Statement{{Kind: Decide, Verdict: verdict}}
	}
	switch {
	case slices.Contains(neutral, key):
		return nil
	case key == "match":
		return []Statement{p.match(value)}
	case key == "vmap":
		p.lookups = true
		e := p.expr(get(value, "key"))
		return []Statement{{Kind: DecideBy, Expr: e, Set: p.set(get(value, "data"), e.fields())}}
	case key == "mangle":
		return p.assign(value)
	case key == "snat", key == "dnat", key == "masquerade", key == "redirect":
		return []Statement{p.translate(key, value)}
	case key == "notrack":
		return []Statement{{Kind: Untrack}}
	case key == "set", key == "map": // adds an element; with a full set it does not match
		if text(value, "op") == "delete" {
			return nil
		}
		return p.update(value)
	}
	return others(key, value)
}

// others reads a statement that is no match of fields, or that nobody understands.
func others(key string, value any) []Statement {
	switch {
	case key == "queue", key == "fwd", key == "tproxy", key == "synproxy":
		return []Statement{{Kind: MayConsume}}
	case key == "limit", key == "quota", key == "ct count":
		return []Statement{limited(value)}
	case key == "xt" && text(value, "type") == "match" && text(value, "name") == "comment":
		return nil
	case key == "meter", key == "socket", key == "xt" && text(value, "type") == "match":
		return []Statement{{Kind: MayMatch}}
	}
	return []Statement{{Kind: MayDecide}}
}

// update is the statement that puts an element into a set, which may have
// conditions of its own.
func (p *ruleParser) update(v any) []Statement {
	element, _ := get(get(v, "elem"), "elem").(map[string]any)
	if limits, only := rates(v, element); only {
		return limits
	}
	return []Statement{{Kind: MayMatch}}
}

// limited reads a rate or a count, which may be one to be exceeded.
func limited(v any) Statement {
	s := Statement{Kind: Limited}
	if get(v, "inv") == true {
		s.Op = "over"
	}
	return s
}

// rates are the conditions of an element that is put into a set, if they are rates alone.
func rates(v any, element map[string]any) (all []Statement, only bool) {
	list, _ := get(v, "stmt").([]any)
	for _, s := range list {
		key, value := single(s)
		switch {
		case key == "limit" || key == "ct count" || key == "quota":
			all = append(all, limited(value))
		case key != "counter" && key != "last":
			return nil, false
		}
	}
	for key, value := range element {
		switch key {
		case "limit", "ct count", "quota":
			all = append(all, limited(value))
		case "val", "timeout", "expires", "comment", "counter":
		default:
			return nil, false
		}
	}
	return all, true
}

// parseVerdict reads a verdict.
func parseVerdict(key string, value any) (Verdict, bool) {
	switch key {
	case "accept", "drop", "return", "continue", "reject":
		return Verdict{Name: key}, true
	case "jump", "goto":
		return Verdict{Name: key, Target: text(value, "target")}, true
	}
	return Verdict{}, false
}

// match reads a match.
func (p *ruleParser) match(v any) Statement {
	left := p.expr(get(v, "left"))
	op := text(v, "op")
	right := get(v, "right")
	s := Statement{Kind: Match, Expr: left, Op: op}
	_, several := right.([]any)
	if several || op == "in" || op == "!" || left.Op == "&" {
		e := flags(right, left.fields())
		if e.Op == "value" {
			s.Set = constant(e.Value)
			return s
		}
	}
	s.Set = p.set(right, left.fields())
	return s
}

// assign reads a statement that sets a mark, or something that no match asks for.
func (p *ruleParser) assign(v any) []Statement {
	e := p.expr(get(v, "key"))
	switch e.Field {
	case "meta mark", "ct mark", "meta pkttype", "ip daddr", "ip saddr", "ip6 daddr", "ip6 saddr", "tcp dport", "udp dport", "th dport", "ether daddr", "ether saddr":
		return []Statement{{Kind: Assign, Field: e.Field, Expr: p.expr(get(v, "value"))}}
	}
	return nil
}

// translate reads a translation of addresses.
func (p *ruleParser) translate(key string, v any) Statement {
	s := Statement{Kind: Translate, Verdict: Verdict{Name: key}, Field: text(v, "family")}
	for _, part := range []struct {
		name string
		at   **Expr
	}{{"addr", &s.Addr}, {"port", &s.Port}} {
		if given := get(v, part.name); given != nil {
			e := p.expr(given)
			*part.at = &e
		}
	}
	return s
}
