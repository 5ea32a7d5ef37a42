package firewall

import (
	"net/netip"
	"slices"
)

// Path is the way of the packets that a rule is about.
type Path uint8

// The paths. Packets of a network take one to three of them.
const (
	ToHost      Path = iota // from guests to this host
	FromHost                // from this host to guests
	Within                  // from guest to guest on one bridge
	Inbound                 // forwarded into a bridge
	Outbound                // forwarded out of a bridge
	Translation             // after routing, where sources are rewritten
	Completion              // after routing, where checksums are filled in
	Redirection             // before routing, where destinations are rewritten
	Open                    // forwarded to or from a bridge without rules of its own
	Departure               // from this host, before routing, where destinations are rewritten
	Leaving                 // forwarded out of a bridge, before all that accepts: what is refused
	Entering                // forwarded into a bridge, before all that accepts: what is refused
	Asking                  // from guests to this host, before all that accepts: what is refused
	Admission               // forwarded into a bridge beside what its network's mode lets in
	Exemption               // after routing, before Translation: whose sources stay
)

// Verdict is what becomes of a packet that matches a rule.
type Verdict uint8

// The verdicts.
const (
	Accept      Verdict = iota
	Reject              // answered with "port unreachable" of ICMP
	Keep                // the source is not translated
	Masquerade          // the source becomes the address of the device by which it leaves
	Translate           // the source becomes one of Addrs
	Redirect            // the destination becomes this host, at Ports.Start
	Fill                // the checksum is filled in
	AskOutbound         // the rules of Outbound are asked first: see guards and forwards
	Lead                // the destination becomes Addrs.Start, and from Port on Ports.Start
	Drop                // nobody is told
	Pass                // no later rule of the path is asked about it
	Log                 // the kernel logs it with Prefix, at a bounded rate, and the next rule is asked
	Reset               // answered with a RST of TCP, which it is
)

// Rule is one rule of a network. The zero value of a field of a match matches
// everything.
type Rule struct {
	Family  Family
	Path    Path
	In, Out string // devices
	Source  netip.Prefix
	// Destination is where packets go or, with Elsewhere, where they don't.
	Destination netip.Prefix
	Elsewhere   bool
	Local       bool   // packets to an address of this host, whichever
	Protocol    string // "tcp", "udp", "sctp" or "icmp", which is that of the family
	Port        uint16 // to which packets go
	PortEnd     uint16 // the last of them; 0: Port alone
	Type        uint8  // of ICMPv6
	Sender      MAC    // the card from which packets come
	Replies     bool   // packets of connections that began elsewhere, or related to one
	Side        Side   // by which end of its connection a packet was sent
	Led         bool   // packets of connections whose destination was rewritten

	Verdict Verdict
	Addrs   AddrRange // of Translate; of Lead, the one address Start
	Ports   PortRange // of Masquerade and Translate, zero: any; of Redirect; of Lead, zero: those that packets have
	Prefix  string    // of Log, at most 29 bytes
}

// Side is one of the two ends of a connection, or either.
type Side uint8

// The sides. Errors of ICMP are of the side that sends them.
const (
	EitherSide Side = iota
	Opener          // who began the connection
	Answerer        // to whom it was opened
)

// Rules are the intent of n as typed values, a pure function of n. Those of one
// path and family stand in the order in which a packet meets them, the paths
// being independent of each other, IPv4 first, and those of forwards before all, then
// guards: one more forward, which comes first, moves no other rule. Modes without
// filters have none but those of the path Open.
func (n Network) Rules() []Rule {
	if !n.Mode.Filtered() {
		return n.open()
	}
	rules := slices.Concat(n.forwards(IPv4), n.forwards(IPv6), n.guards(), n.rules(IPv4))
	if n.speaksIPv6() {
		rules = append(rules, n.rules(IPv6)...)
	}
	return append(rules, n.policyRules()...)
}

// rules are those of one family, without forwards and guards.
func (n Network) rules(f Family) []Rule {
	requests, replies := n.services(f)
	return slices.Concat(
		n.inbound(f), n.outbound(f),
		[]Rule{{Family: f, Path: Within, In: n.Bridge, Out: n.Bridge}},
		requests, replies, n.hairpins(f), n.translation(f), n.checksum(f), n.redirects(f),
	)
}

