package diagnose

import (
	"net/netip"

	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose/eval"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose/ruleset"
)

// What stands for all of the Internet, for guests' programs, and for what they ask.
var (
	beyond4 = netip.MustParseAddr("93.184.215.14")
	beyond6 = netip.MustParseAddr("2606:2800:21f:cb07:6820:80da:af6b:8b2c")
)

const (
	ephemeral = 49152
	https     = 443
	synFlag   = 2
	synAck    = 18
)

// Kind is a sort of packets that guests can't do without.
type Kind struct {
	Name string // a stable word, such as "dns-udp"
	Text string // what is dropped, in a sentence
	// match is what of an iptables rule, narrows accepts for this host's services;
	// matchNFT the same for nft.
	match, matchNFT string
}

// The kinds.
var (
	kindOut       = Kind{Name: "forward", Text: "what they send beyond this host"}
	kindBack      = Kind{Name: "forward-reply", Text: "what comes back to them"}
	kindIn        = Kind{Name: "forward-in", Text: "what others begin to send them"}
	kindDNSUDP    = Kind{"dns-udp", "DNS queries", "-p udp --dport 53", "udp dport 53"}
	kindDNSTCP    = Kind{"dns-tcp", "DNS queries by TCP", "-p tcp --dport 53", "tcp dport 53"}
	kindDNSReply  = Kind{"dns-udp-reply", "DNS answers", "-p udp --sport 53", "udp sport 53"}
	kindDNSReplyT = Kind{"dns-tcp-reply", "DNS answers by TCP", "-p tcp --sport 53", "tcp sport 53"}
	kindDHCP      = Kind{"dhcp", "DHCP requests", "-p udp --dport 67", "udp dport 67"}
	kindDHCPReply = Kind{"dhcp-reply", "DHCP answers", "-p udp --dport 68", "udp dport 68"}
	kindOffer     = Kind{"dhcp-offer", "DHCP offers", "-p udp --dport 68", "udp dport 68"}
	kindDHCPv6    = Kind{"dhcpv6", "DHCPv6 requests", "-p udp --dport 547", "udp dport 547"}
	kindDHCPv6Re  = Kind{"dhcpv6-reply", "DHCPv6 answers", "-p udp --dport 546", "udp dport 546"}
	kindSolicit   = Kind{"router-solicitation", "ICMPv6 to find routers", "-p ipv6-icmp", "meta l4proto ipv6-icmp"}
	kindAdvert    = Kind{"router-advertisement", "router advertisements", "-p ipv6-icmp", "meta l4proto ipv6-icmp"}
	kindNeighbour = Kind{"neighbour-solicitation", "ICMPv6 to find neighbours", "-p ipv6-icmp", "meta l4proto ipv6-icmp"}
	kindNeighRe   = Kind{"neighbour-advertisement", "answers to neighbour solicitations", "-p ipv6-icmp", "meta l4proto ipv6-icmp"}
	kindARP       = Kind{Name: "arp", Text: "ARP requests"}
	kindARPReply  = Kind{Name: "arp-reply", Text: "ARP answers"}
	kindWithin    = Kind{Name: "within", Text: "what they send each other"}
)

// Probe is a representative packet of a network's guests and its way.
type Probe struct {
	Kind
	Network firewall.Network
	Packet  eval.Packet
	Path    []eval.Hook
	from    bool   // guests send it
	uplink  string // of what is forwarded
	port    uint16 // where this host answers what guests ask, 0: as asked
}

// prober makes the probes of one network in one family.
type prober struct {
	n      firewall.Network
	facts  *Facts
	v4     bool
	first  bool // of the family's subnets
	guest  netip.Addr
	host   netip.Addr // the gateway
	linkG  netip.Addr // the guest's link-local address of IPv6
	linkH  netip.Addr
	result []Probe
}

// Probes are the packets that a network's guests need.
func Probes(n firewall.Network, facts *Facts) []Probe {
	if n.Mode == firewall.ModeBridge {
		return bridgeProbes(n, facts)
	}
	var all []Probe
	for _, f := range []firewall.Family{firewall.IPv4, firewall.IPv6} {
		first := true
		for _, s := range n.Subnets {
			if s.Addr().Is4() != (f == firewall.IPv4) || !s.IsValid() {
				continue
			}
			p := prober{n: n, facts: facts, v4: f == firewall.IPv4, first: first, host: s.Addr(), guest: guestOf(s)}
			p.linkG, p.linkH = netip.MustParseAddr("fe80::5054:ff:fe00:2"), netip.MustParseAddr("fe80::5054:ff:fe00:1")
			p.all()
			all, first = append(all, p.result...), false
		}
	}
	return all
}

// guestOf is an address of a subnet that is not the gateway's.
func guestOf(s netip.Prefix) netip.Addr {
	next := s.Addr().Next()
	if s.Contains(next) && (s.Addr().Is6() || s.Contains(next.Next())) {
		return next
	}
	return s.Addr().Prev()
}

