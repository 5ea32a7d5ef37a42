package ruleset

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// xtablesParser reads the words of a rule as iptables-save prints them.
type xtablesParser struct {
	table    *Table
	words    []string
	protocol string
	module   string // the last -m
	inverted bool
	out      []Statement
}

// next takes the next word, "" after the last one.
func (p *xtablesParser) next() string {
	if len(p.words) == 0 {
		return ""
	}
	w := p.words[0]
	p.words = p.words[1:]
	return w
}

// rule reads all.
func (p *xtablesParser) rule() []Statement {
	for len(p.words) > 0 {
		switch w := p.next(); w {
		case "!":
			p.inverted = true
			continue
		case "-m", "--match":
			p.module = p.next()
			if p.module == "socket" || p.module == "rpfilter" || p.module == "ipv6header" {
				p.bare()
			}
		case "-f":
			p.match("ip frag-off", "!=", constant(Uint(0)))
		case "-j", "-g", "--jump", "--goto":
			p.target(w, p.next())
		default:
			p.option(w)
		}
		p.inverted = false
	}
	return p.out
}

// bare are modules that match without any option.
func (p *xtablesParser) bare() {
	if p.module != "rpfilter" {
		p.unknown()
		return
	}
	inverted := false
	for len(p.words) > 0 && strings.HasPrefix(p.words[0], "--") {
		inverted = inverted || p.next() == "--invert"
	}
	p.inverted = inverted
	p.match("fib saddr . iif oif", "!=", constant(Uint(0)))
}

// unknown says that nobody knows whether the packet matches.
func (p *xtablesParser) unknown() { p.out = append(p.out, Statement{Kind: MayMatch}) }

// match adds a match, turned round after a "!".
func (p *xtablesParser) match(name, op string, s *Set) {
	if s == nil {
		p.unknown()
		return
	}
	if p.inverted {
		op = map[string]string{"==": "!=", "!=": "==", "in": "!"}[op]
	}
	p.out = append(p.out, Statement{Kind: Match, Expr: field(name), Op: op, Set: s})
}

// option reads one option with its value.
func (p *xtablesParser) option(w string) {
	if read, ok := xtOptions()[w]; ok {
		read(p, p.next())
		return
	}
	switch {
	case p.module == "comment", p.module == "limit" && w != "--limit", p.module == "hashlimit" && w != "--hashlimit-above" && w != "--hashlimit-upto":
		p.skip()
		return
	case w == "--limit", w == "--hashlimit-upto", w == "--connlimit-upto":
		p.out = append(p.out, Statement{Kind: Limited})
		p.skip()
		return
	case w == "--hashlimit-above", w == "--connlimit-above":
		p.out = append(p.out, Statement{Kind: Limited, Op: "over"})
		p.skip()
		return
	case p.module == "connlimit":
		p.skip()
		return
	}
	p.skip()
	p.unknown()
}

// skip leaves out the values of an option.
func (p *xtablesParser) skip() {
	for len(p.words) > 0 && !strings.HasPrefix(p.words[0], "-") && p.words[0] != "!" {
		p.next()
	}
}

