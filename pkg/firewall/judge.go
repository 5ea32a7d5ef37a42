package firewall

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"unicode"
)

// judge says what becomes of connections of one network, of one family, by its peers and
// its policy.
type judge struct {
	network Network
	family  Family
}

// policy is the network's.
func (j *judge) policy() *Policy { return &j.network.Policy }

// policyRules are the rules of the network's peers and of its policy, but for those of
// the paths that networks without have as well.
//
// What is refused is refused before anything accepts it, and only as it begins: packets
// of connections that were let through, answers and errors of ICMP among them, are asked
// for nothing any more. So the rules that accept need not be in the order of the policy's:
// what reaches them and fits one that allows has met no other before that.
func (n Network) policyRules() (rules []Rule) {
	if !n.judges() {
		return nil
	}
	for _, f := range []Family{IPv4, IPv6} {
		if j := (&judge{n, f}); f == IPv4 || n.speaksIPv6() {
			rules = slices.Concat(rules, j.leaving(), j.asking(), j.entering(), j.admissions(), j.exemptions())
		}
	}
	return onceEach(rules)
}

// judges reports whether the network has peers, or says more of connections than its mode.
func (n Network) judges() bool {
	return len(n.Peers) > 0 || len(n.Policy.Rules) > 0 || n.Policy.Egress != "" || n.Policy.Ingress != ""
}

// passes reports whether any connection leads in or out of the bridge by the rules of the
// paths Inbound and Outbound.
func (n Network) passes(f Family) bool {
	return n.Mode != ModeIsolated || n.Policy.allows(Egress, f) || n.Policy.allows(Ingress, f)
}

// fallback is what becomes of connections that no rule fits.
func (p *Policy) fallback(d Direction) Action {
	if d == Egress {
		return p.Egress
	}
	return p.Ingress
}

// allows reports whether the policy allows any connection of a direction.
func (p *Policy) allows(d Direction, f Family) bool {
	return p.fallback(d) == ActionAllow || slices.ContainsFunc(p.Rules, func(r PolicyRule) bool {
		return r.Direction == d && r.Action == ActionAllow && len(r.matches(f)) > 0
	})
}

// refuses reports whether the policy refuses any connection of a direction, or has some
// logged.
func (p *Policy) refuses(d Direction) bool {
	return refuses(p.fallback(d)) || slices.ContainsFunc(p.Rules, func(r PolicyRule) bool {
		return r.Direction == d && (refuses(r.Action) || r.Log)
	})
}

// Refuses reports whether the policy refuses any connection, or has some logged: its rules
// are in the kernel then, and count what they decide.
func (p *Policy) Refuses() bool { return p.refuses(Egress) || p.refuses(Ingress) }

func refuses(a Action) bool { return a == ActionReject || a == ActionDrop }

// verdicts are what actions are where connections are refused.
var verdicts = map[Action]Verdict{ActionAllow: Pass, ActionReject: Reject, ActionDrop: Drop}

// decide are the rules by which an action decides about what m matches. Rejected connections
// of TCP are reset: a client of IPv6 that is told by ICMP tries again all the same, for a second
// and more.
func (a Action) decide(m Rule) []Rule {
	m.Verdict = verdicts[a]
	if a != ActionReject || m.Protocol != "" && m.Protocol != protocolTCP {
		return []Rule{m}
	}
	reset := m
	reset.Protocol, reset.Verdict = protocolTCP, Reset
	if m.Protocol == protocolTCP {
		return []Rule{reset}
	}
	return []Rule{reset, m}
}

// leaving refuses what guests open beyond the bridge.
func (j *judge) leaving() []Rule {
	if !j.policy().refuses(Egress) {
		return nil
	}
	return j.forwarded(Rule{Family: j.family, Path: Leaving, In: j.network.Bridge}, Egress)
}

// neighbourTypes are messages of ICMPv6 by which guests find this host and keep their
// addresses: solicitations of routers and neighbours, and advertisements of neighbours
// (RFC 4861).
var neighbourTypes = []uint8{133, 135, 136}