// all makes the probes.
func (p *prober) all() {
	if p.n.Mode != firewall.ModeIsolated {
		p.forwarded()
	}
	if !p.n.NoDNS {
		p.dns()
	}
	switch {
	case p.v4:
		p.arp()
	default:
		p.neighbours()
	}
	p.within()
	switch { // which subnet has the leases makes no difference to rules that know none
	case !p.first:
	case p.v4 && p.n.DHCP:
		p.dhcp()
	case !p.v4 && p.n.DHCPv6:
		p.dhcpv6()
	}
}

// add adds a probe.
func (p *prober) add(k Kind, packet eval.Packet, path []eval.Hook, from bool) *Probe {
	if packet.Frame == 0 {
		if packet.Frame = eval.FrameIPv6; p.v4 {
			packet.Frame = eval.FrameIPv4
		}
	}
	if from && packet.Cast == eval.ToThisHost {
		packet.DstMAC = p.facts.MACs[p.n.Bridge]
	}
	p.result = append(p.result, Probe{Kind: k, Network: p.n, Packet: packet, Path: path, from: from})
	return last(p.result)
}

// established is the connection of a reply.
func established(c eval.Connection) eval.Connection {
	c.State, c.Reply, c.MarkUnknown = eval.StateEstablished, true, true
	return c
}

var fresh = eval.Connection{State: eval.StateNew}

// forwarded are packets to and from the world beyond.
func (p *prober) forwarded() {
	far := beyond6
	if p.v4 {
		far = beyond4
	}
	uplink := p.n.Dev
	if uplink == "" {
		uplink = p.facts.device(far)
	}
	port := p.facts.port(p.n.Bridge, 0)
	out := eval.Packet{Src: p.guest, Dst: far, Protocol: eval.TCP, SrcPort: ephemeral, DstPort: https, TCPFlags: synFlag, Connection: fresh}
	p.add(kindOut, out, eval.Forwarded(port, p.n.Bridge, p.n.Bridge, uplink, "", uplink), true).uplink = uplink
	back := eval.Packet{Src: far, Dst: p.guest, Protocol: eval.TCP, SrcPort: https, DstPort: ephemeral, TCPFlags: synAck}
	back.Connection = established(eval.Connection{})
	f := firewall.IPv6
	if p.v4 {
		f = firewall.IPv4
	}
	if p.n.Translated(f) {
		source := p.facts.of(uplink, p.v4)
		if p.n.NATAddrs.Start.IsValid() && p.v4 {
			source = p.n.NATAddrs.Start
		}
		back.Connection.Status = eval.StatusSNAT
		if source.IsValid() {
			back.Connection.Restored = netip.AddrPortFrom(source, ephemeral)
		}
	}
	in := eval.Forwarded(uplink, uplink, "", p.n.Bridge, p.n.Bridge, port)
	p.add(kindBack, back, in, false).uplink = uplink
	if p.n.Mode == firewall.ModeRoute || p.n.Mode == firewall.ModeOpen {
		begin := eval.Packet{Src: far, Dst: p.guest, Protocol: eval.TCP, SrcPort: ephemeral, DstPort: https, TCPFlags: synFlag, Connection: fresh}
		p.add(kindIn, begin, in, false).uplink = uplink
	}
}

// toHost and fromHost are the ways between guests and this host.
func (p *prober) toHost() []eval.Hook {
	return eval.ToHost(p.facts.port(p.n.Bridge, 0), p.n.Bridge)
}

func (p *prober) fromHost() []eval.Hook {
	return eval.FromHost(p.n.Bridge, p.facts.port(p.n.Bridge, 0))
}

// dns are queries to the gateway and their answers.
func (p *prober) dns() {
	served := uint16(53)
	for _, at := range p.n.DNS {
		if at.Addr() == p.host {
			served = at.Port()
		}
	}
	for _, k := range []struct {
		ask, answer Kind
		protocol    uint8
		flags       uint8
	}{{kindDNSUDP, kindDNSReply, eval.UDP, 0}, {kindDNSTCP, kindDNSReplyT, eval.TCP, synFlag}} {
		ask := eval.Packet{Src: p.guest, Dst: p.host, Protocol: k.protocol, SrcPort: ephemeral, DstPort: 53, TCPFlags: k.flags, Connection: fresh}
		p.add(k.ask, ask, p.toHost(), true).port = served
		answer := eval.Packet{Src: p.host, Dst: p.guest, Protocol: k.protocol, SrcPort: served, DstPort: ephemeral, Connection: established(eval.Connection{})}
		if k.flags != 0 {
			answer.TCPFlags = synAck
		}
		p.add(k.answer, answer, p.fromHost(), false)
	}
}

