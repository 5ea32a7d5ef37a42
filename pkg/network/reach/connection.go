package reach

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose/eval"
)

// protocols are those that can be asked for, by their numbers in each family.
var protocols = map[string]struct{ v4, v6 uint8 }{
	"tcp": {eval.TCP, eval.TCP}, "udp": {eval.UDP, eval.UDP}, "sctp": {eval.SCTP, eval.SCTP}, "icmp": {eval.ICMP, eval.ICMPv6},
}

// What a packet of a connection looks like.
const (
	ephemeral = 49152 // a client's port (RFC 6335, section 6)

	synFlag = 2
	ackFlag = 16

	echoRequest4, echoReply4 = 8, 0
	echoRequest6, echoReply6 = 128, 129
)

// Ask answers a question. The error says what of it makes no sense, or names nothing that is
// there.
func (w *World) Ask(q api.ReachQuestion) (api.Reach, error) {
	if q.Protocol == "" {
		q.Protocol = "icmp"
	}
	if _, known := protocols[q.Protocol]; !known {
		return api.Reach{}, api.Errorf(api.Invalid, "protocol %.80q is not known: want tcp, udp, sctp or icmp", q.Protocol)
	}
	if (q.Port != 0) == (q.Protocol == "icmp") {
		return api.Reach{}, api.Errorf(api.Invalid, "protocol %s with port %d: want a port from 1 to 65535 with tcp, udp and sctp, and none with icmp", q.Protocol, q.Port)
	}
	from, err := w.find(q.From)
	if err != nil {
		return api.Reach{}, err
	}
	to, err := w.find(q.To)
	if err != nil {
		return api.Reach{}, err
	}
	all := families(&from, &to)
	if len(all) == 0 {
		return api.Reach{}, api.Errorf(api.Invalid, "%.80q and %.80q have no addresses of one family: %v and %v", q.From, q.To, from.addrs, to.addrs)
	}
	r := api.Reach{From: from.describe(), To: to.describe(), Protocol: q.Protocol, Port: q.Port, Verdict: api.ReachNo, Ways: []api.ReachWay{}}
	for _, v6 := range all {
		c := connection{w: w, from: &from, to: &to, v6: v6, protocol: q.Protocol, port: q.Port}
		if way, asked := c.ask(); asked {
			r.Ways = append(r.Ways, way)
		}
	}
	if len(r.Ways) == 0 {
		return api.Reach{}, api.Errorf(api.NotFound, "this host has no address by which %.80q could know it", q.From)
	}
	r.Verdict = verdictOf(r.Ways)
	return r, nil
}

// verdictOf is what several ways come to.
func verdictOf(ways []api.ReachWay) api.ReachVerdict {
	for _, v := range []api.ReachVerdict{api.ReachYes, api.ReachUnknown} {
		if slices.ContainsFunc(ways, func(w api.ReachWay) bool { return w.Verdict == v }) {
			return v
		}
	}
	return api.ReachNo
}

// connection is one that is to be opened by one family.
type connection struct {
	w        *World
	from, to *end
	v6       bool
	protocol string
	port     uint16

	src, dst netip.Addr
	flow     firewall.Flow // as guests see it
	way      api.ReachWay
}

// ask answers for one family. asked is false where the ends have no addresses of it.
func (c *connection) ask() (way api.ReachWay, asked bool) {
	c.src, c.dst = c.from.addr(c.v6), c.to.addr(c.v6)
	if !c.dst.IsValid() && c.to.kind == api.ReachHost {
		c.dst = c.w.hostAddr(c.from, c.v6)
	}
	if !c.src.IsValid() && c.from.kind == api.ReachHost && c.dst.IsValid() {
		if c.src = c.dst; !c.w.owns(c.dst) {
			c.src = c.w.hostAddr(c.to, c.v6)
			if way, err := c.w.Ways.Lookup((&leg{w: c.w, from: hostPlace(c.src)}).lookup(eval.Packet{}, c.dst, netip.Addr{})); err == nil && way.Source.IsValid() {
				c.src = way.Source
			}
		}
	}
	if !c.src.IsValid() || !c.dst.IsValid() {
		return api.ReachWay{}, false
	}
	family := "ipv4"
	if c.v6 {
		family = "ipv6"
	}
	c.way = api.ReachWay{
		Family: family, Source: c.src, Destination: c.dst, Accepted: []api.ReachRule{}, Steps: []api.ReachStep{},
		Translations: []api.ReachTranslation{}, Remedies: []string{}, Notes: []string{},
	}
	c.open()
	return c.way, true
}