// guards are the rules by which vnetd differs from libvirt: those of Extra.
//
// Inbound accepts all that goes to a routed subnet, and all that seems to be of a
// connection of a translated one, before Outbound is asked. Guests of other networks
// that use another's source address could so send into it, and into connections of
// its guests. A guard, one for each subnet that is reached by any device, asks
// Outbound first: that accepts or rejects what comes from a network's bridge, and
// leaves what comes from elsewhere.
//
// Where ports are isolated, this host does not carry from one to the other what the
// bridge does not.
func (n Network) guards() (rules []Rule) {
	for _, f := range []Family{IPv4, IPv6} {
		if n.Isolated && (f == IPv4 || n.speaksIPv6()) {
			rules = append(rules, Rule{Family: f, Path: Within, In: n.Bridge, Out: n.Bridge, Verdict: Reject})
		}
		if n.Dev != "" || !n.passes(f) {
			continue
		}
		for _, s := range n.SubnetsOf(f) {
			rules = append(rules, Rule{Family: f, Path: Inbound, Destination: s, Out: n.Bridge, Replies: n.Closed(f), Verdict: AskOutbound})
		}
	}
	return rules
}

// Extra reports whether libvirt has no such rule, and goes without where vnetd has it.
// Those of forwards it has not either, but no forwards.
func (r Rule) Extra() bool {
	return r.Path == Inbound && r.Verdict == AskOutbound && !r.Led || r.Path == Within && r.Verdict == Reject
}

// open are the rules of a network whose packets others may stop, but not vnetd.
func (n Network) open() []Rule {
	if n.Mode != ModeOpen {
		return nil
	}
	rules := []Rule{{Family: IPv4, Path: Open, In: n.Bridge}, {Family: IPv4, Path: Open, Out: n.Bridge}}
	if n.speaksIPv6() {
		rules = append(rules, Rule{Family: IPv6, Path: Open, In: n.Bridge}, Rule{Family: IPv6, Path: Open, Out: n.Bridge})
	}
	return rules
}

// speaksIPv6 reports whether guests may speak IPv6.
func (n Network) speaksIPv6() bool { return n.IPv6 || len(n.SubnetsOf(IPv6)) > 0 }

// SubnetsOf are the network's distinct valid subnets of one family without host bits,
// the last of the XML first: libvirt inserts each <ip>'s rules at the head.
func (n Network) SubnetsOf(f Family) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range n.Subnets {
		s = s.Masked()
		if s.IsValid() && s.Addr().Is4() == (f == IPv4) && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	slices.Reverse(out)
	return out
}

// Translated reports whether sources of the family are rewritten.
func (n Network) Translated(f Family) bool {
	return n.Mode == ModeNAT && (f == IPv4 || n.NATIPv6) || n.Mode == ModeIsolated && n.Policy.allows(Egress, f)
}

// Closed reports whether connections of the family that lead out of the bridge begin
// with guests alone: those that are translated do, and routed ones where that is asked for.
func (n Network) Closed(f Family) bool {
	return n.Translated(f) || f == IPv6 && n.NoInboundIPv6 || n.Mode == ModeIsolated
}

// Tracked reports whether the kernel is to know all connections of the family: where
// the network is closed or, in ModeNAT, may be with its connections under way, and where
// rules tell connections from answers.
func (n Network) Tracked(f Family) bool {
	closed := n.Mode == ModeNAT || n.Closed(f) && n.Mode != ModeIsolated
	return n.Translated(f) || len(n.SubnetsOf(f)) > 0 && closed || len(n.forwardsOf(f)) > 0 || n.judges()
}

// inbound is what may enter the bridge: anything for a routed subnet, replies
// alone for a closed one, nothing else.
func (n Network) inbound(f Family) []Rule {
	var rules []Rule
	if n.passes(f) {
		for _, s := range n.SubnetsOf(f) {
			rules = append(rules, Rule{Family: f, Path: Inbound, Destination: s, In: n.Dev, Out: n.Bridge, Replies: n.Closed(f)})
		}
	}
	return append(rules, Rule{Family: f, Path: Inbound, Out: n.Bridge, Verdict: Reject})
}

// outbound is what may leave the bridge: packets with a source in one of the
// network's subnets.
func (n Network) outbound(f Family) []Rule {
	rules := (&judge{n, f}).exceptions()
	if n.Mode != ModeIsolated {
		for _, s := range n.SubnetsOf(f) {
			rules = append(rules, Rule{Family: f, Path: Outbound, Source: s, In: n.Bridge, Out: n.Dev})
		}
	}
	return append(rules, Rule{Family: f, Path: Outbound, In: n.Bridge, Verdict: Reject})
}

