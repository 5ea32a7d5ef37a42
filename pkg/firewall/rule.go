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
	AskOutbound         // the rules of Outbound are asked first: see guards
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
	Protocol    string // "tcp" or "udp"
	Port        uint16 // to which packets go
	Replies     bool   // packets of connections that began elsewhere, or related to one

	Verdict Verdict
	Addrs   AddrRange // of Translate
	Ports   PortRange // of Masquerade and Translate, zero: any; of Redirect
}

// Rules are the intent of n as typed values, a pure function of n. Those of one
// path and family stand in the order in which a packet meets them, the paths
// being independent of each other, IPv4 first and guards before all. Modes without
// filters have none but those of the path Open.
func (n Network) Rules() []Rule {
	if !n.Mode.Filtered() {
		return n.open()
	}
	rules := append(n.guards(), n.rules(IPv4)...)
	if n.speaksIPv6() {
		rules = append(rules, n.rules(IPv6)...)
	}
	return rules
}

// rules are those of one family, without guards.
func (n Network) rules(f Family) []Rule {
	requests, replies := n.services(f)
	return slices.Concat(
		n.inbound(f), n.outbound(f),
		[]Rule{{Family: f, Path: Within, In: n.Bridge, Out: n.Bridge}},
		requests, replies, n.translation(f), n.checksum(f), n.redirects(f),
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
		if n.Dev != "" || n.Mode == ModeIsolated {
			continue
		}
		for _, s := range n.SubnetsOf(f) {
			rules = append(rules, Rule{Family: f, Path: Inbound, Destination: s, Out: n.Bridge, Replies: n.Closed(f), Verdict: AskOutbound})
		}
	}
	return rules
}

// Extra reports whether libvirt has no such rule.
func (r Rule) Extra() bool {
	return r.Verdict == AskOutbound || r.Path == Within && r.Verdict == Reject
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
	return n.Mode == ModeNAT && (f == IPv4 || n.NATIPv6)
}

// Closed reports whether connections of the family that lead out of the bridge begin
// with guests alone: those that are translated do, and routed ones where that is asked for.
func (n Network) Closed(f Family) bool {
	return n.Translated(f) || f == IPv6 && n.NoInboundIPv6
}

// Tracked reports whether the kernel is to know all connections of the family: where
// the network is closed or, in ModeNAT, may be with its connections under way.
func (n Network) Tracked(f Family) bool {
	return n.Translated(f) || len(n.SubnetsOf(f)) > 0 && (n.Mode == ModeNAT || n.Closed(f))
}

// inbound is what may enter the bridge: anything for a routed subnet, replies
// alone for a closed one, nothing else.
func (n Network) inbound(f Family) []Rule {
	var rules []Rule
	if n.Mode != ModeIsolated {
		for _, s := range n.SubnetsOf(f) {
			rules = append(rules, Rule{Family: f, Path: Inbound, Destination: s, In: n.Dev, Out: n.Bridge, Replies: n.Closed(f)})
		}
	}
	return append(rules, Rule{Family: f, Path: Inbound, Out: n.Bridge, Verdict: Reject})
}

// outbound is what may leave the bridge: packets with a source in one of the
// network's subnets.
func (n Network) outbound(f Family) []Rule {
	var rules []Rule
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
	kept := []string{"224.0.0.0/24", "255.255.255.255/32"}
	if f == IPv6 {
		kept = []string{"ff02::/16"}
	}
	var rules []Rule
	for _, s := range n.SubnetsOf(f) {
		for _, d := range kept {
			rules = append(rules, Rule{Family: f, Path: Translation, Source: s, Destination: netip.MustParsePrefix(d), Out: n.Dev, Verdict: Keep})
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
