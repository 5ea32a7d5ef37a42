package eval

import (
	"cmp"
	"math"
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/pkg/firewall/diagnose/ruleset"
)

// Priorities of the kernel's own work at the hooks of layer 3 (netfilter_ipv4.h).
const (
	trackingPriority = -200
	dstnatPriority   = -100
	srcnatPriority   = 100
)

// The limits within which a question is answered: of jumps within each other, of which
// the kernel allows 16, of possible fates at one time, and of rules in all.
const (
	maxDepth = 32
	maxFates = 64
	maxRules = 1 << 17
)

// fate is a packet as it may be at some place, and the first rule on which that
// depends without being known.
type fate struct {
	packet  Packet
	why     *ruleset.Rule
	nat     bool // translated at this hook
	last    *Translation
	element *ruleset.Element
	accepts *accept
}

// accept is an Accept, and the one before.
type accept struct {
	Accept
	before *accept
}

// Translation is the rule that has changed a packet's addresses.
type Translation struct {
	Rule *ruleset.Rule
	Base *ruleset.Chain // the base chain that led there
	Hook Hook
	// Element is the element with a comment that the packet was found in, nil for none.
	Element *ruleset.Element
	// Before and After are the packet's ends.
	Before, After Ends

	earlier *Translation
}

// Ends are the addresses and ports of a packet; those that are not known are invalid and 0.
type Ends struct{ Src, Dst netip.AddrPort }

// ends are those of the packet.
func (p *Packet) ends() Ends {
	return Ends{netip.AddrPortFrom(p.Src, p.SrcPort), netip.AddrPortFrom(p.Dst, p.DstPort)}
}

// end is where a fate ended, or that of one rule.
type end struct {
	fate
	verdict Verdict
	chain   *ruleset.Chain
	rule    *ruleset.Rule
	base    *ruleset.Chain
	hook    Hook
}

// machine carries out the rules of one hook after the other.
type machine struct {
	reader
	query *Query
	base  *ruleset.Chain
	ends  []end
	depth int
	rules int // that were carried out
}

// reader finds out what rules ask for, of a packet at a hook and of the host.
type reader struct {
	host    *Host
	hook    Hook
	table   *ruleset.Table
	tracked bool             // conntrack has seen the packet
	touched *ruleset.Element // with a comment, of the set that was looked into last
}

// Ask answers a query.
func (q *Query) Ask() Result {
	m := &machine{query: q, reader: reader{host: q.Host}}
	if m.host == nil {
		m.host = &Host{}
	}
	f := fate{packet: q.Packet}
	if to := q.Packet.Connection.Restored; to.IsValid() {
		f.packet.Dst, f.packet.DstPort = to.Addr(), to.Port()
	}
	m.along(q.Path, []fate{f})
	return result(m.ends)
}

// along has fates go a way to its end.
func (m *machine) along(path []Hook, fates []fate) {
	for i := 0; i < len(path) && len(fates) > 0; i++ {
		m.hook = path[i]
		fates = m.pass(fates)
		if m.hook.Layer != IP || m.hook.Looped {
			continue
		}
		switch at := m.hook.Name; {
		case m.query.Route != nil && (at == "prerouting" || at == "output"):
			for _, f := range fates {
				m.routed(f, path[i+1:])
			}
			return
		case at == "prerouting":
			fates = m.stay(fates)
		}
	}
	for _, f := range fates {
		m.ends = append(m.ends, end{fate: f, verdict: Accepted})
	}
}

// routed has one fate go on where the routes say, after what is left of its way to them.
func (m *machine) routed(f fate, left []Hook) {
	rest, ok := m.query.Route(f.packet)
	if !ok {
		m.ends = append(m.ends, end{fate: f, verdict: Unrouted, hook: m.hook})
		return
	}
	m.along(slices.Concat(left, rest), []fate{f})
}

// stay ends the fates that were led elsewhere.
func (m *machine) stay(fates []fate) (left []fate) {
	for _, f := range fates {
		if leaves(m.query, m.host, &f) {
			m.led(f)
		} else {
			left = append(left, f)
		}
	}
	return left
}

// leaves reports whether the packet was led elsewhere than its way goes.
func leaves(q *Query, h *Host, f *fate) bool {
	to := q.Packet.Dst
	return f.packet.Dst != to && f.packet.Dst.IsValid() && !(h.owns(to) && h.owns(f.packet.Dst))
}