// open follows the first packet, its answer, and what follows.
func (c *connection) open() {
	start, f := c.w.place(c.from, c.src)
	if f != nil {
		c.failed(f, false)
		return
	}
	out := &leg{w: c.w, from: start, packet: c.first()}
	out.follow()
	c.way.Steps = append(c.way.Steps, out.steps...)
	c.flow = c.seen(&out.result.Packet)
	c.passed(out)
	if !c.through(out, false) {
		return
	}
	c.way.AnsweredBy = out.to.who()
	back := c.answer(out)
	back.follow()
	for _, s := range back.steps {
		s.Answer = true
		c.way.Steps = append(c.way.Steps, s)
	}
	if !c.through(back, true) || !c.returned(out, back) || !c.goesOn(out) {
		return
	}
	c.way.Verdict = api.ReachYes
	c.way.Reason = fmt.Sprintf("%s receives it, and its answers come back", out.to.who())
	c.taken(out)
	if c.w.Hidden != nil {
		c.failed(cannotTell("nothing that is seen is against it, but %v", c.w.Hidden), false)
	}
}

// seen is the connection where its first packet has come to: led to where it goes, and by whom it
// was opened.
func (c *connection) seen(p *eval.Packet) firewall.Flow {
	f := firewall.Flow{Protocol: c.protocol, Source: c.src, Destination: c.dst, Port: c.port}
	if p.Dst.IsValid() {
		f.Destination, f.Port = p.Dst, p.DstPort
	}
	if c.protocol == "icmp" {
		f.Port = 0
	}
	f.Led = f.Destination != c.dst || f.Port != c.port
	return f
}

// first is the first packet.
func (c *connection) first() eval.Packet {
	p := eval.Packet{Frame: eval.FrameIPv4, Src: c.src, Dst: c.dst, Protocol: protocols[c.protocol].v4, Connection: eval.Connection{State: eval.StateNew}}
	if c.v6 {
		p.Frame, p.Protocol = eval.FrameIPv6, protocols[c.protocol].v6
	}
	switch c.protocol {
	case "icmp":
		if p.Type = echoRequest4; c.v6 {
			p.Type = echoRequest6
		}
		return p
	case "tcp":
		p.TCPFlags = synFlag
	}
	p.SrcPort, p.DstPort = ephemeral, c.port
	return p
}

// answer is the way of the answer to a packet that has arrived.
func (c *connection) answer(out *leg) *leg {
	last := out.result.Packet
	p := c.first()
	p.Src, p.Dst, p.SrcPort, p.DstPort = last.Dst, c.src, last.DstPort, p.SrcPort
	switch {
	case c.protocol == "tcp":
		p.TCPFlags = synFlag | ackFlag
	case c.protocol == "icmp" && c.v6:
		p.Type = echoReply6
	case c.protocol == "icmp":
		p.Type = echoReply4
	}
	p.Connection = eval.Connection{State: eval.StateEstablished, Reply: true, Status: last.Connection.Status, Mark: last.Connection.Mark, MarkUnknown: last.Connection.MarkUnknown}
	if last.Connection.State == eval.StateUntracked {
		p.Connection = c.untracked()
	}
	if last.Src != c.src || last.SrcPort != p.DstPort {
		p.Connection.Restored = netip.AddrPortFrom(last.Src, last.SrcPort)
	}
	return &leg{w: c.w, from: out.to, packet: p}
}

// untracked is the connection of an answer to what conntrack has not seen. Of an answer alone
// it makes no connection of TCP, SCTP and ICMP.
func (c *connection) untracked() eval.Connection {
	if c.protocol == "udp" {
		return eval.Connection{State: eval.StateNew}
	}
	return eval.Connection{State: eval.StateInvalid}
}

