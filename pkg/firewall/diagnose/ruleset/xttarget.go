package ruleset

import (
	"net/netip"
	"strconv"
	"strings"
)

// target reads what stands behind -j or -g: to the rule's end.
func (p *xtablesParser) target(how, name string) {
	switch name {
	case "ACCEPT", "DROP", "RETURN", "REJECT":
		p.decide(Verdict{Name: strings.ToLower(name)})
	case "LOG", "NFLOG", "ULOG", "TRACE", "CHECKSUM", "TCPMSS", "DSCP", "TOS", "CLASSIFY", "TTL", "HL", "AUDIT", "SET", "CT", "TCPOPTSTRIP", "IDLETIMER":
		if name == "CT" && len(p.words) > 0 && p.words[0] == "--notrack" {
			p.out = append(p.out, Statement{Kind: Untrack})
		}
	case "NOTRACK":
		p.out = append(p.out, Statement{Kind: Untrack})
	case "MARK", "CONNMARK":
		p.setMark(name)
	case "DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP":
		p.translation(strings.ToLower(name))
	case "NFQUEUE", "QUEUE", "TPROXY", "SYNPROXY", "STEAL", "TARPIT":
		p.out = append(p.out, Statement{Kind: MayConsume})
	default:
		p.jump(how, name)
	}
	p.words = nil
}

// decide ends the rule.
func (p *xtablesParser) decide(v Verdict) {
	p.out = append(p.out, Statement{Kind: Decide, Verdict: v})
}

// jump reads a jump to a chain. A target that is none is not known.
func (p *xtablesParser) jump(how, name string) {
	if p.table.Chain(name) == nil {
		p.out = append(p.out, Statement{Kind: MayDecide})
		return
	}
	v := Verdict{Name: "jump", Target: name}
	if how == "-g" || how == "--goto" {
		v.Name = "goto"
	}
	p.decide(v)
}

// setMark reads the targets that set a mark.
func (p *xtablesParser) setMark(target string) {
	name, other := "meta mark", "ct mark"
	if target == "CONNMARK" {
		name, other = other, name
	}
	value, mask, _ := strings.Cut(p.argument(1), "/")
	v, ok1 := parseValue("", value)
	m, ok2 := parseValue("", mask)
	if !ok2 {
		m = Value{Number: Number{Lo: 0xffffffff}}
	}
	s := Statement{Kind: Assign, Field: name}
	switch p.argument(0) {
	case "--set-xmark", "--set-mark":
		if ok1 {
			kept := Value{Number: m.Xor(Number{Lo: 0xffffffff})}
			s.Expr = Expr{Op: "^", Args: []Expr{{Op: "&", Args: []Expr{field(name), {Op: "value", Value: kept}}}, {Op: "value", Value: v}}}
		}
	case "--save-mark":
		s.Expr = p.whole(other)
	case "--restore-mark":
		s.Field, s.Expr = other, p.whole(name)
	}
	p.out = append(p.out, s)
}

// whole is the mark of that name if all of its bits are copied.
func (p *xtablesParser) whole(name string) Expr {
	for i, w := range p.words {
		if strings.HasSuffix(w, "mask") && p.argument(i+1) != "0xffffffff" {
			return Expr{}
		}
	}
	return field(name)
}

// argument is the i-th word that is left.
func (p *xtablesParser) argument(i int) string {
	if i >= len(p.words) {
		return ""
	}
	return p.words[i]
}

// translation reads where addresses are translated to.
func (p *xtablesParser) translation(name string) {
	s := Statement{Kind: Translate, Verdict: Verdict{Name: name}}
	if name == "netmap" {
		s.Kind = MayDecide
	}
	for i, w := range p.words {
		switch w {
		case "--to-destination", "--to-source":
			s.Addr, s.Port = translationTo(p.argument(i + 1))
		case "--to-ports":
			s.Port = firstPort(p.argument(i + 1))
		}
	}
	p.out = append(p.out, s)
}

// translationTo reads ADDR[-ADDR][:PORT[-PORT]].
func translationTo(text string) (addr, port *Expr) {
	if a, err := netip.ParseAddr(text); err == nil {
		return &Expr{Op: "value", Value: Addr(a)}, nil
	}
	if at, err := netip.ParseAddrPort(text); err == nil {
		return &Expr{Op: "value", Value: Addr(at.Addr())}, &Expr{Op: "value", Value: Uint(at.Port())}
	}
	if first, rest, ok := strings.Cut(text, ":"); ok && !strings.Contains(rest, ":") {
		a, _ := translationTo(strings.Trim(first, "[]"))
		return a, firstPort(rest)
	}
	return &Expr{}, &Expr{}
}

// shifted reads LOW-HIGH, any of these ports, and LOW-HIGH/BASE: ports that are to those before
// as LOW to BASE.
func shifted(text string) *Expr {
	span, base, ok := strings.Cut(text, "/")
	low, high, ranged := strings.Cut(span, "-")
	if !ok && ranged {
		return anyOf(low, high)
	}
	to, err1 := strconv.ParseUint(low, 10, 16)
	from, err2 := strconv.ParseUint(base, 10, 16)
	if !ok || err1 != nil || err2 != nil {
		return &Expr{}
	}
	return &Expr{Op: "shift", Args: []Expr{field("th dport")}, Value: Uint(uint16(to - from))}
}

// firstPort reads PORT; of a range nobody knows which one it will be.
func firstPort(text string) *Expr {
	v, ok := parseValue("th dport", text)
	if !ok {
		return shifted(text)
	}
	return &Expr{Op: "value", Value: v}
}

// anyOf is any port of a range.
func anyOf(low, high string) *Expr {
	first, ok1 := parseValue("th dport", low)
	last, ok2 := parseValue("th dport", high)
	if !ok1 || !ok2 {
		return &Expr{}
	}
	return &Expr{Op: "range", Args: []Expr{{Op: "value", Value: first}, {Op: "value", Value: last}}}
}