// translation has link-local multicast and broadcast keep their source, and
// gives everything else that leaves the subnet another one. Ports below 1024 are
// not kept, so that a guest can't pose as a privileged client of, say, an NFS
// server.
func (n Network) translation(f Family) []Rule {
	if !n.Translated(f) {
		return nil
	}
	var rules []Rule
	for _, s := range n.SubnetsOf(f) {
		for _, d := range Untranslated(f) {
			rules = append(rules, Rule{Family: f, Path: Translation, Source: s, Destination: d, Out: n.Dev, Verdict: Keep})
		}
		leaving := Rule{Family: f, Path: Translation, Source: s, Destination: s, Elsewhere: true, Out: n.Dev, Verdict: Masquerade}
		if f == IPv4 && n.NATAddrs.Start.IsValid() {
			leaving.Verdict, leaving.Addrs = Translate, n.NATAddrs
		}
		for _, protocol := range []string{"tcp", "udp"} {
			ported := leaving
			ported.Protocol, ported.Ports = protocol, n.ports()
			rules = append(rules, ported)
		}
		rules = append(rules, leaving)
	}
	return rules
}

// Untranslated are the destinations to which sources of any network keep their own: groups
// of the link, and broadcast.
func Untranslated(f Family) []netip.Prefix {
	if f == IPv6 {
		return []netip.Prefix{netip.MustParsePrefix("ff02::/16")}
	}
	return []netip.Prefix{netip.MustParsePrefix("224.0.0.0/24"), netip.MustParsePrefix("255.255.255.255/32")}
}

// ports are the source ports of translated packets.
func (n Network) ports() PortRange {
	if n.NATPorts == (PortRange{}) {
		return PortRange{Start: 1024, End: 65535}
	}
	return n.NATPorts
}

// checksum fills in the UDP checksum of DHCP replies: a guest's raw socket sees
// packets whose checksum was left to hardware that a bridge does not have.
func (n Network) checksum(f Family) []Rule {
	if f == IPv6 || !n.DHCP {
		return nil
	}
	return []Rule{{Family: f, Path: Completion, Out: n.Bridge, Protocol: "udp", Port: 68, Verdict: Fill}}
}

// services are what guests ask of this host: the ports to which requests go, and
// those to which replies go, which this host may send unasked by conntrack.
var services = []struct {
	family         Family
	protocol       string
	request, reply uint16
}{
	{IPv4, "udp", portTFTP, portTFTP},
	{IPv4, "udp", portDNS, portDNS},
	{IPv4, "tcp", portDNS, portDNS}, // RFC 1035 section 4.2
	{IPv4, "udp", 67, 68},
	{IPv4, "tcp", 67, 68}, // TCP because libvirt's driver has always opened both
	{IPv6, "udp", 547, 546},
	{IPv6, "udp", portDNS, portDNS},
	{IPv6, "tcp", portDNS, portDNS},
}

const (
	portTFTP = 69
	portDNS  = 53
)

// services accept what guests ask of this host and what it replies. With
// ipv6='yes' alone the host has no address of IPv6 on the bridge to serve from.
func (n Network) services(f Family) (requests, replies []Rule) {
	if f == IPv6 && len(n.SubnetsOf(IPv6)) == 0 {
		return nil, nil
	}
	for _, s := range services {
		if s.family == f && (n.TFTP || s.request != portTFTP) {
			requests = append(requests, Rule{Family: f, Path: ToHost, In: n.Bridge, Protocol: s.protocol, Port: s.request})
			replies = append(replies, Rule{Family: f, Path: FromHost, Out: n.Bridge, Protocol: s.protocol, Port: s.reply})
		}
	}
	for _, r := range n.redirects(f) {
		r = Rule{Family: f, Path: ToHost, In: n.Bridge, Protocol: r.Protocol, Port: r.Ports.Start}
		if !slices.Contains(requests, r) {
			requests = append(requests, r)
		}
	}
	return requests, replies
}