// asking refuses what guests open to this host, but for what they need of it: by the bridge, and by the link
// by which this host itself is in the network.
func (j *judge) asking() (rules []Rule) {
	if !j.policy().refuses(Egress) {
		return nil
	}
	for _, link := range linksOf(&j.network) {
		rules = append(rules, j.askingBy(link)...)
	}
	return rules
}

// askingBy is asking of what comes by one link.
func (j *judge) askingBy(link string) []Rule {
	r := Rule{Family: j.family, Path: Asking, In: link}
	known := r
	known.Replies, known.Verdict = true, Pass
	rules := []Rule{known}
	requests, _ := j.network.services(j.family)
	for _, s := range requests {
		if s.Path, s.Verdict = Asking, Pass; s.In == link { // it is served by the bridge alone
			rules = append(rules, s)
		}
	}
	if j.family == IPv6 {
		for _, kind := range neighbourTypes {
			needed := r
			needed.Protocol, needed.Type, needed.Verdict = protocolICMP, kind, Pass
			rules = append(rules, needed)
		}
	}
	return append(rules, j.decisions(r, Egress)...)
}

// entering refuses what others open to guests.
func (j *judge) entering() []Rule {
	if !j.policy().refuses(Ingress) {
		return nil
	}
	return j.forwarded(Rule{Family: j.family, Path: Entering, Out: j.network.Bridge}, Ingress)
}

// forwarded decides about what r matches, but for what stays on the bridge, and what belongs to
// a connection that was let through.
func (j *judge) forwarded(r Rule, d Direction) []Rule {
	within, known := r, r
	within.In, within.Out, within.Verdict = j.network.Bridge, j.network.Bridge, Pass
	known.Replies, known.Verdict = true, Pass
	return append([]Rule{within, known}, j.decisions(r, d)...)
}

// decisions are the policy's rules of a direction, where connections that they allow pass,
// and what becomes of all others. base has what all of them match.
func (j *judge) decisions(base Rule, d Direction) (rules []Rule) {
	for _, p := range j.policy().Rules {
		if p.Direction != d {
			continue
		}
		for _, m := range p.matches(base.Family) {
			m.Path, m.In, m.Out = base.Path, base.In, base.Out
			if p.Log {
				logged := m
				logged.Verdict, logged.Prefix = Log, logPrefix(j.network.Label(), p.Label)
				rules = append(rules, logged)
			}
			rules = append(rules, p.Action.decide(m)...)
		}
	}
	if fallback := j.policy().fallback(d); refuses(fallback) {
		rules = append(rules, fallback.decide(base)...)
	}
	return rules
}

// logSize is how long the kernel's target LOG has a prefix be, in bytes, without the NUL
// (linux/netfilter/xt_LOG.h).
const logSize = 29

// logPrefix is what stands before a packet in the kernel's log: "vnetd NETWORK/LABEL: ",
// without what the programs of the firewall would read as something else.
func logPrefix(network, label string) string {
	const intro, end = "vnetd ", ": "
	clean := func(s string, size int) string {
		s = strings.Map(func(r rune) rune {
			if r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("-._:", r)) {
				return r
			}
			return '_'
		}, s)
		return s[:min(len(s), size)]
	}
	room := logSize - len(intro) - len(end) - len("/")
	label = clean(label, room/2)
	return intro + clean(network, room-len(label)) + "/" + label + end
}

// matches are what a rule fits in one family, each as a Rule of which the path, devices
// and the verdict are still to be said. Nothing of the family: none.
func (p *PolicyRule) matches(f Family) (rules []Rule) {
	for _, guest := range p.guests(f) {
		for _, remote := range ofFamily(p.Remote, f) {
			for _, m := range opened(p.Services) {
				m.Family, m.Sender = f, guest.sender
				if m.Destination = remote; p.Direction == Ingress {
					m.Source, m.Destination = remote, guest.address
				}
				rules = append(rules, m)
			}
		}
	}
	return rules
}