// finish notes the end of a fate.
func (m *machine) finish(f fate, v Verdict, c *ruleset.Chain, r *ruleset.Rule) {
	m.ends = append(m.ends, end{f, v, c, r, m.base, m.hook})
}

// led notes the end of a fate that a rule has sent elsewhere.
func (m *machine) led(f fate) {
	e := end{fate: f, verdict: Translated, base: m.base, chain: m.base, hook: m.hook}
	if t := f.last; t != nil {
		e.rule, e.chain, e.base, e.hook = t.Rule, t.Rule.Chain, t.Base, t.Hook
	}
	m.ends = append(m.ends, e)
}

// result is what all ends have in common, or Unknown.
func result(ends []end) Result {
	first := ends[0]
	ambiguous := false
	for _, e := range ends {
		if e.verdict == Unknown || e.outcome() != first.outcome() {
			r := Result{Verdict: Unknown, Rule: cmp.Or(e.why, e.rule, first.why, first.rule), Packet: e.packet, Hook: e.hook, Base: e.base, Element: e.element}
			if r.Chain = e.chain; r.Rule != nil {
				r.Chain = r.Rule.Chain
			}
			return r
		}
		ambiguous = ambiguous || e.packet.ends() != first.packet.ends()
	}
	r := Result{
		Verdict: first.verdict, Chain: first.chain, Rule: first.rule, Hook: first.hook, Base: first.base, Packet: first.packet, Translation: first.last,
		Element: first.element, Accepts: first.accepted(), Translations: first.translations(), Ambiguous: ambiguous,
	}
	if ambiguous && r.Rule == nil {
		for _, e := range ends {
			r.Rule = cmp.Or(r.Rule, e.why)
		}
	}
	return r
}

// outcome is the end's verdict, where that a packet is dropped or rejected is one.
func (e *end) outcome() Verdict {
	if e.stopped() {
		return Dropped
	}
	return e.verdict
}

// accepted lists what accepted the fate's packet, in order.
func (f *fate) accepted() (all []Accept) {
	for a := f.accepts; a != nil; a = a.before {
		all = append(all, a.Accept)
	}
	slices.Reverse(all)
	return all
}

// translations lists what changed the fate's packet, in order.
func (f *fate) translations() (all []Translation) {
	for t := f.last; t != nil; t = t.earlier {
		all = append(all, *t)
	}
	slices.Reverse(all)
	return all
}

// stopped reports whether the packet was dropped or rejected.
func (e *end) stopped() bool { return e.verdict == Dropped || e.verdict == Rejected }

// stage is a base chain, or work of the kernel's, in the order of priorities.
type stage struct {
	order, inner int
	chain        *ruleset.Chain
	work         func(f *fate)
}

// pass has the packet pass a hook.
func (m *machine) pass(fates []fate) []fate {
	stages := m.stages(m.query)
	for i := range fates {
		fates[i].nat = false
		if f := m.hook.Frame; f != nil {
			p := &fates[i].packet
			p.SrcMAC, p.DstMAC, p.Cast = f.Src, f.Dst, f.Cast
		}
	}
	if m.begins() {
		m.tracked = false
	}
	for _, s := range stages {
		if s.work != nil {
			for i := range fates {
				s.work(&fates[i])
			}
			continue
		}
		fates = m.baseChain(s.chain, fates)
	}
	return fates
}

// stages are what happens at the hook.
func (m *machine) stages(q *Query) []stage {
	var all []stage
	for _, t := range q.Rules.Tables {
		for _, c := range t.Chains {
			if c.Hook == "" || !m.on(c, &q.Packet) {
				continue
			}
			s := stage{order: c.Priority, inner: c.Priority, chain: c}
			if c.Type == "nat" {
				if s.order = srcnatPriority; c.Hook == "prerouting" || c.Hook == "output" {
					s.order = dstnatPriority
				}
			}
			all = append(all, s)
		}
	}
	if m.begins() {
		all = append(all, stage{order: trackingPriority, inner: math.MinInt, work: func(*fate) { m.tracked = true }})
		all = append(all, stage{order: dstnatPriority, inner: math.MinInt, work: restore(q)})
	}
	slices.SortStableFunc(all, func(a, b stage) int { return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.inner, b.inner)) })
	return all
}

// begins reports whether conntrack meets packets at the hook.
func (m *machine) begins() bool {
	return m.hook.Layer == IP && !m.hook.Looped && (m.hook.Name == "prerouting" || m.hook.Name == "output")
}

