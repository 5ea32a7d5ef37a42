package nft

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// share is what one network has in a family's table.
type share struct {
	elements []element
	sections []section
}

// render is the pure function from a network's rules to what it has in the tables. A
// rule that it knows no element for is an error. What accepts packets to and from this
// host is left out: in a table of its own that would keep nobody else from dropping them.
// So is the filling in of checksums: what vnetd sends by DHCP needs none.
func render(comment string, rules []firewall.Rule) (map[firewall.Family]*share, error) {
	shares := map[firewall.Family]*share{}
	for f, is := range families {
		r := renderer{ipFamily: is, comment: comment, keys: map[[3]string]bool{}, ports: map[subnetOut]firewall.PortRange{}}
		for _, rule := range rules {
			if rule.Family != f {
				continue
			}
			if err := r.add(rule); err != nil {
				return nil, err
			}
		}
		r.complete()
		if len(r.elements) > 0 {
			shares[f] = &share{elements: disjoint(r.elements), sections: append([]section{is.fixed(sectionFilter)}, r.sections...)}
		}
	}
	return shares, nil
}

// renderer collects the share of one network in one family.
type renderer struct {
	ipFamily
	comment string

	elements []element
	keys     map[[3]string]bool // sets and keys of elements
	sections []section
	guards   []firewall.Rule                  // those that ask the network from which a packet comes first
	into     own                              // of what is forwarded into the bridge
	outof    own                              // of what is forwarded out of it
	ports    map[subnetOut]firewall.PortRange // of translated sources
	asked    firewall.Rule                    // of the path Admission, the last one that asks a network
}

// own is one of a network's chains by which its mode is kept: what decides for most packets
// stands in it, in the order of its parts.
type own struct {
	bridge                 string
	within, admitted, mode []step
	led, ledAsked, ledDev  bool // what was led to guests is looked up in these sets
}

// step is a clause, with the rule for which it stands and is counted, if it is.
type step struct {
	clause
	of firewall.Rule
}

// subnetOut is a subnet whose sources are translated where packets leave by a device.
type subnetOut struct {
	source netip.Prefix
	out    string
}

// add renders the next rule.
func (r *renderer) add(rule firewall.Rule) error {
	switch rule.Path {
	case firewall.FromHost, firewall.Completion, firewall.Open:
	case firewall.ToHost:
		if rule.Verdict == firewall.Reject {
			r.need(sectionLooping)
			r.put(element{set: setLooping}.at(device(rule.In)))
		}
	case firewall.Within:
		r.within(rule)
	case firewall.Inbound:
		r.inbound(rule)
	case firewall.Outbound:
		r.outbound(rule)
	case firewall.Translation:
		r.translation(rule)
	case firewall.Redirection:
		r.redirected(rule)
	case firewall.Departure:
		r.lead(rule, setDeparting)
	case firewall.Leaving:
		r.judged(rule, mapLeaving, rule.In)
	case firewall.Entering:
		r.judged(rule, mapEntering, rule.Out)
	case firewall.Asking:
		r.judged(rule, mapAsking, rule.In)
	case firewall.Admission:
		r.admission(rule)
	case firewall.Exemption:
		r.judged(rule, mapExempt, rule.Out)
	default:
		return fmt.Errorf("a rule of path %d can't be written into nftables", rule.Path)
	}
	return nil
}

// within renders a rule of what guests of one network send each other: the first one decides.
func (r *renderer) within(rule firewall.Rule) {
	if len(r.into.within) == 0 {
		r.into.within = []step{{clause: both(ofDevice("iifname", iifname, rule.In), verdict(fate(rule)))}}
	}
}

// redirected renders a rule of what comes to this host and goes elsewhere.
func (r *renderer) redirected(rule firewall.Rule) {
	if rule.Verdict == firewall.Lead {
		r.lead(rule, setArriving)
		return
	}
	r.need(sectionRedirection)
	e := element{set: setRedirection, value: value(rule.Ports.Start), said: service(rule.Ports.Start).text}
	r.put(e.at(device(rule.In), subnet(rule.Destination), transport(rule.Protocol), service(rule.Port)))
}

// fate is the verdict of a rule that accepts or rejects.
func fate(rule firewall.Rule) string {
	if rule.Verdict == firewall.Reject {
		return chainRejected
	}
	return accepted
}