// xtOptions are the options that are understood.
func xtOptions() map[string]func(p *xtablesParser, value string) {
	ports := func(name string) func(p *xtablesParser, v string) {
		return func(p *xtablesParser, v string) { p.match(p.transport()+" "+name, "==", portSet(v)) }
	}
	link := func(name string) func(p *xtablesParser, v string) {
		return func(p *xtablesParser, v string) {
			if start, wild := strings.CutSuffix(v, "+"); wild {
				v = start + "*"
			}
			p.match("meta "+name, "==", constant(Text(v)))
		}
	}
	return map[string]func(p *xtablesParser, value string){
		"-i": link("iifname"), "-o": link("oifname"),
		"-s":      func(p *xtablesParser, v string) { p.address("saddr", v) },
		"-d":      func(p *xtablesParser, v string) { p.address("daddr", v) },
		"-p":      (*xtablesParser).readProtocol,
		"--sport": ports("sport"), "--dport": ports("dport"), "--sports": ports("sport"), "--dports": ports("dport"),
		"--ports":       func(p *xtablesParser, _ string) { p.unknown() },
		"--ctstate":     (*xtablesParser).states,
		"--state":       (*xtablesParser).states,
		"--ctstatus":    func(p *xtablesParser, v string) { p.match("ct status", "in", bitSet("ct status", v)) },
		"--ctdir":       func(p *xtablesParser, v string) { p.match("ct direction", "==", named("ct direction", v)) },
		"--dst-type":    func(p *xtablesParser, v string) { p.match("fib daddr type", "==", named("fib daddr type", v)) },
		"--src-type":    func(p *xtablesParser, v string) { p.match("fib saddr type", "==", named("fib saddr type", v)) },
		"--icmp-type":   func(p *xtablesParser, v string) { p.icmp("icmp type", v) },
		"--icmpv6-type": func(p *xtablesParser, v string) { p.icmp("icmpv6 type", v) },
		"--pkt-type":    func(p *xtablesParser, v string) { p.match("meta pkttype", "==", named("meta pkttype", v)) },
		"--mark":        (*xtablesParser).mark,
		"--src-range":   func(p *xtablesParser, v string) { p.match(p.table.Family+" saddr", "==", spanSet(v)) },
		"--dst-range":   func(p *xtablesParser, v string) { p.match(p.table.Family+" daddr", "==", spanSet(v)) },
		"--tcp-flags":   (*xtablesParser).tcpFlags,
		"--match-set":   (*xtablesParser).matchSet,
		"--set":         (*xtablesParser).recentSet,
		"--mac-source":  func(p *xtablesParser, v string) { p.match("ether saddr", "==", named("ether saddr", v)) },
		"--comment":     func(*xtablesParser, string) {},
		"--physdev-in":  func(p *xtablesParser, _ string) { p.unknown() },
	}
}

// transport is the protocol that has the ports.
func (p *xtablesParser) transport() string {
	if p.protocol == "" {
		return "th"
	}
	return p.protocol
}

// readProtocol reads -p.
func (p *xtablesParser) readProtocol(v string) {
	if !p.inverted {
		p.protocol = v
	}
	if v == "all" {
		return
	}
	p.match("meta l4proto", "==", named("meta l4proto", v))
}

// address reads -s and -d.
func (p *xtablesParser) address(name, v string) {
	prefix, err := netip.ParsePrefix(v)
	if err != nil {
		a, err := netip.ParseAddr(v)
		if err != nil {
			p.unknown() // a mask that is none of a prefix
			return
		}
		prefix = netip.PrefixFrom(a, a.BitLen())
	}
	p.match(p.table.Family+" "+name, "==", &Set{Elements: []Element{{Key: []Range{prefixRange(prefix)}}}})
}

// states reads the states of a connection, among which are two of translation.
func (p *xtablesParser) states(v string) {
	var states, status []string
	for s := range strings.SplitSeq(v, ",") {
		if s == "SNAT" || s == "DNAT" {
			status = append(status, s)
		} else {
			states = append(states, s)
		}
	}
	switch {
	case len(status) == 0:
		p.match("ct state", "in", bitSet("ct state", v))
	case len(states) == 0:
		p.match("ct status", "in", bitSet("ct status", v))
	default:
		p.unknown()
	}
}

// icmp reads a type, perhaps with a code.
func (p *xtablesParser) icmp(name, v string) {
	if v == "any" || v == "255" && name == "icmp type" {
		return
	}
	kind, code, coded := strings.Cut(v, "/")
	if p.inverted && coded {
		p.unknown()
		return
	}
	p.match(name, "==", named(name, kind))
	if coded {
		p.match(strings.Fields(name)[0]+" code", "==", named("", code))
	}
}

