package reach

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/bridge/neighbour"
	"github.com/vnetd/vnetd/pkg/bridge/path"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose/eval"
)

// Neighbours is this host's table of neighbours; *neighbour.Table is the real one.
type Neighbours interface {
	// List has the entries of a link that stay for good.
	List(link int) ([]neighbour.Entry, error)
	// Card is the card that this host takes an address to be of.
	Card(link int, a netip.Addr) (mac [6]byte, known bool, err error)
}

// Types of ICMPv6 messages (RFC 4861, section 4).
const (
	solicitation  = 135
	advertisement = 136
)

// resolver is a leg, before whose packet one finds the card of the next one on its link.
type resolver struct{ *leg }

// findsHost is about how a guest finds the card of its gateway, or of another address of this
// host on its link.
func (l resolver) findsHost() *fault {
	at, first := &l.from, l.packet.Connection.State == eval.StateNew
	switch {
	case !first && !l.packet.Connection.Reply:
		return nil
	case at.kind == api.ReachOutside:
		return l.findsFromLAN()
	case at.kind != api.ReachGuest || at.network == nil:
		return nil
	}
	target := at.network.gateway(l.sent.Is6())
	if at.network.holds(l.sent) {
		target = l.sent
	}
	if !target.IsValid() {
		return nil
	}
	return l.resolve(*at, hostPlace(target), l.packet.Src, target)
}

// findsFromLAN is about how a machine on the LAN, or the router that packets from further away
// come by, finds the card of this host.
func (l resolver) findsFromLAN() *fault {
	way, err := l.w.Ways.Lookup(path.Packet{To: l.packet.Src})
	if err != nil {
		return nil
	}
	asker, src := l.from, l.packet.Src
	if way.Via.IsValid() {
		asker.addr, src = way.Via, way.Via
	}
	target := way.Source // the address of the link, which the LAN has as that of its router
	if l.w.owns(l.sent) {
		target = l.sent
	}
	if !target.IsValid() || target.IsLoopback() {
		return nil
	}
	return l.resolve(asker, hostPlace(target), src, target)
}

// findsNext is about how this host finds the card of the guest, or of the machine or router on
// the LAN, that a first packet is handed to.
func (l resolver) findsNext(to *place, a, via netip.Addr) *fault {
	if l.packet.Connection.State != eval.StateNew {
		return nil
	}
	next := *to
	if via.IsValid() {
		a, next.addr = via, via
	}
	return l.resolve(hostPlace(a), next, resolving(to.link, a.Is6(), l.packet.Src), a)
}

// finds is about how the sender of a first packet finds the card of an address on its link.
func (l resolver) finds(to place, a netip.Addr) *fault {
	if l.packet.Connection.State != eval.StateNew || l.from.kind != api.ReachGuest || to.kind == api.ReachOutside {
		return nil
	}
	return l.resolve(l.from, to, l.packet.Src, a)
}

// findsOwn is about how a guest finds the card of this host's own link.
func (l resolver) findsOwn(own ownLink) *fault {
	if c := &l.packet.Connection; c.State != eval.StateNew && !c.Reply {
		return nil
	}
	return l.resolve(l.from, own.end, l.packet.Src, l.sent)
}

// ownFinds is about how this host finds the card of a guest by its own link.
func (l resolver) ownFinds(own ownLink, to *place, a netip.Addr) *fault {
	if l.packet.Connection.State != eval.StateNew {
		return nil
	}
	return l.resolve(own.end, *to, l.packet.Src, a)
}

// resolve says why who is at one place of a link does not find the card of an address at
// another, by ARP or neighbour discovery: the question or its answer is stopped.
func (l resolver) resolve(from, to place, src, target netip.Addr) *fault {
	br := from.link
	if from.kind == api.ReachHost {
		br = to.link
	}
	for _, p := range []*place{&from, &to} {
		if p.kind == api.ReachGuest && p.port.Name == eval.Unnamed { // whoever that is
			return nil
		}
	}
	if len(br.MAC) != len(eval.MAC{}) || br.Loopback || from.kind == api.ReachHost && l.knownForGood(br.Index, target) {
		return nil
	}
	if f := l.asks(br, from, to, src, target, false); f != nil {
		return f
	}
	return l.asks(br, to, from, target, src, true)
}

// knownForGood reports whether this host asks for no card of that address.
func (l resolver) knownForGood(link int, a netip.Addr) bool {
	all, _ := l.w.Neighbours.List(link)
	return slices.ContainsFunc(all, func(e neighbour.Entry) bool { return e.Addr == a })
}