// put adds an element, unless an earlier rule has the key: the first one decides.
func (r *renderer) put(e element) {
	if e.set != setPeered { // which two networks may have alike
		e.comment = r.comment
	}
	key := [3]string{e.set, e.from, e.to}
	if !r.keys[key] {
		r.keys[key] = true
		r.elements = append(r.elements, e)
	}
}

// need has one of the fixed sections be there.
func (r *renderer) need(name string) {
	if !r.has(name) {
		r.sections = append(r.sections, r.fixed(name))
	}
}

// has reports whether a section is there.
func (r *renderer) has(name string) bool {
	return slices.ContainsFunc(r.sections, func(o section) bool { return o.name == name })
}

// inbound renders a rule of what is forwarded into the bridge. What no rule accepts is
// rejected, as the bridge is one of ours.
func (r *renderer) inbound(rule firewall.Rule) {
	switch {
	case rule.Led && rule.Verdict == firewall.Accept:
		r.arrived(rule)
	case rule.Led: // asked by arrived
	case rule.Verdict == firewall.AskOutbound:
		r.guards = append(r.guards, rule)
	case rule.Verdict == firewall.Reject:
		r.into.bridge = rule.Out
	default:
		r.into.mode = append(r.into.mode, step{clause: both(r.match(rule, rule.Out), r.entry(rule))})
	}
}

// entry is the verdict of an accepting rule of what is forwarded into the bridge.
func (r *renderer) entry(rule firewall.Rule) clause {
	asked := slices.ContainsFunc(r.guards, func(g firewall.Rule) bool {
		return g.Destination == rule.Destination && g.Replies == rule.Replies && rule.In == ""
	})
	if asked {
		return back()
	}
	return verdict(accepted)
}

// outbound renders a rule of what is forwarded out of the bridge. What guests of an isolated
// network may open, and answer, is counted.
func (r *renderer) outbound(rule firewall.Rule) {
	if rule.Verdict == firewall.Reject {
		r.outof.bridge = rule.In
		return
	}
	plain := firewall.Rule{Family: rule.Family, Path: rule.Path, Source: rule.Source, In: rule.In, Out: rule.Out}
	s := step{clause: both(r.match(rule, rule.In), verdict(accepted))}
	if rule != plain {
		s = step{both(r.match(rule, rule.In), r.outcome(rule)), rule}
	}
	r.outof.mode = append(r.outof.mode, s)
}

// complete puts the network's own chains together, to which its bridge leads.
func (r *renderer) complete() {
	if bridge := r.into.bridge; bridge != "" {
		r.put(element{set: setBridges}.at(device(bridge)))
		steps := append(r.into.within, step{clause: clause{rule{}.via(chainAnswered), "jump " + chainAnswered}})
		r.lay(mapInbound, bridge, slices.Concat(steps, r.into.admitted, r.led(), r.into.mode))
	}
	if bridge := r.outof.bridge; bridge != "" {
		r.lay(mapOutbound, bridge, r.outof.mode)
	}
}

// lay has a bridge lead to a chain of its network that rejects what no step accepts.
func (r *renderer) lay(name, bridge string, steps []step) {
	e := jump(name, chainOf(name, bridge))
	e.returns = name == mapInbound
	r.put(e.at(device(bridge)))
	for _, s := range append(steps, step{clause: verdict(chainRejected)}) {
		r.step(name, bridge, s)
	}
}

// led are the steps that look up what was led to guests: of a network with a device of the
// LAN, what comes from other networks is asked for, and nothing else comes but by that.
func (r *renderer) led() (steps []step) {
	for _, c := range []struct {
		there bool
		clause
	}{
		{r.into.led, both(r.ledBy(setLed), back())},
		{r.into.ledAsked, both(coming(), both(r.ledBy(setLedAsked), back()))},
		{r.into.ledDev, both(r.ledBy(setLedDev, iifname), verdict(accepted))},
	} {
		if c.there {
			steps = append(steps, step{clause: c.clause})
		}
	}
	return steps
}

// translation renders a rule of what becomes of sources. What is sent to a group of the
// link keeps its own in all networks alike, and as one set has what stays in a subnet,
// there is nothing to render for that.
func (r *renderer) translation(rule firewall.Rule) {
	if rule.Led {
		r.hairpin(rule)
		return
	}
	r.need(sectionTranslation)
	where := subnetOut{rule.Source, rule.Out}
	switch {
	case rule.Verdict == firewall.Keep:
	case rule.Protocol != "":
		r.ports[where] = rule.Ports
	default:
		t := treatment{addrs: rule.Addrs, ports: r.ports[where]}
		if name := t.name(); !r.has(name) {
			r.sections = append(r.sections, t.section(r.ipFamily))
		}
		bits := rule.Source.Bits()
		suffix, source := strconv.Itoa(bits), network(rule.Source)
		r.need(byLength(bits))
		r.put(element{set: setKept + suffix}.at(source, source))
		if rule.Out == "" {
			r.put(jump(setTranslation+suffix, t.name()).at(source))
		} else {
			r.need(byLength(bits) + "-dev")
			r.put(jump(setTranslationDev+suffix, t.name()).at(source, device(rule.Out)))
		}
	}
}

