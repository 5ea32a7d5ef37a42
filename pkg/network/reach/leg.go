package reach

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/bridge/path"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose/eval"
)

// leg is one packet on its way from one place to another.
type leg struct {
	w      *World
	from   place
	packet eval.Packet
	sent   netip.Addr  // the destination that it has when it starts
	in     bridge.Link // by which this host receives it, none where it sends it

	// What is found.
	steps  []api.ReachStep
	result eval.Result
	to     place
	fault  *fault // nil: result tells
	routed bool   // the routes were asked
	split  bool   // they have more than one answer
	passes bool   // conntrack sees it
}

// step notes a place on the way.
func (l *leg) step(kind, name, format string, args ...any) {
	s := api.ReachStep{Kind: kind, Name: name, Detail: fmt.Sprintf(format, args...)}
	if len(l.steps) == 0 || l.steps[len(l.steps)-1] != s {
		l.steps = append(l.steps, s)
	}
}

// stepPort notes the port and the bridge of a place, or its link.
func (l *leg) stepPort(p *place, leaving bool) {
	if p.link.Kind != "bridge" {
		l.step("link", p.link.Name, "")
		return
	}
	br := func() {
		text := ""
		if p.network != nil {
			text = "of network " + p.network.Name
		}
		l.step("bridge", p.link.Name, "%s", text)
	}
	port := func() { l.step("port", p.port.Name, "") }
	if leaving {
		br()
		port()
		return
	}
	port()
	br()
}

// go follows the packet to its end.
func (l *leg) follow() {
	l.sent, l.in = l.packet.Dst, l.from.link
	if r := l.packet.Connection.Restored; r.IsValid() {
		l.sent = r.Addr()
	}
	if l.from.kind == api.ReachHost {
		l.fromHost()
		return
	}
	l.stepPort(&l.from, false)
	to, router, f := l.next()
	switch {
	case f != nil:
		l.fault = f
	case router:
		l.intoHost()
	default:
		l.across(to)
	}
}

// next is where a packet goes on the link that it starts on: to a place on the same link, or to
// this host, which may route it.
func (l *leg) next() (to place, host bool, f *fault) {
	at, a := &l.from, l.sent
	n := at.network
	onLink := a.Is6() && a.IsLinkLocalUnicast() || n != nil && n.holds(a)
	if n != nil && n.gateway(a.Is6()).IsValid() {
		if !onLink || l.w.owns(a) {
			return place{}, true, nil
		}
		to, f = l.w.guestPlace(n, l.w.holder(a), a)
		return to, false, f
	}
	if at.link.Kind != "bridge" {
		return place{}, true, nil
	}
	return l.nextOnLAN()
}

// nextOnLAN is next on a bridge on which this host is nobody's gateway.
func (l *leg) nextOnLAN() (to place, host bool, f *fault) {
	at, a := &l.from, l.sent
	n := at.network
	if g := l.w.holder(a); g != nil && n != nil && g.Network == n.Name {
		to, f = l.w.guestPlace(n, g, a)
		return to, false, f
	}
	switch home := l.w.home(a); {
	case at.kind == api.ReachOutside, ownOn(at.link, a): // the LAN has this host route
		return place{}, true, nil
	case l.w.owns(a), home != nil && home != n:
		return place{}, false, cannotTell("%s sends what is for %v to the router of its LAN, and what becomes of it there is not known here", at.who(), a)
	}
	to = l.w.beyond(at.link, a)
	if to.port.Name == eval.Unnamed {
		return place{}, false, cannotTell("guests on %s have no gateway here, and which port leads to %v is not known", at.link.Name, a)
	}
	return to, false, nil
}

// query is what the rules are asked about the packet.
func (l *leg) query(path []eval.Hook) *eval.Query {
	return &eval.Query{
		Rules: l.w.Rules, Host: &eval.Host{Addresses: l.w.Addresses, Routes: l.w.Routes}, Packet: l.packet, Path: path,
		Source: l.masquerade, WithinRates: true,
	}
}

// intoHost follows a packet that this host receives by a link.
func (l *leg) intoHost() {
	l.passes = true
	if l.intoOwn() {
		return
	}
	at := &l.from
	if f := l.vlans(at, bridge.Link{}); f != nil {
		l.fault = f
		return
	}
	if f := (resolver{l}).findsHost(); f != nil {
		l.fault = f
		return
	}
	hooks := eval.Arriving(at.device(), at.link.Name, inBridge(at.link))
	frame := eval.Frame{Src: at.mac, Dst: mac(at.link), Cast: eval.ToThisHost}
	hooks[0].Frame = &frame
	if at.link.Kind == "bridge" {
		if frame.Dst != mac(at.port) {
			frame.Cast = eval.ToOther
		}
		hooks[1].Frame = &eval.Frame{Src: frame.Src, Dst: frame.Dst} // br_handle_frame
	}
	l.follows(hooks)
}

