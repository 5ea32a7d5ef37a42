package trace

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vnetd/vnetd/cmd/vnetctl/packets"
	"github.com/vnetd/vnetd/pkg/bridge/path"
)

// Answered is the cause that is none: packets pass.
const Answered = "answered"

// cause is one thing that may have become of packets. found says it in words, with what
// helps; empty words mean that it was not this.
type cause struct {
	name  string
	found func(e *evidence) (text, remedy string)
}

// causes are asked in the order of a packet's way; the first that answers is the verdict.
var causes = []cause{
	{"link-down", linkDown},
	{"queue-full", guestDoesNotRead},
	{"silent", silent},
	{"port-guard", byGuard},
	{"spanning-tree", spanningTree},
	{"vlan", vlan},
	{"rule-of-vnetd", byRule(true)},
	{"rule-of-others", byRule(false)},
	{"isolated", isolated},
	{Answered, answered},
	{"conntrack-full", connectionsFull},
	{"link-forwarding-off", forwardingOff},
	{"reverse-path", reversePath},
	{"no-route", noRoute},
	{"ttl", ttl},
	{"mtu", tooBig},
	{"queue-full", queueFull},
	{"no-neighbour", noNeighbour},
	{"lost", lost},
	{"no-answer", noAnswer},
}

// verdict is the first cause that answers.
func (e *evidence) verdict() Verdict {
	for _, c := range causes {
		if text, remedy := c.found(e); text != "" {
			return Verdict{c.name, text, remedy}
		}
	}
	return Verdict{"unknown", "what became of the packets is not known", "vnetctl doctor"}
}

// goal names where packets go.
func (e *evidence) goal() string {
	if to := e.destination(); to.IsValid() {
		return to.String()
	}
	return "anybody"
}

func linkDown(e *evidence) (string, string) {
	switch {
	case !e.port.up:
		return fmt.Sprintf("port %s is down", e.port.name), "ip link set " + e.port.name + " up"
	case !e.port.carrier:
		return fmt.Sprintf("nothing is behind port %s: no program has its device open, or the guest's card is down", e.port.name), "start the guest, or set its card up"
	case e.bridge.there && !e.bridge.up:
		return fmt.Sprintf("bridge %s is down", e.bridge.name), "ip link set " + e.bridge.name + " up"
	}
	return "", ""
}

func guestDoesNotRead(e *evidence) (string, string) {
	if n := e.counters[countQueueMark+e.port.name]; n > 0 && e.answers == 0 {
		return fmt.Sprintf("the queue of port %s is full: %d packets to the guest dropped, which it does not read", e.port.name, n), "see whether the guest hangs or is paused"
	}
	return "", ""
}

func silent(e *evidence) (string, string) {
	if e.sent > 0 {
		return "", ""
	}
	if e.To.IsValid() {
		return fmt.Sprintf("the guest sent nothing to %v that matches in %v", e.To, e.Time), "have it send while the trace runs; vnetctl capture " + e.port.name + " shows what else it sends"
	}
	return fmt.Sprintf("the guest sent nothing in %v", e.Time), "have it send while the trace runs, and look at its card inside the guest"
}

// guardTables is how the names of tables of ports' guards begin.
const guardTables = "vnetd_guard"

func byGuard(e *evidence) (string, string) {
	for _, d := range e.drops {
		if d.byGuard() {
			return fmt.Sprintf("the guard of port %s stopped what the guest sent: %s%s", e.port.name, d.text, e.guardKinds()),
				"let the guest use its own addresses, or give it leave: vnetctl port create --allow, or <vnetd:guard>; see guards.md"
		}
	}
	return "", ""
}

// guardKinds lists the kinds that the guard stopped.
func (e *evidence) guardKinds() string {
	if len(e.guard) == 0 {
		return ""
	}
	return " (kind " + strings.Join(slices.Sorted(maps.Keys(e.guard)), ", ") + ")"
}

func spanningTree(e *evidence) (string, string) {
	for _, l := range []link{e.port, e.peer} {
		if l.there && l.state != "" && l.state != "forwarding" && e.answers == 0 {
			return fmt.Sprintf("port %s of bridge %s is %s: the bridge carries nothing by it", l.name, l.bridge, l.state),
				fmt.Sprintf("bridge link show dev %s; with STP, wait for its delay or look for a loop", l.name)
		}
	}
	return "", ""
}