// dhcp are a client's first message, the frame that answers it, and the answer to a
// renewal.
func (p *prober) dhcp() {
	all := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	p.add(kindDHCP, eval.Packet{
		Src: netip.IPv4Unspecified(), Dst: all, Protocol: eval.UDP, SrcPort: 68, DstPort: 67, Cast: eval.Broadcast, Connection: fresh,
	}, p.toHost(), true)
	answer := eval.Packet{Src: p.host, Dst: p.guest, Protocol: eval.UDP, SrcPort: 67, DstPort: 68}
	p.add(kindOffer, answer, eval.FrameOut(p.n.Bridge, p.facts.port(p.n.Bridge, 0)), false)
	answer.Connection = established(eval.Connection{})
	p.add(kindDHCPReply, answer, p.fromHost(), false)
}

// dhcpv6 are a client's first message and its answer, which conntrack does not see
// as one: it goes from another address than the one asked.
func (p *prober) dhcpv6() {
	servers := netip.MustParseAddr("ff02::1:2")
	p.add(kindDHCPv6, eval.Packet{
		Src: p.linkG, Dst: servers, Protocol: eval.UDP, SrcPort: 546, DstPort: 547, Cast: eval.Multicast, Connection: fresh,
	}, p.toHost(), true)
	p.add(kindDHCPv6Re, eval.Packet{Src: p.linkH, Dst: p.linkG, Protocol: eval.UDP, SrcPort: 547, DstPort: 546, Connection: fresh}, p.fromHost(), false)
}

// neighbours are what IPv6 finds routers and neighbours by (RFC 4861), which conntrack
// leaves alone.
func (p *prober) neighbours() {
	untracked := eval.Connection{State: eval.StateUntracked}
	routers, nodes := netip.MustParseAddr("ff02::2"), netip.MustParseAddr("ff02::1")
	icmp := func(src, dst netip.Addr, kind uint8, cast eval.Cast) eval.Packet {
		return eval.Packet{Src: src, Dst: dst, Protocol: eval.ICMPv6, Type: kind, Cast: cast, Connection: untracked}
	}
	if p.first {
		p.add(kindSolicit, icmp(p.linkG, routers, 133, eval.Multicast), p.toHost(), true)
		p.add(kindAdvert, icmp(p.linkH, nodes, 134, eval.ToThisHost), p.fromHost(), false)
	}
	p.add(kindNeighbour, icmp(p.guest, solicitedNode(p.host), 135, eval.Multicast), p.toHost(), true)
	p.add(kindNeighRe, icmp(p.host, p.guest, 136, eval.ToThisHost), p.fromHost(), false)
}

// solicitedNode is the multicast address of those who may have an address (RFC 4291
// section 2.7.1).
func solicitedNode(a netip.Addr) netip.Addr {
	b, of := netip.MustParseAddr("ff02::1:ff00:0").As16(), a.As16()
	copy(b[13:], of[13:])
	return netip.AddrFrom16(b)
}

// arp are the question for the gateway and its answer.
func (p *prober) arp() {
	ask := eval.Packet{Frame: eval.FrameARP, Src: p.guest, Dst: p.host, ARPOperation: 1, Cast: eval.Broadcast}
	p.add(kindARP, ask, eval.ARPToHost(p.facts.port(p.n.Bridge, 0), p.n.Bridge), true)
	answer := eval.Packet{Frame: eval.FrameARP, Src: p.host, Dst: p.guest, ARPOperation: 2}
	p.add(kindARPReply, answer, eval.ARPFromHost(p.n.Bridge, p.facts.port(p.n.Bridge, 0)), false)
}

// within is what one guest sends another.
func (p *prober) within() {
	if !p.guest.Next().IsValid() {
		return
	}
	packet := eval.Packet{Src: p.guest, Dst: p.guest.Next(), Protocol: eval.TCP, SrcPort: ephemeral, DstPort: https, TCPFlags: synFlag, Cast: eval.ToOther, Connection: fresh}
	p.add(kindWithin, packet, p.bridged(), true)
}

// bridged is the way from one guest to another.
func (p *prober) bridged() []eval.Hook {
	return p.between(p.facts.port(p.n.Bridge, 0), p.facts.port(p.n.Bridge, 1))
}

// between is the way from one port of the bridge to another.
func (p *prober) between(from, to string) []eval.Hook {
	if p.v4 && p.facts.BridgeNF4 || !p.v4 && p.facts.BridgeNF6 {
		return eval.BridgedByIP(from, to, p.n.Bridge)
	}
	return eval.Bridged(from, to, p.n.Bridge)
}

// Ask has the rules carried out on a probe.
func (p *Probe) Ask(rules *ruleset.Ruleset, index *eval.Index, facts *Facts) eval.Result {
	q := eval.Query{Rules: rules, Index: index, Host: &facts.Host, Packet: p.Packet, Path: p.Path}
	r := q.Ask()
	if t := r.Translation; r.Verdict == eval.Accepted && p.port != 0 && r.Packet.DstPort != p.port && t != nil {
		r.Verdict, r.Rule, r.Chain, r.Base, r.Hook = eval.Translated, t.Rule, t.Rule.Chain, t.Base, t.Hook
	}
	return r
}
