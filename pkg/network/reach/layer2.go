package reach

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/bridge/path"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose/eval"
)

// across follows a packet from one port of a bridge to another.
func (l *leg) across(to place) {
	l.to = to
	l.stepPort(&to, true)
	br := l.from.link
	in, out := l.from.port, to.port
	for _, check := range []func() *fault{
		func() *fault { return l.samePort(in, out) },
		func() *fault { return l.leaving(&to) },
		func() *fault { return l.isolated(in, out) },
		func() *fault { return l.vlans(&l.from, out) },
		func() *fault { return (resolver{l}).finds(to, l.sent) },
	} {
		if f := check(); f != nil {
			l.fault = f
			return
		}
	}
	hooks, known := l.bridged(&l.from, &to)
	l.passes = l.passes || known
	l.result = l.query(hooks).Ask()
	if l.result.Verdict == eval.Translated {
		l.fault = cannotTell("a rule translates packets within the bridge %s", br.Name)
	}
}

// byIP reports whether packets within bridges pass the hooks of layer 3.
func (w *World) byIP(v6 bool) bool { return v6 && w.BridgeNF6 || !v6 && w.BridgeNF4 }

// staysInBridge reports whether a packet whose destination was changed where it came into a
// bridge does not leave that for the host to route: where packets within bridges pass the hooks
// of layer 3, prerouting is asked in the bridge, which hands on by itself what goes to another of its ports
// (br_nf_pre_routing_finish of net/bridge/br_netfilter_hooks.c).
func (l *leg) staysInBridge(p eval.Packet, way path.Way) bool {
	br := l.from.link
	return br.Kind == "bridge" && l.w.byIP(p.Dst.Is6()) && p.Dst != l.sent && way.Out == br.Index
}

// within is the way of such a packet to its port.
func (l *leg) within(to *place, dst netip.Addr) ([]eval.Hook, bool) {
	l.stepPort(to, true)
	br, in, out := l.from.link, l.from.port, to.port
	f := cmp.Or(l.leaving(to), l.isolated(in, out), (resolver{l}).findsNext(to, dst, netip.Addr{}))
	if f == nil && in.Name == out.Name && in.Name != eval.Unnamed && !stateOf(in.Name).hairpin {
		setting := "net.bridge.bridge-nf-call-iptables"
		if dst.Is6() {
			setting = "net.bridge.bridge-nf-call-ip6tables"
		}
		f = &fault{
			verdict: api.ReachNo, kind: string(firewall.KindBridgeNetfilter), remedies: []string{"sysctl -w " + setting + "=0"},
			reason: fmt.Sprintf("it would go back to the port %s that it came by, which %s does not do while %s is 1", in.Name, br.Name, setting),
		}
	}
	if f != nil {
		l.fault = f
		return nil, false
	}
	rest := eval.BridgedByIP(in.Name, out.Name, br.Name)[3:]
	rest[0].Frame = &eval.Frame{Src: mac(br), Dst: to.mac, Cast: eval.ToOther}
	return rest, true
}

// intoOwn follows a packet for an address that this host has by its own link in the network, if it has one: it is
// bridged to that.
func (l *leg) intoOwn() (is bool) {
	own, ok := l.w.own(l.from.network)
	if !ok || !slices.Contains(l.from.network.Rules.Span.Host.Addrs, l.sent) {
		return false
	}
	if l.fault = (resolver{l}).findsOwn(own); l.fault != nil {
		return true
	}
	l.in = own.link
	hooks, known := l.bridged(&l.from, &own.end)
	frame := eval.Frame{Src: l.from.mac, Dst: own.end.mac, Cast: eval.ToThisHost}
	q := l.query(append(hooks,
		eval.Hook{Layer: eval.Device, Name: "ingress", In: own.link.Name, Frame: &frame},
		eval.Hook{Layer: eval.IP, Name: "prerouting", In: own.link.Name, Looped: known}))
	q.Route = l.route
	l.result = q.Ask()
	return true
}