// end is by what a guest is known: invalid where it may be any.
type end struct {
	sender  MAC
	address netip.Prefix
}

// guests are by what the rule's guest is known, one zero value where it is for all.
func (p *PolicyRule) guests(f Family) (all []end) {
	switch {
	case p.Guest == nil:
		return []end{{}}
	case p.Direction == Egress:
		for _, mac := range p.Guest.MACs {
			all = append(all, end{sender: mac})
		}
		return all
	}
	for _, a := range p.Guest.Addrs {
		if a.Is4() == (f == IPv4) {
			all = append(all, end{address: netip.PrefixFrom(a, a.BitLen())})
		}
	}
	return all
}

// ofFamily are prefixes of a family, an invalid one for all addresses where none of either
// is named.
func ofFamily(all []netip.Prefix, f Family) (some []netip.Prefix) {
	if len(all) == 0 {
		return []netip.Prefix{{}}
	}
	for _, p := range all {
		switch {
		case p.Addr().Is4() != (f == IPv4):
		case p.Bits() == 0:
			return []netip.Prefix{{}}
		default:
			some = append(some, p.Masked())
		}
	}
	return some
}

// opened are services as matches, one that fits all where there are none.
func opened(services []Service) (all []Rule) {
	for _, s := range services {
		r := Rule{Protocol: s.Protocol, Port: s.Ports.Start}
		if s.Ports.End > s.Ports.Start {
			r.PortEnd = s.Ports.End
		}
		all = append(all, r)
	}
	if len(services) == 0 {
		return []Rule{{}}
	}
	return all
}

// admissions let in what the network's mode does not: what peers may open, with the
// answers, and what the policy allows others to open. Of others the networks from which
// they come are asked whether they may send at all; peers' are not.
func (j *judge) admissions() (rules []Rule) {
	n, f := &j.network, j.family
	j.eachPeer(func(p *Peer, theirs, ours netip.Prefix) {
		asked := Rule{Family: f, Path: Admission, In: p.Bridge, Source: theirs, Out: n.Bridge, Destination: ours}
		answered := Rule{
			Family: f, Path: Admission, In: n.Bridge, Source: ours, Out: p.Bridge, Destination: theirs,
			Replies: true, Side: Answerer,
		}
		known := asked
		known.Replies, known.Side = true, Opener
		rules = append(rules, known, answered) // first: what follows counts connections
		for _, r := range opened(p.Services) {
			r.Family, r.Path, r.In, r.Source, r.Out, r.Destination = f, asked.Path, asked.In, asked.Source, asked.Out, asked.Destination
			rules = append(rules, r)
		}
	})
	if !n.Closed(f) {
		return rules
	}
	for _, p := range j.policy().allowing(Ingress) {
		for _, m := range p.matches(f) {
			rules = append(rules, j.admit(m)...)
		}
	}
	return rules
}

// eachPeer calls do with every peer, for each of its subnets and of the network's own.
func (j *judge) eachPeer(do func(p *Peer, theirs, ours netip.Prefix)) {
	for i := range j.network.Peers {
		p := &j.network.Peers[i]
		if len(p.Subnets) == 0 {
			continue
		}
		for _, theirs := range ofFamily(p.Subnets, j.family) {
			for _, ours := range j.network.SubnetsOf(j.family) {
				do(p, theirs, ours)
			}
		}
	}
}

// allowing are the rules of a direction that allow, and one more where the policy allows
// what none fits.
func (p *Policy) allowing(d Direction) (all []PolicyRule) {
	for _, r := range p.Rules {
		if r.Direction == d && r.Action == ActionAllow {
			all = append(all, r)
		}
	}
	if p.fallback(d) == ActionAllow {
		all = append(all, PolicyRule{Direction: d, Action: ActionAllow})
	}
	return all
}