// mark reads --mark of the matches mark and connmark.
func (p *xtablesParser) mark(v string) {
	name := "meta mark"
	if p.module == "connmark" {
		name = "ct mark"
	}
	value, mask, masked := strings.Cut(v, "/")
	s := named("", value)
	if s == nil {
		p.unknown()
		return
	}
	p.match(name, "==", s)
	if m, ok := parseValue("", mask); masked && ok {
		last := &p.out[len(p.out)-1]
		last.Expr = Expr{Op: "&", Args: []Expr{last.Expr, {Op: "value", Value: m}}}
	}
}

// tcpFlags reads a mask and the flags of it that are set.
func (p *xtablesParser) tcpFlags(mask string) {
	set := p.next()
	m, ok := flagBits("tcp flags", mask)
	flags := bitSet("tcp flags", set)
	if !ok || flags == nil {
		p.unknown()
		return
	}
	p.match("tcp flags", "==", flags)
	last := &p.out[len(p.out)-1]
	last.Expr = Expr{Op: "&", Args: []Expr{last.Expr, {Op: "value", Value: m}}}
}

// matchSet reads a look-up in a set of ipset's.
func (p *xtablesParser) matchSet(name string) {
	directions := strings.Split(p.next(), ",")
	s := p.table.Sets[name]
	if s == nil || len(s.Elements) > 0 && len(s.Elements[0].Key) > len(directions) {
		p.unknown()
		return
	}
	parts := len(directions)
	if len(s.Elements) > 0 {
		parts = len(s.Elements[0].Key)
	}
	e := Expr{Op: "concat"}
	for i, d := range directions[:parts] {
		if i > 0 {
			p.unknown() // ports have protocols of their own there
			return
		}
		e.Args = append(e.Args, field(p.table.Family+" "+map[string]string{"src": "saddr", "dst": "daddr"}[d]))
	}
	p.match("", "==", s)
	p.out[len(p.out)-1].Expr = e
}

// recentSet reads --set of the match recent, which notes an address.
func (p *xtablesParser) recentSet(v string) {
	if v != "" {
		p.words = append([]string{v}, p.words...)
	}
	if p.module != "recent" {
		p.unknown()
	}
	for len(p.words) > 0 && slices.Contains([]string{"--name", "--mask", "--rsource", "--rdest"}, p.words[0]) {
		p.next()
		p.skip()
	}
}

// portSet is a list of ports and ranges of ports.
func portSet(v string) *Set {
	s := &Set{}
	for part := range strings.SplitSeq(v, ",") {
		low, high, ranged := strings.Cut(part, ":")
		if !ranged {
			high = low
		}
		l, err1 := strconv.ParseUint(low, 10, 16)
		h, err2 := strconv.ParseUint(high, 10, 16)
		if err1 != nil || err2 != nil {
			return nil
		}
		s.Elements = append(s.Elements, Element{Key: []Range{{Uint(l), Uint(h)}}})
	}
	return s
}

// spanSet is a range of addresses.
func spanSet(v string) *Set {
	low, high, _ := strings.Cut(v, "-")
	l, err1 := netip.ParseAddr(low)
	h, err2 := netip.ParseAddr(high)
	if err1 != nil || err2 != nil {
		return nil
	}
	return &Set{Elements: []Element{{Key: []Range{{Addr(l), Addr(h)}}}}}
}

// named is the set of one value by its name or number; nil if it is not known.
func named(name, v string) *Set {
	value, ok := parseValue(name, v)
	if !ok {
		return nil
	}
	return constant(value)
}

// bitSet is the set of a value of several bits.
func bitSet(name, v string) *Set {
	value, ok := flagBits(name, v)
	if !ok {
		return nil
	}
	return constant(value)
}

// flagBits is a value by the names of its bits.
func flagBits(name, v string) (Value, bool) {
	var n Number
	for part := range strings.SplitSeq(v, ",") {
		value, ok := parseValue(name, strings.ReplaceAll(strings.ToLower(part), "_", "-"))
		if !ok {
			return Value{}, false
		}
		n = n.Or(value.Number)
	}
	return Value{Number: n}, true
}