// restore takes back the translation of a reply's destination.
func restore(q *Query) func(f *fate) {
	return func(f *fate) {
		if q.Packet.Connection.Restored.IsValid() && f.packet.Connection.State != StateUntracked {
			f.packet.Dst, f.packet.DstPort = q.Packet.Dst, q.Packet.DstPort
		}
	}
}

// on reports whether a base chain is asked at the hook.
func (m *machine) on(c *ruleset.Chain, p *Packet) bool {
	if c.Hook != m.hook.Name {
		return false
	}
	switch m.hook.Layer {
	case Device:
		device := m.hook.In
		if c.Hook == "egress" {
			device = m.hook.Out
		}
		return (c.Table.Family == "netdev" || c.Table.Family == "inet") && slices.Contains(c.Devices, device)
	case Bridge:
		return c.Table.Family == "bridge"
	case ARP:
		return c.Table.Family == "arp"
	}
	if c.Type == "nat" && (p.Connection.State != StateNew || m.hook.Looped) {
		return false // nat is asked for the first packet of a connection alone
	}
	return c.Table.Family == "inet" && len(c.Devices) == 0 || c.Table.Family == p.family()
}

// baseChain carries out a base chain, and returns what it lets pass.
func (m *machine) baseChain(c *ruleset.Chain, fates []fate) []fate {
	m.base, m.table = c, c.Table
	var passed, asked []fate
	for _, f := range fates {
		if c.Type == "nat" && (f.nat || f.packet.Connection.State != StateNew) {
			passed = append(passed, f)
		} else {
			asked = append(asked, f)
		}
	}
	accepted, through, returned := m.chain(c, asked)
	through = append(through, returned...)
	if c.Drops {
		for _, f := range through {
			m.finish(f, Dropped, c, nil)
		}
		through = nil
	}
	return merge(slices.Concat(passed, accepted, through), m)
}

// chain carries out a chain: what it accepts, what comes to its end, and what returned
// from it.
func (m *machine) chain(c *ruleset.Chain, fates []fate) (accepted, through, returned []fate) {
	if m.depth++; m.depth > maxDepth {
		for _, f := range fates {
			m.finish(f, Unknown, c, nil)
		}
		fates = nil
	}
	defer func() { m.depth-- }()
	w := walk{machine: m, chain: c}
	w.narrow(fates)
	for r := w.next(); r != nil && len(fates) > 0; r = w.next() {
		if m.rules += len(fates); m.rules > maxRules {
			m.finish(fates[0], Unknown, c, r)
			return accepted, nil, returned
		}
		if m.skips(r, fates) {
			continue
		}
		var next []fate
		for _, f := range fates {
			for _, o := range m.rule(r, f) {
				switch o.verdict.Name {
				case "":
					next = append(next, o.fate)
				case "accept":
					accepted = append(accepted, m.note(r, o.fate))
				case "return":
					returned = append(returned, o.fate)
				default:
					a, back, ended := m.follow(r, o)
					accepted, next, returned = append(accepted, a...), append(next, back...), append(returned, ended...)
				}
			}
		}
		fates = merge(next, m)
		w.narrow(fates) // the rule may have changed them
	}
	return merge(accepted, m), fates, merge(returned, m)
}

// note notes the rule by which a fate is accepted.
func (m *machine) note(r *ruleset.Rule, f fate) fate {
	f.accepts = &accept{Accept{r, m.base, m.hook, f.element}, f.accepts}
	return f
}

// skips reports whether no fate gets beyond a rule's first match, as it is with most.
func (m *machine) skips(r *ruleset.Rule, fates []fate) bool {
	if len(r.Statements) == 0 {
		return true
	}
	s := &r.Statements[0]
	if s.Kind != ruleset.Match {
		return false
	}
	for i := range fates {
		if m.matches(&fates[i].packet, s) != no {
			return false
		}
	}
	return true
}

// follow carries out a verdict that leads elsewhere: back are the fates that go on
// behind the rule, ended those that come back to the chain's caller.
func (m *machine) follow(r *ruleset.Rule, o outcome) (accepted, back, ended []fate) {
	switch o.verdict.Name {
	case "drop":
		m.finish(o.fate, Dropped, r.Chain, r)
	case "reject":
		m.finish(o.fate, Rejected, r.Chain, r)
	case "jump", "goto":
		to := m.table.Chain(o.verdict.Target)
		if to == nil {
			m.finish(o.fate, Unknown, r.Chain, r)
			return nil, nil, nil
		}
		a, through, returned := m.chain(to, []fate{o.fate})
		through = append(through, returned...)
		if o.verdict.Name == "goto" {
			return a, nil, through
		}
		return a, through, nil
	case "continue":
		return nil, []fate{o.fate}, nil
	default:
		m.finish(o.fate, Unknown, r.Chain, r)
	}
	return nil, nil, nil
}