// admit lets in what m matches. Answers to what this network's guests opened are no matter of
// it: a peer that may send nothing else would be asked for them.
func (j *judge) admit(m Rule) (rules []Rule) {
	n := &j.network
	m.Path, m.Out, m.Side = Admission, n.Bridge, Opener
	to := []netip.Prefix{m.Destination}
	if !m.Destination.IsValid() {
		to = n.SubnetsOf(m.Family)
	}
	for _, m.Destination = range to {
		asked := m
		asked.Verdict = AskOutbound
		if m.In = n.Dev; n.Dev == "" {
			rules = append(rules, asked)
		}
		rules = append(rules, m)
	}
	return rules
}

// exceptions are what may leave the bridge of an isolated network: what its policy allows,
// answers and errors.
func (j *judge) exceptions() (rules []Rule) {
	n, f := &j.network, j.family
	if n.Mode != ModeIsolated || !n.passes(f) {
		return nil
	}
	for _, s := range n.SubnetsOf(f) {
		rules = append(rules, Rule{Family: f, Path: Outbound, Source: s, In: n.Bridge, Replies: true})
		for _, p := range n.Policy.allowing(Egress) {
			for _, m := range p.matches(f) {
				m.Path, m.Source, m.In = Outbound, s, n.Bridge
				rules = append(rules, m)
			}
		}
	}
	return onceEach(rules)
}

// exemptions have peers keep their addresses where their network is translated.
func (j *judge) exemptions() (rules []Rule) {
	j.eachPeer(func(p *Peer, theirs, ours netip.Prefix) {
		for _, r := range opened(p.Services) {
			r.Family, r.Path, r.Source, r.Destination, r.Out, r.Verdict = j.family, Exemption, theirs, ours, j.network.Bridge, Keep
			rules = append(rules, r)
		}
	})
	return rules
}

// onceEach leaves out what stands twice: the first one decides.
func onceEach(rules []Rule) []Rule {
	seen := make(map[Rule]bool, len(rules))
	return slices.DeleteFunc(rules, func(r Rule) bool {
		again := seen[r]
		seen[r] = true
		return again
	})
}

// decided are the rules that decide for one of the policy's.
func (n Network) decided(p *PolicyRule) (all []Rule) {
	for _, f := range []Family{IPv4, IPv6} {
		for _, m := range p.matches(f) {
			if p.Direction == Ingress {
				m.Path, m.Out = Entering, n.Bridge
				all = append(all, p.Action.decide(m)...)
				continue
			}
			m.Path, m.In = Leaving, n.Bridge
			all = append(all, p.Action.decide(m)...)
			for _, m.In = range linksOf(&n) {
				m.Path = Asking
				all = append(all, p.Action.decide(m)...)
			}
		}
	}
	return all
}

// Flow is a connection as guests see it.
type Flow struct {
	Protocol string // "tcp", "udp", "sctp", "icmp", or something else
	// Source opened it, and Destination is to whom it was opened: a guest where one of this
	// host's ports leads there.
	Source, Destination netip.Addr
	Port                uint16 // of Destination, 0 where the protocol has none
	Led                 bool   // the destination was rewritten
}

// family is that of the flow's addresses.
func (f *Flow) family() Family {
	if f.Source.Is4() {
		return IPv4
	}
	return IPv6
}

// fits reports whether the flow is to one of the services.
func (f *Flow) fits(services []Service) bool {
	return len(services) == 0 || slices.ContainsFunc(services, func(s Service) bool {
		last := max(s.Ports.Start, s.Ports.End)
		return (s.Protocol == "" || s.Protocol == f.Protocol) && (s.Ports == PortRange{} || f.Port >= s.Ports.Start && f.Port <= last)
	})
}

// fits reports whether the rule is about a flow in its direction. A guest is known by its
// addresses.
func (p *PolicyRule) fits(f *Flow) bool {
	guest, remote := f.Source, f.Destination
	if p.Direction == Ingress {
		guest, remote = remote, guest
	}
	return f.fits(p.Services) && (p.Guest == nil || slices.Contains(p.Guest.Addrs, guest)) &&
		(len(p.Remote) == 0 || contain(p.Remote, remote))
}