// follows has the packet arrive by hooks, and go on as the routes say.
func (l *leg) follows(hooks []eval.Hook) {
	ip := len(hooks)
	if l.from.link.Kind == "bridge" && l.w.byIP(l.packet.Dst.Is6()) {
		ip = 2 // in the bridge, whose chain of input sees what is changed there
	}
	hooks = slices.Insert(hooks, ip, eval.Hook{Layer: eval.IP, Name: "prerouting", In: l.from.link.Name})
	q := l.query(hooks)
	q.Route = l.route
	l.result = q.Ask()
}

// fromHost follows a packet of this host's own.
func (l *leg) fromHost() {
	l.passes = true
	l.step("host", "", "")
	way, err := l.w.Ways.Lookup(l.lookup(l.packet, l.sent, l.packet.Src))
	if err != nil {
		l.fault = l.unroutable(l.packet, err)
		return
	}
	q := l.query([]eval.Hook{{Layer: eval.IP, Name: "output", Out: l.name(way.Out)}})
	q.Route = l.route
	l.result = q.Ask()
}

// name is the name of the link with an ifindex.
func (l *leg) name(index int) string {
	link, err := l.w.Links.LookupIndex(index)
	if err != nil {
		return eval.Unnamed
	}
	return link.Name
}

// lookup is the question for the routes of a packet.
func (l *leg) lookup(p eval.Packet, to, from netip.Addr) path.Packet {
	q := path.Packet{From: from, To: to, Mark: p.Mark, Protocol: p.Protocol, SrcPort: p.SrcPort, DstPort: p.DstPort}
	if l.from.kind != api.ReachHost {
		q.In = l.in.Index
	}
	return q
}

// route is eval.Query.Route: where the packet goes that has passed prerouting or output.
func (l *leg) route(p eval.Packet) ([]eval.Hook, bool) {
	if !p.Dst.IsValid() {
		l.fault = cannotTell("a rule leads the packet to an address that is not known")
		return nil, false
	}
	if p.MarkUnknown() {
		l.fault = cannotTell("a rule marks the packet in a way that is not known, and rules of routing may look at that")
		return nil, false
	}
	way, err := l.w.Ways.Lookup(l.lookup(p, p.Dst, p.Src))
	if err != nil {
		l.fault = l.unroutable(p, err)
		return nil, false
	}
	if way.Local {
		return l.local(p)
	}
	to, f := l.behind(way, p.Dst)
	if f != nil {
		l.fault = f
		return nil, false
	}
	l.arrive(to)
	if l.staysInBridge(p, way) {
		return l.within(&to, p.Dst)
	}
	if f := l.forwards(p); f != nil {
		l.fault = f
		return nil, false
	}
	via := ""
	if way.Via.IsValid() {
		via = fmt.Sprintf(" via %v", way.Via)
	}
	out := to.link.Name
	own, byOwn := l.w.own(to.network)
	if byOwn = byOwn && way.Out == own.link.Index; byOwn {
		out = own.link.Name
	}
	l.step("route", path.TableName(way.Table), "to %v%s dev %s", p.Dst, via, out)
	l.stepPort(&to, true)
	finds := (resolver{l}).findsNext
	if byOwn {
		finds = func(to *place, a, _ netip.Addr) *fault { return (resolver{l}).ownFinds(own, to, a) }
	}
	if f := cmp.Or(l.leaving(&to), finds(&to, p.Dst, way.Via)); f != nil {
		l.fault = f
		return nil, false
	}
	if byOwn {
		return l.outOfOwn(own, &to), true
	}
	var hooks []eval.Hook
	if l.from.kind == api.ReachHost {
		hooks = []eval.Hook{{Layer: eval.IP, Name: "postrouting", Out: out}}
	} else {
		hooks = []eval.Hook{
			{Layer: eval.IP, Name: "forward", In: l.in.Name, Out: out},
			{Layer: eval.IP, Name: "postrouting", In: l.in.Name, Out: out},
		}
	}
	rest := eval.Leaving(out, inBridge(to.link), to.device())
	rest[0].Frame = &eval.Frame{Src: mac(to.link), Dst: to.mac}
	return append(hooks, rest...), true
}

// local has the packet be received by this host.
func (l *leg) local(p eval.Packet) ([]eval.Hook, bool) {
	l.arrive(hostPlace(p.Dst))
	l.step("host", "", "%v", p.Dst)
	if l.from.kind == api.ReachHost {
		return []eval.Hook{
			{Layer: eval.IP, Name: "postrouting", Out: "lo"}, {Layer: eval.IP, Name: "prerouting", In: "lo", Looped: true}, {Layer: eval.IP, Name: "input", In: "lo"},
		}, true
	}
	return []eval.Hook{{Layer: eval.IP, Name: "input", In: l.in.Name}}, true
}

// arrive notes where the packet arrives.
func (l *leg) arrive(to place) {
	l.split = l.split || l.routed && !l.to.same(&to)
	l.routed, l.to = true, to
}