// disjoint leaves out elements whose keys are all within another's of the same set: the
// kernel refuses intervals that overlap.
func disjoint(all []element) []element {
	sets := map[string][]element{}
	for _, e := range all {
		if e.to != "" {
			sets[e.set] = append(sets[e.set], e)
		}
	}
	found := make(map[string]intervals, len(sets))
	for name, elements := range sets {
		found[name] = newIntervals(elements)
	}
	return slices.DeleteFunc(slices.Clone(all), func(e element) bool { return e.to != "" && found[e.set].cover(e) })
}

// intervals are the elements of one set, among which few are compared with each other: they
// are told apart by a part of their keys, such as the port where each forward has another.
type intervals struct {
	at     int       // of that part
	sorted []element // by the first key there
	last   []string  // the highest key there of those up to each
}

// partSize is that of the parts of keys, in bytes.
const partSize = 4

func newIntervals(elements []element) intervals {
	s := intervals{at: partOf(elements), sorted: slices.Clone(elements), last: make([]string, len(elements))}
	slices.SortStableFunc(s.sorted, func(a, b element) int { return strings.Compare(s.part(a.from), s.part(b.from)) })
	for i, e := range s.sorted {
		s.last[i] = s.part(e.to)
		if i > 0 {
			s.last[i] = max(s.last[i], s.last[i-1])
		}
	}
	return s
}

// partOf is where the keys of elements differ most.
func partOf(elements []element) (at int) {
	best := 0
	for i := 0; i+partSize <= len(elements[0].from); i += partSize {
		differ := make(map[string]bool)
		for _, e := range elements {
			if i+partSize <= len(e.from) {
				differ[e.from[i:i+partSize]] = true
			}
		}
		if len(differ) > best {
			at, best = i, len(differ)
		}
	}
	return at
}

// part is the part of a key, empty where it is too short.
func (s *intervals) part(key string) string {
	return key[min(s.at, len(key)):min(s.at+partSize, len(key))]
}

// cover reports whether another element covers e.
func (s intervals) cover(e element) bool {
	from, to := s.part(e.from), s.part(e.to)
	beyond, _ := slices.BinarySearchFunc(s.sorted, from, func(o element, from string) int {
		if s.part(o.from) <= from {
			return -1
		}
		return 1
	})
	for i := beyond - 1; i >= 0 && s.last[i] >= to; i-- {
		if o := s.sorted[i]; o != e && covers(o, e) {
			return true
		}
	}
	return false
}

// covers reports whether each field of one key is within that of another. Fields are
// compared by bytes: a prefix or a name is one block of them.
func covers(o, e element) bool {
	for i := range len(e.from) {
		if len(o.from) != len(e.from) || o.from[i] > e.from[i] || o.to[i] < e.to[i] {
			return false
		}
	}
	return true
}

// lead renders a rule that leads packets to a guest.
func (r *renderer) lead(rule firewall.Rule, set string) {
	r.need(sectionForwards)
	to := []part{r.anywhere()}
	switch {
	case rule.Elsewhere:
		to = r.besides(rule.Destination)
	case rule.Destination.IsValid():
		to = []part{subnet(rule.Destination)}
	}
	if rule.Local {
		set += localSuffix
	}
	from := r.anywhere()
	if rule.Source.IsValid() {
		from = subnet(rule.Source)
	}
	guest := rule.Addrs.Start
	for _, at := range to {
		if rule.Ports == (firewall.PortRange{}) {
			e := element{set: set, value: string(guest.AsSlice()), said: guest.String()}
			r.put(e.within(from, at, transport(rule.Protocol), portsOf(rule)))
			continue
		}
		for i := range rule.Ports.End - rule.Ports.Start + 1 {
			d := service(rule.Ports.Start + i)
			e := element{set: set + portSuffix, value: string(guest.AsSlice()) + d.from, said: guest.String() + " . " + d.text}
			r.put(e.within(from, at, transport(rule.Protocol), service(rule.Port+i)))
		}
	}
}