// merge makes one of equal fates, among them one that depends on nothing unknown if
// there is one. Too many end as unknown.
func merge(fates []fate, m *machine) []fate {
	var out []fate
	for _, f := range fates {
		i := slices.IndexFunc(out, func(o fate) bool { return o.packet == f.packet && o.nat == f.nat })
		switch {
		case i < 0:
			out = append(out, f)
		case f.why == nil:
			out[i].why = nil
		}
	}
	if len(out) > maxFates {
		m.finish(out[0], Unknown, m.base, nil)
		return nil
	}
	return out
}

// translate changes a packet as a translation says. It reports false where a map leads
// nowhere.
func (m *machine) translate(r *ruleset.Rule, f *fate, s *ruleset.Statement) bool {
	p := &f.packet
	before := p.ends()
	addr, port := &p.Dst, &p.DstPort
	source := s.Verdict.Name == "snat" || s.Verdict.Name == "masquerade"
	if source {
		addr, port = &p.Src, &p.SrcPort
	}
	if !m.rewrite(p, s, addr, port) {
		return false
	}
	switch s.Verdict.Name {
	case "redirect":
		if m.hook.Name == "output" {
			p.Dst = netip.Addr{}
		} else if !m.host.owns(p.Dst) {
			p.Dst = m.host.of(m.hook.In, p.v6())
		}
	case "masquerade":
		p.Src = m.masquerade(p)
	}
	bit := uint8(StatusDNAT)
	if source {
		bit = StatusSNAT
	}
	p.Connection.Status |= bit
	f.nat = true
	f.last = &Translation{Rule: r, Base: m.base, Hook: m.hook, Element: f.element, Before: before, After: p.ends(), earlier: f.last}
	return true
}

// rewrite gives the packet the address and the port of a translation that says them.
func (m *machine) rewrite(p *Packet, s *ruleset.Statement, addr *netip.Addr, port *uint16) bool {
	toPort := *port
	if s.Port != nil {
		v, k := m.value(p, s.Port)
		switch {
		case s.Port.Op == "range" && keeps(s, *port): // the kernel does, unless another connection has it
		case k != certain:
			toPort = 0
		default:
			toPort = uint16(v.Lo)
		}
	}
	if s.Addr != nil {
		all, k := m.targets(p, s.Addr)
		switch {
		case k == absent:
			return false
		case k == unclear || all[0].Text != "":
			*addr = netip.Addr{}
		default:
			*addr = all[0].Address(p.v6())
		}
		switch {
		case len(all) > 1:
			toPort = uint16(all[1].Lo)
		case k == unclear && s.Addr.Op == "map": // which may lead to ports
			toPort = 0
		}
	}
	*port = toPort
	return true
}

// keeps reports whether a translation of sources leaves a port as it is.
func keeps(s *ruleset.Statement, port uint16) bool {
	if s.Verdict.Name != "snat" && s.Verdict.Name != "masquerade" {
		return false
	}
	low, high := s.Port.Args[0].Value, s.Port.Args[1].Value
	return uint64(port) >= low.Lo && uint64(port) <= high.Lo
}

// targets are where a translation leads: an address, and behind it a port if a map says so.
func (m *machine) targets(p *Packet, e *ruleset.Expr) ([]ruleset.Value, known) {
	if e.Op != "map" {
		v, k := m.value(p, e)
		return []ruleset.Value{v}, k
	}
	element, is := m.element(p, &e.Args[0], e.Set)
	switch {
	case is == maybe || is == yes && len(element.Value) == 0:
		return nil, unclear
	case is == no:
		return nil, absent
	}
	return element.Value, certain
}

// masquerade is the source that a packet gets where it leaves, invalid if it is not known.
func (m *machine) masquerade(p *Packet) netip.Addr {
	if m.query.Source == nil {
		return netip.Addr{}
	}
	return m.query.Source(*p, m.hook.Out)
}

// of is an address of the host on a link, as far as routes tell.
func (h *Host) of(link string, v6 bool) netip.Addr {
	for _, p := range h.Addresses {
		if p.Addr().Is6() == v6 && slices.Contains(h.Routes, Route{p.Masked(), link}) {
			return p.Addr()
		}
	}
	return netip.Addr{}
}