// outOfOwn is the way of a packet that this host sends by its own link, from postrouting on.
func (l *leg) outOfOwn(own ownLink, to *place) []eval.Hook {
	hooks, known := l.bridged(&own.end, to)
	if known {
		hooks[2].Looped = true // conntrack has seen it where it was sent
	}
	return append([]eval.Hook{{Layer: eval.IP, Name: "postrouting", Out: own.link.Name}, {Layer: eval.Device, Name: "egress", Out: own.link.Name}}, hooks...)
}

// bridged is the way of a packet from one port of a bridge to another; known says that conntrack sees it there, at
// the third hook.
func (l *leg) bridged(from, to *place) (hooks []eval.Hook, known bool) {
	hooks = eval.Bridged(from.device(), to.device(), from.link.Name)
	if known = l.w.byIP(l.packet.Dst.Is6()); known {
		hooks = eval.BridgedByIP(from.device(), to.device(), from.link.Name)
	}
	hooks[0].Frame = &eval.Frame{Src: from.mac, Dst: to.mac, Cast: eval.ToOther}
	return hooks, known
}

// samePort is about two that are behind one port.
func (l *leg) samePort(in, out bridge.Link) *fault {
	if in.Name == eval.Unnamed || in.Name != out.Name || stateOf(in.Name).hairpin {
		return nil
	}
	return cannotTell("both are behind the port %s: what is there decides, not this host", in.Name)
}

// leaving says why no frame leaves by the place's port.
func (l *leg) leaving(to *place) *fault {
	name := to.device()
	if name == eval.Unnamed || to.link.Kind != "bridge" || stateOf(name).forwarding {
		return nil
	}
	return &fault{
		verdict: api.ReachNo, reason: fmt.Sprintf("the port %s of %s is not up: nothing has its device open, or the link is down", name, to.link.Name),
		remedies: []string{"ip -d link show " + name},
	}
}

// isolated is about ports that don't reach each other.
func (l *leg) isolated(in, out bridge.Link) *fault {
	if in.Name == eval.Unnamed || out.Name == eval.Unnamed || !stateOf(in.Name).isolated || !stateOf(out.Name).isolated {
		return nil
	}
	f := &fault{verdict: api.ReachNo, reason: fmt.Sprintf("the ports %s and %s are both isolated: they reach this host, not each other", in.Name, out.Name)}
	if l.from.network != nil && l.from.network.Rules.Isolated {
		f.remedies = []string{fmt.Sprintf("vnetctl edit %s # without <port isolated='yes'/>", l.from.network.Name)}
	} else {
		f.remedies = []string{"ask for one of the ports without isolated"}
	}
	return f
}

// vlans is about VLANs that the frames of a place belong to, and the port out does not; out is
// none for the bridge itself.
func (l *leg) vlans(from *place, out bridge.Link) *fault {
	br := from.link
	if br.Kind != "bridge" || !br.FiltersVLANs || from.port.Name == eval.Unnamed || out.Name == eval.Unnamed {
		return nil
	}
	if out.Index == 0 {
		out = br
	}
	has, err1 := l.w.Links.VLANs(from.port.Index)
	others, err2 := l.w.Links.VLANs(out.Index)
	if err1 != nil || err2 != nil {
		return cannotTell("the VLANs of ports of %s can't be looked at: %v", br.Name, firstError(err1, err2))
	}
	for _, e := range has {
		if e.PVID {
			if others.Has(e.ID) {
				return nil
			}
			return &fault{
				verdict: api.ReachNo, reason: fmt.Sprintf("what comes in by %s belongs to VLAN %d, and %s does not", from.port.Name, e.ID, out.Name),
				remedies: []string{"bridge vlan show dev " + out.Name},
			}
		}
	}
	return &fault{verdict: api.ReachNo, reason: fmt.Sprintf("frames without a tag belong to no VLAN of %s", from.port.Name), remedies: []string{"bridge vlan show dev " + from.port.Name}}
}

// firstError is the first error of two.
func firstError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}