// portsOf are the ports of a rule.
func portsOf(rule firewall.Rule) part {
	first, last := service(rule.Port), service(max(rule.Port, rule.PortEnd))
	if first == last {
		return first
	}
	return part{first.from, last.to, first.text + "-" + last.text}
}

// anywhere is all addresses of the family.
func (f ipFamily) anywhere() part {
	if f.family == firewall.IPv4 {
		return subnet(netip.PrefixFrom(netip.IPv4Unspecified(), 0))
	}
	return subnet(netip.PrefixFrom(netip.IPv6Unspecified(), 0))
}

// besides are all addresses but those of a prefix.
func (f ipFamily) besides(p netip.Prefix) (all []part) {
	whole := f.anywhere()
	between := func(from, to netip.Addr) {
		text := from.String()
		if to != from {
			text += "-" + to.String()
		}
		all = append(all, part{string(from.AsSlice()), string(to.AsSlice()), text})
	}
	lowest, _ := netip.AddrFromSlice([]byte(whole.from))
	highest, _ := netip.AddrFromSlice([]byte(whole.to))
	if below := p.Masked().Addr().Prev(); below.IsValid() {
		between(lowest, below)
	}
	if above := last(p).Next(); above.IsValid() {
		between(above, highest)
	}
	return all
}

// arrived renders a rule that accepts what was led to a guest, after the network from
// which it comes was asked, if it is one.
func (r *renderer) arrived(rule firewall.Rule) {
	r.need(sectionForwards)
	key := []part{subnet(rule.Destination), device(rule.Out), transport(rule.Protocol), portsOf(rule)}
	if rule.In == "" {
		r.into.led = true
		r.put(element{set: setLed}.within(key...))
		return
	}
	r.into.ledAsked, r.into.ledDev = true, true
	r.put(element{set: setLedAsked}.within(key...))
	r.put(element{set: setLedDev}.within(append(key, device(rule.In))...))
}

// hairpin renders a rule that has a guest answer this host.
func (r *renderer) hairpin(rule firewall.Rule) {
	r.need(sectionHairpins)
	to := r.anywhere()
	if rule.Destination.IsValid() {
		to = subnet(rule.Destination)
	}
	r.put(element{set: setHairpins}.within(subnet(rule.Source), to, device(rule.Out)))
}

// chainOf is the name of a network's own chain, by its bridge. What nft(8) does not read in
// names of chains is written as its number, behind a character that no bridge has.
func chainOf(name, bridge string) string {
	b := []byte(name + "_")
	for _, c := range []byte(bridge) {
		if c == '-' || c == '_' || c == '.' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
			b = append(b, c)
		} else {
			b = fmt.Appendf(b, "/%02x", c)
		}
	}
	return string(b)
}

// step adds to a network's own chain.
func (r *renderer) step(name, bridge string, next step) {
	chain := chainOf(name, bridge)
	for i := range r.sections {
		if s := &r.sections[i]; s.name == chain {
			s.chains[0].clauses, s.of = append(s.chains[0].clauses, next.clause), append(s.of, next.of)
			return
		}
	}
	r.sections = append(r.sections, section{name: chain, own: true, of: []firewall.Rule{next.of}, chains: []stage{{name: chain, clauses: []clause{next.clause}}}})
}

// judged renders a rule of a network's own chain of the name of the map that leads there.
// bridge is the one by which the chain is found, and needs no match.
func (r *renderer) judged(rule firewall.Rule, name, bridge string) {
	r.need(name)
	r.put(jump(name, chainOf(name, bridge)).at(device(bridge)))
	r.step(name, bridge, step{both(r.match(rule, bridge), r.outcome(rule)), rule})
}

// admission renders a rule of what may be opened to guests beside the mode: answers of
// peers by the set of all, others in the network's own chain. What is accepted after a
// network was asked needs no second rule: what comes from elsewhere is accepted then.
func (r *renderer) admission(rule firewall.Rule) {
	if rule.Replies {
		r.need(sectionPeers)
		r.put(element{set: setPeered}.within(subnet(rule.Source), subnet(rule.Destination), device(rule.In), device(rule.Out)))
		return
	}
	asked := rule
	asked.Verdict = firewall.AskOutbound
	switch {
	case rule.Verdict == firewall.AskOutbound:
		r.asked = rule
	case asked == r.asked:
		return
	}
	r.into.admitted = append(r.into.admitted, step{both(r.match(rule, rule.Out), r.outcome(rule)), rule})
}