// contain reports whether one of the prefixes has an address.
func contain(all []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(all, func(p netip.Prefix) bool { return p.Masked().Contains(a) })
}

// stops reports whether the policy refuses a flow in one direction.
func (p *Policy) stops(d Direction, f *Flow) bool {
	for i := range p.Rules {
		if r := &p.Rules[i]; r.Direction == d && r.fits(f) {
			return refuses(r.Action)
		}
	}
	return refuses(p.fallback(d))
}

// Decides names what of the policy decides about a flow in a direction: the label of the first
// rule that fits, "default of" and the direction where none does, and nothing where it is left to the mode.
func (p *Policy) Decides(d Direction, f *Flow) string {
	for i := range p.Rules {
		if r := &p.Rules[i]; r.Direction == d && r.fits(f) {
			return r.Label
		}
	}
	if p.fallback(d) == "" {
		return ""
	}
	return "default of " + string(d)
}

// Opener names the peer that may open a flow to the network's guests, "" for none.
func (n *Network) Opener(f *Flow) string {
	for i := range n.Peers {
		if p := &n.Peers[i]; contain(p.Subnets, f.Source) && f.fits(p.Services) {
			return p.Name
		}
	}
	return ""
}

// lets reports whether the network lets a flow out, or in, by its mode or its policy.
func (j *judge) lets(d Direction, f *Flow) bool {
	n := &j.network
	switch {
	case n.Policy.stops(d, f):
		return false
	case n.Mode != ModeIsolated && (d == Egress || f.Led || !n.Closed(f.family())):
		return true
	}
	return slices.ContainsFunc(n.Policy.allowing(d), func(r PolicyRule) bool { return r.fits(f) })
}

// admits reports whether a peer may open a flow to the network's guests.
func (j *judge) admits(f *Flow) bool {
	return !j.policy().stops(Ingress, f) && j.network.Opener(f) != ""
}

// concerns reports whether a flow leads from the network's guests to elsewhere, or from
// elsewhere to its guests. The addresses of Subnets are this host's.
func (j *judge) concerns(d Direction, f *Flow) bool {
	subnets := j.network.Subnets
	from, to := contain(subnets, f.Source), contain(subnets, f.Destination)
	own := slices.ContainsFunc(subnets, func(p netip.Prefix) bool { return p.Addr() == f.Destination })
	if d == Egress {
		return from && (!to || own)
	}
	return to && !from && !own
}

// ends tells which flows went on by what a network's policy and peers were, and may not as
// they are next. It is nil where there can be none.
func ends(former, next Network) func(*Flow) bool {
	if former.Bridge == "" || reflect.DeepEqual(former.Policy, next.Policy) && reflect.DeepEqual(former.Peers, next.Peers) {
		return nil
	}
	was, is := &judge{network: former}, &judge{network: next}
	return func(f *Flow) bool {
		switch {
		case is.concerns(Egress, f):
			return is.policy().stops(Egress, f) || was.lets(Egress, f) && !is.lets(Egress, f)
		case is.concerns(Ingress, f):
			return (was.lets(Ingress, f) || was.admits(f)) && !is.lets(Ingress, f) && !is.admits(f)
		}
		return false
	}
}

// strays tells which of guests' questions to the gateway go on to where its name server does not
// listen any more: a resolver that always asks from one port has one connection, in which the kernel
// decides no more. It is nil where the server is where it was.
func strays(former, next Network) func(*Flow) bool {
	if slices.Equal(former.DNS, next.DNS) {
		return nil
	}
	return func(f *Flow) bool {
		if f.Led {
			at := netip.AddrPortFrom(f.Destination, f.Port)
			return slices.Contains(former.DNS, at) && !slices.Contains(next.DNS, at)
		}
		asks := func(at netip.AddrPort) bool { return at.Addr() == f.Destination && at.Addr() != f.Source }
		return f.Port == portDNS && slices.ContainsFunc(next.DNS, asks) &&
			slices.ContainsFunc(next.Subnets, func(s netip.Prefix) bool { return s.Contains(f.Source) })
	}
}