// asks follows a question for an address, or its answer.
func (l resolver) asks(br bridge.Link, from, to place, src, dst netip.Addr, answer bool) *fault {
	p := eval.Packet{Frame: eval.FrameARP, Src: src, Dst: dst, ARPOperation: 1, Connection: eval.Connection{State: eval.StateUntracked}}
	frame := eval.Frame{Src: cardOf(&from, br), Dst: eval.MAC{255, 255, 255, 255, 255, 255}, Cast: eval.Broadcast}
	what := fmt.Sprintf("ARP from %s for %v", from.who(), dst)
	switch {
	case src.Is6() && answer:
		p.Frame, p.Protocol, p.Type, p.Target = eval.FrameIPv6, eval.ICMPv6, advertisement, src
	case src.Is6():
		group := solicitedNode(dst)
		b := group.As16()
		frame = eval.Frame{Src: frame.Src, Dst: eval.MAC{0x33, 0x33, b[12], b[13], b[14], b[15]}, Cast: eval.Multicast}
		p.Frame, p.Protocol, p.Type, p.Target, p.Dst = eval.FrameIPv6, eval.ICMPv6, solicitation, dst, group
		what = fmt.Sprintf("neighbour discovery (ICMPv6) from %s for %v", from.who(), dst)
	case answer:
		p.ARPOperation = 2
	}
	if answer {
		frame.Dst, frame.Cast = cardOf(&to, br), eval.ToOther
		what = fmt.Sprintf("what tells %s the card of %v", to.who(), src)
	}
	q := l.query(l.askingHooks(br, &from, &to, src.Is6()))
	q.Packet = p
	q.Path[0].Frame = &frame
	if to.kind == api.ReachHost && answer && br.Kind == "bridge" {
		q.Path[1].Frame = &eval.Frame{Src: frame.Src, Dst: frame.Dst}
	}
	r := q.Ask()
	switch {
	case r.Stopped():
		asked := connection{w: l.w, flow: firewall.Flow{Protocol: "icmp", Source: src, Destination: dst}}
		rule := asked.rule(found{r.Chain, r.Rule, r.Element, r.Hook}, actionDrop)
		return &fault{verdict: api.ReachNo, reason: fmt.Sprintf("%s is dropped by %s", what, sentence(&rule)), rule: &rule}
	case r.Verdict != eval.Accepted:
		return cannotTell("what becomes of %s is not known", what)
	}
	return nil
}

// cardOf is the address of the card at a place on a bridge.
func cardOf(p *place, br bridge.Link) eval.MAC {
	if p.kind == api.ReachHost {
		return mac(br)
	}
	return p.mac
}

// askingHooks is the way of a question or an answer.
func (l resolver) askingHooks(br bridge.Link, from, to *place, v6 bool) []eval.Hook {
	switch {
	case to.kind == api.ReachHost && v6:
		return append(eval.Arriving(from.device(), br.Name, inBridge(br)), eval.Hook{Layer: eval.IP, Name: "prerouting", In: br.Name}, eval.Hook{Layer: eval.IP, Name: "input", In: br.Name})
	case to.kind == api.ReachHost:
		return append(eval.Arriving(from.device(), br.Name, inBridge(br)), eval.Hook{Layer: eval.ARP, Name: "input", In: br.Name})
	case from.kind == api.ReachHost && v6:
		return append([]eval.Hook{{Layer: eval.IP, Name: "output", Out: br.Name}, {Layer: eval.IP, Name: "postrouting", Out: br.Name}}, eval.Leaving(br.Name, inBridge(br), to.device())...)
	case from.kind == api.ReachHost:
		return append([]eval.Hook{{Layer: eval.ARP, Name: "output", Out: br.Name}}, eval.Leaving(br.Name, inBridge(br), to.device())...)
	case v6 && l.w.BridgeNF6:
		return eval.BridgedByIP(from.device(), to.device(), br.Name)
	}
	return eval.Bridged(from.device(), to.device(), br.Name)
}

// solicitedNode is the group of those who may have an address (RFC 4291, section 2.7.1).
func solicitedNode(a netip.Addr) netip.Addr {
	b, of := netip.MustParseAddr("ff02::1:ff00:0").As16(), a.As16()
	copy(b[13:], of[13:])
	return netip.AddrFrom16(b)
}

// resolving is the address by which this host asks for neighbours on a link.
func resolving(link bridge.Link, v6 bool, fallback netip.Addr) netip.Addr {
	ifi, err := net.InterfaceByIndex(link.Index)
	if err != nil {
		return fallback
	}
	all, _ := ifi.Addrs()
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is6() == v6 && (!v6 || p.Addr().IsLinkLocalUnicast()) {
			return p.Addr()
		}
	}
	return fallback
}