// match is what a rule matches, but for a bridge that is known.
func (r *renderer) match(rule firewall.Rule, bridge string) (c clause) {
	add := func(when bool, more clause) {
		if when {
			c = both(c, more)
		}
	}
	add(rule.In != "" && rule.In != bridge || rule.In == rule.Out && rule.In != "", ofDevice("iifname", iifname, rule.In))
	add(rule.Out != "" && rule.Out != bridge || rule.In == rule.Out && rule.In != "", ofDevice("oifname", oifname, rule.Out))
	if rule.Source.IsValid() {
		c = both(c, inPrefix(r.name+" saddr", r.source, rule.Source))
	}
	if rule.Destination.IsValid() {
		c = both(c, inPrefix(r.name+" daddr", r.dest, rule.Destination))
	}
	add(rule.Sender != firewall.MAC{}, clause{
		and(is(iiftype, binaryutil.NativeEndian.PutUint16(unix.ARPHRD_ETHER)...), is(etherSource, rule.Sender[:]...)),
		"ether saddr " + rule.Sender.String(),
	})
	c = both(c, r.transported(rule))
	add(rule.Replies, reply())
	return c
}

// iiftype is the type of the device by which a packet comes.
var iiftype = meta(expr.MetaKeyIIFTYPE, 2)

// ofDevice matches a device.
func ofDevice(text string, k key, name string) clause {
	return clause{is(k, []byte(device(name).from)...), text + " " + strconv.Quote(name)}
}

// transported matches a rule's protocol, ports, or type.
func (r *renderer) transported(of firewall.Rule) clause {
	number, name := protocols[of.Protocol], of.Protocol
	switch {
	case of.Protocol == "":
		return clause{}
	case of.Protocol == "icmp" && r.family == firewall.IPv6:
		number, name = unix.IPPROTO_ICMPV6, "ipv6-icmp"
	case of.Protocol == "icmp":
		number = unix.IPPROTO_ICMP
	}
	c := clause{is(l4, number), "meta l4proto " + name}
	switch first, last := of.Port, max(of.Port, of.PortEnd); {
	case of.Type != 0:
		c = clause{and(c.rule, is(icmpType, of.Type)), "icmpv6 type " + typeNames[of.Type]}
	case first == 0:
	case first == last:
		c = clause{and(c.rule, is(destPort, uint16be(first)...)), name + " dport " + strconv.Itoa(int(first))}
	default:
		to := &expr.Range{Op: expr.CmpOpEq, Register: reg, FromData: uint16be(first), ToData: uint16be(last)}
		c = clause{and(c.rule, append(keys(destPort), to)), name + " dport " + strconv.Itoa(int(first)) + "-" + strconv.Itoa(int(last))}
	}
	return c
}

// typeNames are what nft(8) calls types of ICMPv6.
var typeNames = map[uint8]string{133: "nd-router-solicit", 135: "nd-neighbor-solicit", 136: "nd-neighbor-advert"}

// How many packets one rule has the kernel log, at most.
const (
	logRate  = 5 // each second
	logBurst = 20
)

// outcome is what becomes of what a rule matches, which is counted.
func (r *renderer) outcome(of firewall.Rule) clause {
	counted := clause{rule{&expr.Counter{}}, "counter"}
	switch of.Verdict {
	case firewall.Log:
		return clause{rule{
			&expr.Limit{Type: expr.LimitTypePkts, Rate: logRate, Unit: expr.LimitTimeSecond, Burst: logBurst},
			&expr.Counter{},
			&expr.Log{Key: 1 << unix.NFTA_LOG_PREFIX, Data: []byte(of.Prefix)},
		}, "limit rate 5/second burst 20 packets counter log prefix " + strconv.Quote(of.Prefix)}
	case firewall.Pass:
		return both(counted, back())
	case firewall.Drop:
		return both(counted, clause{rule{}.drop(), "drop"})
	case firewall.Reject:
		return both(counted, clause{r.reject(), "reject"})
	case firewall.Reset:
		return both(counted, clause{rule{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}, "reject with tcp reset"})
	case firewall.AskOutbound:
		return both(counted, back())
	case firewall.Keep:
		keep := append(keys(r.source), &expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(r.number), RegAddrMin: reg})
		return both(counted, clause{keep, "snat to " + r.ipFamily.name + " saddr"})
	}
	return both(counted, verdict(accepted))
}