// redirects lead guests' queries to the gateway to where its name server
// listens, for want of port 53.
func (n Network) redirects(f Family) []Rule {
	var rules []Rule
	for _, at := range n.DNS {
		if at.Addr().Is4() != (f == IPv4) {
			continue
		}
		for _, protocol := range []string{"udp", "tcp"} {
			rules = append(rules, Rule{
				Family: f, Path: Redirection, In: n.Bridge, Protocol: protocol, Port: portDNS,
				Destination: netip.PrefixFrom(at.Addr(), at.Addr().BitLen()),
				Verdict:     Redirect, Ports: PortRange{Start: at.Port(), End: at.Port()},
			})
		}
	}
	return rules
}

// Loopback are this host's own addresses that no packet on a wire has.
func Loopback(f Family) netip.Prefix {
	if f == IPv4 {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8)
	}
	return netip.PrefixFrom(netip.IPv6Loopback(), 128)
}

// forwards are the rules of the network's forwards, but for those of the path Translation.
//
// Another network's rules say whether its guests may send at all: Outbound is asked of
// what was led here before it is accepted.
func (n Network) forwards(f Family) (rules []Rule) {
	loops, forwards := false, n.forwardsOf(f)
	const usual = 4 // rules of a forward
	rules = make([]Rule, 0, usual*len(forwards))
	for _, forward := range forwards {
		loops = loops || forward.Loops()
		rules = append(rules, forward.redirections(n.NoLoopback6)...)
		to := forward.ToPorts()
		arriving := Rule{
			Family: f, Path: Inbound, Out: n.Bridge, Destination: netip.PrefixFrom(forward.To, forward.To.BitLen()),
			Protocol: forward.Protocol, Port: to.Start, PortEnd: to.End, Led: true,
		}
		asked := arriving
		asked.Verdict = AskOutbound
		arriving.In = n.Dev
		rules = append(rules, asked, arriving)
	}
	if loops && f == IPv4 {
		rules = append(rules, n.loopbackRules()...)
	}
	return rules
}

// redirections are the rules that give packets the guest's address, one for each of the
// senders, of packets that come to this host and of those that it sends itself.
func (f *Forward) redirections(noLoopback6 bool) (rules []Rule) {
	r := Rule{
		Family: f.Family(), Path: Redirection, Protocol: f.Protocol, Port: f.Ports.Start, PortEnd: f.Ports.End, Local: !f.Address.IsValid(),
		Verdict: Lead, Addrs: AddrRange{Start: f.To},
	}
	if f.Address.IsValid() {
		r.Destination = netip.PrefixFrom(f.Address, f.Address.BitLen())
	}
	if f.ToPort != f.Ports.Start {
		r.Ports = f.ToPorts()
	}
	senders := slices.DeleteFunc(slices.Clone(f.From), func(p netip.Prefix) bool { return p.Addr().Is4() != f.To.Is4() })
	if len(f.From) == 0 {
		senders = []netip.Prefix{{}}
	}
	for _, r.Path = range []Path{Redirection, Departure} {
		if r.Path == Departure && r.Local && r.Family == IPv6 && noLoopback6 {
			r.Destination, r.Elsewhere = Loopback(IPv6), true
		}
		for _, r.Source = range senders {
			rules = append(rules, r)
		}
	}
	return rules
}

// loopbackRules keep guests from this host's loopback addresses, which the kernel does not
// any more where it lets this host's packets from there out of the bridge (route_localnet).
func (n Network) loopbackRules() []Rule {
	r := Rule{Family: IPv4, Path: ToHost, In: n.Bridge}
	answers, to, from := r, r, r
	answers.Destination, answers.Replies = Loopback(IPv4), true
	to.Destination, to.Verdict = Loopback(IPv4), Reject
	from.Source, from.Verdict = Loopback(IPv4), Reject
	return []Rule{answers, to, from}
}

// hairpins give what was led to a guest the bridge's address as its source where the guest
// would else answer the sender directly, or not at all.
func (n Network) hairpins(f Family) (rules []Rule) {
	forwards := n.forwardsOf(f)
	if len(forwards) == 0 {
		return nil
	}
	r := Rule{Family: f, Path: Translation, Out: n.Bridge, Led: true, Verdict: Masquerade}
	for _, s := range n.SubnetsOf(f) {
		r.Source, r.Destination = s, s
		rules = append(rules, r)
	}
	if slices.ContainsFunc(forwards, func(f Forward) bool { return f.Loops() }) {
		r.Source, r.Destination = Loopback(f), netip.Prefix{}
		rules = append(rules, r)
	}
	return rules
}