func vlan(e *evidence) (string, string) {
	if e.vlans == nil || e.answers > 0 {
		return "", ""
	}
	id := e.last.VLAN
	in := e.vlans[e.port.index]
	if id == 0 {
		id = in.pvid
	}
	remedy := "bridge vlan show; option vlan of the port, or <vlan> of the network, says which VLANs it has"
	switch {
	case id == 0:
		return fmt.Sprintf("port %s has no VLAN for frames without a tag, which the guest sends", e.port.name), remedy
	case !in.all[id]:
		return fmt.Sprintf("the guest sends in VLAN %d, which port %s does not have", id, e.port.name), remedy
	case e.peer.there && e.peer.bridge == e.bridge.name && !e.vlans[e.peer.index].all[id]:
		return fmt.Sprintf("the guest sends in VLAN %d, which port %s of the destination does not have", id, e.peer.name), remedy
	}
	return "", ""
}

// ours reports whether vnetd wrote a rule.
func (d drop) ours() bool {
	return strings.HasPrefix(d.table, "vnetd") || strings.HasPrefix(d.chain, "LIBVIRT_") || strings.Contains(d.text, "vnetd")
}

// byRule finds a rule, of vnetd's or of others, that dropped.
func byRule(ours bool) func(e *evidence) (string, string) {
	return func(e *evidence) (string, string) {
		for _, d := range e.drops {
			switch {
			case d.byGuard() || d.ours() != ours:
			case ours:
				return "a rule of vnetd's: " + d.String(), "the network's mode, policy and <forward> say who may reach whom; see firewall.md"
			default:
				return "a rule that is not vnetd's: " + d.String(), "the program whose table that is has to let it pass; see firewall.md"
			}
		}
		return "", ""
	}
}

func isolated(e *evidence) (string, string) {
	if e.answers == 0 && e.port.isolated && e.peer.isolated && e.peer.bridge == e.port.bridge {
		return fmt.Sprintf("ports %s and %s are both isolated: bridge %s carries nothing between them", e.port.name, e.peer.name, e.bridge.name),
			"<port isolated='yes'/> of the network, or --isolated of the ports, says so"
	}
	return "", ""
}

func answered(e *evidence) (string, string) {
	if e.answers > 0 {
		return fmt.Sprintf("packets pass, both ways: %d sent, %d answers", e.sent, e.answers), ""
	}
	return "", ""
}

func connectionsFull(e *evidence) (string, string) {
	full, text := trackingFull()
	if e.stages[stagePrerouting] > e.stages[stageTracked] && (full || e.counters[countTracking] > 0) {
		return "connection tracking is full: " + text, "sysctl -w net.netfilter.nf_conntrack_max=262144; conntrack -L shows whose they are"
	}
	return "", ""
}

// passedOn reports whether packets came to routing and not on from there.
func (e *evidence) passedOn() bool {
	return e.stages[stageForward] > 0 || e.stages[stageInput] > 0
}

func forwardingOff(e *evidence) (string, string) {
	name := "ipv4/conf/" + e.bridge.name + "/forwarding"
	if e.destination().Is6() {
		name = "ipv6/conf/all/forwarding"
	}
	if on, there := sysctl(name); there && on == 0 && !e.passedOn() && e.out.name != e.bridge.name && e.routed() {
		return fmt.Sprintf("%s does not forward", e.bridge.name), "sysctl -w net." + strings.ReplaceAll(name, "/", ".") + "=1"
	}
	return "", ""
}

// routed reports whether packets that are not questions for cards came to routing.
func (e *evidence) routed() bool { return e.sent > e.asked }

func reversePath(e *evidence) (string, string) {
	if e.passedOn() || !e.routed() || !errors.Is(e.wayErr, path.ErrReverse) && e.reasons["IP_RPFILTER"] == 0 && (e.wayErr != nil || e.counters[countReverse] == 0) {
		return "", ""
	}
	return fmt.Sprintf("rp_filter drops them: the way back to the guest does not lead by %s", e.in().name),
		fmt.Sprintf("ip route get %v; or sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.%s.rp_filter=2", e.last.From, e.in().name)
}