// through reports whether a packet has arrived, and says why not.
func (c *connection) through(l *leg, answer bool) bool {
	r := &l.result
	switch {
	case l.fault != nil:
		c.failed(l.fault, answer)
	case l.split:
		c.failed(cannotTell("where it goes depends on what is not known of a rule"), answer)
	case r.Verdict == eval.Unknown, r.Ambiguous:
		c.undecided(r, answer)
	case r.Stopped():
		c.stopped(l, answer)
	case r.Verdict != eval.Accepted:
		c.failed(cannotTell("its way can't be followed"), answer)
	case !r.Packet.Src.IsValid() || !r.Packet.Dst.IsValid():
		c.failed(cannotTell("to which address a rule translates is not known"), answer)
	default:
		return true
	}
	return false
}

// returned reports whether the answer comes to who has asked, as the answer to what was asked.
func (c *connection) returned(out, back *leg) bool {
	translated := out.result.Packet.Connection.Status&(eval.StatusDNAT|eval.StatusSNAT) != 0
	if translated && back.result.Packet.Connection.State == eval.StateUntracked {
		c.failed(&fault{verdict: api.ReachNo, reason: "a rule keeps it from conntrack, and so from being translated back"}, true)
		return false
	}
	if translated && !back.passes {
		c.failed(&fault{verdict: api.ReachNo, reason: fmt.Sprintf(
			"%s answers %v directly, not by this host: the answer is not translated back, and is none to what was asked", out.to.who(), back.sent)}, true)
		return false
	}
	if !back.to.same(&out.from) && back.to.port.Name != eval.Unnamed && out.from.port.Name != eval.Unnamed {
		c.failed(&fault{verdict: api.ReachNo, reason: fmt.Sprintf("the answer goes to %s, not to %s", back.to.who(), out.from.who())}, true)
		return false
	}
	return true
}

// goesOn reports whether what follows the answer passes as the first packet did. UDP and ICMP
// need no more.
func (c *connection) goesOn(out *leg) bool {
	if c.protocol != "tcp" && c.protocol != "sctp" {
		return true
	}
	last := out.result.Packet
	p := c.first()
	p.TCPFlags &= ackFlag
	if c.protocol == "tcp" {
		p.TCPFlags = ackFlag
	}
	p.Connection = eval.Connection{State: eval.StateEstablished, Status: last.Connection.Status, Mark: last.Connection.Mark, MarkUnknown: last.Connection.MarkUnknown}
	if last.Connection.State == eval.StateUntracked {
		p.Connection = c.untracked() // unless it is taken out again
	}
	if last.Dst != c.dst || last.DstPort != c.port {
		p.Connection.Restored = netip.AddrPortFrom(c.dst, c.port)
		p.Dst, p.DstPort = last.Dst, last.DstPort
	}
	next := &leg{w: c.w, from: out.from, packet: p}
	next.follow()
	if !c.through(next, false) {
		c.way.Reason = "the first packet and its answer pass, what follows does not: " + c.way.Reason
		return false
	}
	return true
}

// taken says what was taken for granted.
func (c *connection) taken(out *leg) {
	last := out.result.Packet
	if out.to.kind == api.ReachOutside && !c.w.owns(last.Src) && out.from.kind != api.ReachOutside {
		c.note("who is beyond this host must know that the way to %v is by this host: nothing translates that address", last.Src)
	}
	if out.from.kind == api.ReachOutside && !c.w.owns(c.dst) {
		c.note("who is beyond this host must know that the way to %v is by this host", c.dst)
	}
	if out.to.kind == api.ReachGuest && out.to.guest == nil {
		c.note("no guest is known here that has the address %v", last.Dst)
	}
	if c.protocol != "icmp" {
		c.note("whether a program listens there is not looked at")
	}
}

// note notes what is taken for granted.
func (c *connection) note(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(c.way.Notes, text) {
		c.way.Notes = append(c.way.Notes, text)
	}
}

// failed is the answer of a fault.
func (c *connection) failed(f *fault, answer bool) {
	c.way.Verdict, c.way.Reason, c.way.InAnswer, c.way.Condition = f.verdict, f.reason, answer, f.kind
	c.way.Remedies = append(c.way.Remedies, f.remedies...)
	if f.rule != nil {
		c.way.Rule = f.rule
	}
	if answer {
		c.way.Reason = "the answer does not come back: " + f.reason
	}
}