// behind is the place to which a way leads.
func (l *leg) behind(way path.Way, a netip.Addr) (place, *fault) {
	link, err := l.w.Links.LookupIndex(way.Out)
	if err != nil {
		return place{}, cannotTell("the link that leads to %v can't be looked at: %v", a, err)
	}
	if home := l.w.home(a); home != nil && home.Rules.Span != nil && home.Rules.Span.Host.Link == link.Name {
		// What this host itself sends there goes to the bridge by the other end of its link.
		if link, err = l.w.Links.LookupIndex(home.Index); err != nil {
			return place{}, cannotTell("the bridge that leads to %v can't be looked at: %v", a, err)
		}
	}
	n := l.w.onBridge(link.Index)
	if home := l.w.home(a); home != nil && home != n && home.Index != 0 {
		return place{}, &fault{
			verdict: api.ReachNo, kind: "route-to-guests", remedies: []string{"ip route show table all to match " + a.String()},
			reason: fmt.Sprintf("packets for %v, which is on network %s, don't go to %s, but to %s, by the table %s", a, home.Name, home.Bridge, link.Name, path.TableName(way.Table)),
		}
	}
	switch {
	case n == nil || !n.gateway(a.Is6()).IsValid() && l.w.holder(a) == nil:
		p := l.w.beyond(link, a)
		next := a
		if way.Via.IsValid() {
			next = way.Via
		}
		l.w.locate(&p, next)
		return p, nil
	case way.Via.IsValid(): // a guest that is a router
		p, f := l.w.guestPlace(n, l.w.holder(way.Via), a)
		return p, f
	}
	return l.w.guestPlace(n, l.w.holder(a), a)
}

// forwards says why this host forwards no such packet.
func (l *leg) forwards(p eval.Packet) *fault {
	if l.from.kind == api.ReachHost || p.Dst.Is4() { // of IPv4 the routes tell
		return nil
	}
	if sysctl("ipv6/conf/all/forwarding") != "0" {
		return nil
	}
	return forwardingOff("IPv6", "net.ipv6.conf.all.forwarding")
}

// forwardingOff is the fault of a host that is no router.
func forwardingOff(family, setting string) *fault {
	return &fault{
		verdict: api.ReachNo, reason: fmt.Sprintf("%s forwarding is off: %s = 0", family, setting),
		remedies: []string{"sysctl -w " + setting + "=1"}, kind: "forwarding-off",
	}
}

// unroutable says why the routes have no way for a packet.
func (l *leg) unroutable(p eval.Packet, err error) *fault {
	in := l.in.Name
	text := "ip route get " + p.Dst.String()
	if in != "" {
		text += fmt.Sprintf(" from %v iif %s", p.Src, in)
	}
	f := &fault{verdict: api.ReachNo, reason: fmt.Sprintf("this host has no way to %v: %v (%s)", p.Dst, err, text)}
	switch refused := knownRefusal(err); {
	case !refused:
		f.verdict, f.reason = api.ReachUnknown, fmt.Sprintf("the way to %v can't be asked for: %v", p.Dst, err)
	case in != "" && p.Dst.Is4() && sysctl("ipv4/ip_forward") == "0":
		return forwardingOff("IPv4", "net.ipv4.ip_forward")
	case in != "" && p.Dst.Is4() && !bridge.Forwards4(in) && errors.Is(err, path.ErrUnreachable):
		f.reason = fmt.Sprintf("this host forwards nothing that comes in by %s: net.ipv4.conf.%s.forwarding = 0", in, in)
		f.remedies, f.kind = []string{fmt.Sprintf("sysctl -w net.ipv4.conf.%s.forwarding=1", in)}, "link-forwarding-off"
	case in != "" && l.isReverse(p, err):
		f.reason = fmt.Sprintf("packets from %v are dropped where they come in by %s: this host would answer by another link, and rp_filter is strict", p.Src, in)
		f.remedies, f.kind = []string{fmt.Sprintf("sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.%s.rp_filter=2", in)}, "reverse-path"
	}
	return f
}

// knownRefusal reports whether the kernel has answered, and refused.
func knownRefusal(err error) bool {
	for _, e := range []error{path.ErrNoRoute, path.ErrUnreachable, path.ErrProhibited, path.ErrBlackhole, path.ErrReverse} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// isReverse reports whether a packet is refused for the way back to its source: newer kernels
// give the same answer as for a blackhole.
func (l *leg) isReverse(p eval.Packet, err error) bool {
	if errors.Is(err, path.ErrReverse) {
		return true
	}
	if !errors.Is(err, path.ErrBlackhole) || p.Src.Is6() || !bridge.StrictReverse4(l.in.Name) {
		return false
	}
	back, err := l.w.Ways.Lookup(path.Packet{To: p.Src})
	return err == nil && back.Out != l.in.Index
}

// masquerade is eval.Query.Source.
func (l *leg) masquerade(p eval.Packet, out string) netip.Addr {
	link, err := l.w.Links.Lookup(out)
	if err != nil {
		return netip.Addr{}
	}
	way, err := l.w.Ways.Lookup(path.Packet{To: p.Dst, Bound: link.Index})
	if p.Dst.Is6() {
		if err != nil {
			return netip.Addr{}
		}
		return way.Source
	}
	next := p.Dst
	if way.Via.IsValid() {
		next = way.Via
	}
	return addressOn(link.Index, next)
}