func noRoute(e *evidence) (string, string) {
	if e.passedOn() || !e.routed() || e.wayErr == nil {
		return "", ""
	}
	return fmt.Sprintf("no way leads to %s: %v", e.goal(), e.wayErr), fmt.Sprintf("ip route get %s from %v iif %s", e.goal(), e.last.From, e.in().name)
}

func ttl(e *evidence) (string, string) {
	if e.lowest == 1 && !e.passedOn() && e.counters[countHeader] > 0 {
		return "their TTL ends here: the guest sends them with 1", "have the guest send with a higher TTL; traceroute does so on purpose"
	}
	return "", ""
}

func tooBig(e *evidence) (string, string) {
	if e.out.there && e.largest > e.out.mtu && e.counters[countFragment]+e.counters[countTooBig] > 0 {
		return fmt.Sprintf("packets of %d bytes are too big for the MTU %d of %s, and may not be fragmented", e.largest, e.out.mtu, e.out.name),
			fmt.Sprintf("<mtu size='%d'/> in the network, or a smaller MTU in the guest; ICMP has to reach it", e.out.mtu)
	}
	return "", ""
}

func queueFull(e *evidence) (string, string) {
	for _, l := range []link{e.out, e.peer} {
		if n := e.counters[countQueueMark+l.name]; l.there && n > 0 && e.left < e.sent-e.asked {
			return fmt.Sprintf("the queue of %s is full: %d packets dropped", l.name, n), "tc -s qdisc show dev " + l.name + "; bandwidth.md has the limits of ports"
		}
	}
	return "", ""
}

func noNeighbour(e *evidence) (string, string) {
	if e.asked > 0 && e.asked == e.sent && e.To.IsValid() {
		return fmt.Sprintf("nobody answers for %v: the guest asks for its card", e.To), "see whether the address is right and its owner runs"
	}
	hop := e.way.Via
	if !hop.IsValid() {
		hop = e.destination()
	}
	state := neighbour(e.out.index, hop)
	forgotten := state == "" && e.reasons["NEIGH_FAILED"] > 0 // the kernel keeps few of those who failed
	if e.left == 0 && (state == "failed" || state == "incomplete" || forgotten) {
		return fmt.Sprintf("%v does not answer on %s: its card is not known", hop, e.out.name), fmt.Sprintf("ip neigh show dev %s; see whether %v runs and the cable is right", e.out.name, hop)
	}
	return "", ""
}

// passedUnseen reports whether packets passed all rules to a link that was not heard.
func (e *evidence) passedUnseen() bool {
	return e.stages[stagePostrouting] > 0 && !slices.Contains(e.heard, e.out.name)
}

// lost is where packets stopped, when nothing above explains it.
func lost(e *evidence) (string, string) {
	if e.left > 0 || e.stages[stageInput] > 0 || e.sent == e.asked || e.passedUnseen() {
		return "", ""
	}
	last := "port " + e.port.name
	for _, name := range order {
		if e.stages[name] > 0 {
			last = name
		}
	}
	text := fmt.Sprintf("%d packets to %s came as far as %s, and not on", e.sent-e.asked, e.goal(), last)
	for _, reason := range slices.Sorted(maps.Keys(e.reasons)) {
		text += "; the kernel says " + reason
	}
	return text, "vnetctl doctor; ip route get " + e.goal()
}

func noAnswer(e *evidence) (string, string) {
	switch {
	case e.left > 0:
		where := e.out.name
		if e.peer.there {
			where = e.peer.name
		}
		return fmt.Sprintf("%d packets left by %s, and no answer came", e.left, where), fmt.Sprintf("look at %s, and at its way back to the guest", e.goal())
	case e.passedUnseen():
		return fmt.Sprintf("%d packets to %s passed all rules, and no answer came", e.stages[stagePostrouting], e.goal()), "name the destination, as in vnetctl trace " + e.port.name + " " + e.goal()
	case e.stages[stageInput] > 0:
		protocol := ""
		if e.last.Protocol == packets.TCP || e.last.Protocol == packets.UDP {
			protocol = fmt.Sprintf(": perhaps nobody listens at port %d; ss -nlp", e.last.ToPort)
		}
		return fmt.Sprintf("%d packets were delivered to this host, and no answer came", e.stages[stageInput]), "look at its programs" + protocol
	}
	return "", ""
}
