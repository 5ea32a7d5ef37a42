// Package trace finds out what becomes of the packets of a port: which rule, route or
// bridge port dropped them, as the kernel tells.
package trace

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/cmd/vnetctl/packets"
	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge/path"
)

// Options say what is traced.
type Options struct {
	Port     api.Port
	Guests   []api.Port // all ports, which the destination may be behind
	To       netip.Addr // not valid: whatever the guest sends to
	Protocol byte       // IANA's number, 0 for any
	ToPort   uint16     // 0 for any
	Time     time.Duration
	// Stopped returns how many frames of each kind the port's guard has stopped. It may be
	// nil.
	Stopped func(context.Context) map[string]uint64
	// Ready is called when packets are seen. It may be nil.
	Ready func()
}

// Result is what was found.
type Result struct {
	Port     string            `json:"port"`
	Network  string            `json:"network"`
	Guest    string            `json:"guest"`
	To       string            `json:"to"`
	Sent     int               `json:"sent"`    // packets that the guest sent and that match
	Answers  int               `json:"answers"` // packets that came back to it
	Left     int               `json:"left"`    // of those sent, that left by another link
	Steps    []Step            `json:"steps"`
	Reasons  map[string]int    `json:"reasons"`  // the kernel's, for packets of the port that it dropped
	Counters map[string]uint64 `json:"counters"` // the host's, that rose meanwhile
	Verdict  Verdict           `json:"verdict"`
	Unseen   []string          `json:"unseen"`
}

// Step is a place on the way, and what was there.
type Step struct {
	Where string `json:"where"`
	Text  string `json:"text"`
}

// Verdict is what became of the packets. Cause is one of the names in docs/troubleshooting.md.
type Verdict struct {
	Cause  string `json:"cause"`
	Text   string `json:"text"`
	Remedy string `json:"remedy"`
}

// evidence is what a verdict is made of.
type evidence struct {
	Options
	own      []netip.Addr  // the guest's addresses: known before, and seen
	last     packets.Frame // the last that the guest sent and that matches, of IP if there was one
	largest  int           // length in bytes of the largest that must not be fragmented
	lowest   int           // TTL of the lowest, 0 for none
	sent     int
	asked    int // of those sent, questions for the card that has an address
	answers  int
	left     int
	stages   map[string]int
	drops    []drop
	reasons  map[string]int
	counters counters
	guard    map[string]uint64
	heard    []string // links whose packets were counted
	port     link
	bridge   link
	peer     link // behind which the destination is on the same bridge
	host     link // the other end of peer, where this host itself is behind it
	out      link
	way      path.Way
	wayErr   error
	vlans    map[int]vlans
}

// drop is a rule, or the end of a chain, that dropped packets.
type drop struct {
	hop
	count  int
	answer bool // a packet to the guest
	text   string
}

// Run traces until the time is over, an answer came for each of some packets, or ctx ends.
func Run(ctx context.Context, o Options) (Result, error) {
	e := &evidence{Options: o, own: slices.Clone(o.Port.Addresses), stages: make(map[string]int)}
	e.port = readLink(o.Port.IfName)
	e.bridge = readLink(cmp.Or(o.Port.Bridge, e.port.bridge))
	e.findPeer()
	e.findWay()
	links := e.links()
	e.heard = links
	sockets, err := packets.Open(links, packets.Filter{})
	if err != nil {
		return Result{}, err
	}
	defer sockets.Close()
	before, stopped := readCounters(links), o.stopped(ctx)
	unseen, err := e.watch(ctx, links, sockets)
	if err != nil {
		return Result{}, err
	}
	e.counters = readCounters(links).since(before)
	if slices.ContainsFunc(e.drops, drop.byGuard) {
		time.Sleep(guardAge)
	}
	e.guard = counters(o.stopped(context.WithoutCancel(ctx))).since(stopped)
	e.findWay() // with the addresses that were seen
	e.findPeer()
	return e.result(append(unseen, legacy()...)), nil
}

// guardAge is more than how old the guard's counts may be that vnetd tells.
const guardAge = 1100 * time.Millisecond

// byGuard reports whether a port's guard dropped.
func (d drop) byGuard() bool { return strings.HasPrefix(d.table, guardTables) }

// stopped asks for the guard's counts.
func (o Options) stopped(ctx context.Context) map[string]uint64 {
	if o.Stopped == nil {
		return nil
	}
	return o.Stopped(ctx)
}

// links are the links of the way, the port first.
func (e *evidence) links() []string {
	var all []string
	for _, l := range []link{e.port, e.peer, e.out} {
		if l.there && !slices.Contains(all, l.name) && l.name != e.bridge.name {
			all = append(all, l.name)
		}
	}
	if len(all) == 0 {
		all = []string{e.Port.IfName} // which is refused with a reason
	}
	return all
}

// enough is how many answers end a trace early.
const enough = 3

// watch hears packets and what the kernel tells of them.
func (e *evidence) watch(ctx context.Context, links []string, sockets *packets.Sockets) (unseen []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, e.Time)
	defer cancel()
	told, err := nfnetlink.Open(unix.NFNLGRP_NFTRACE)
	if err != nil {
		return nil, err
	}
	defer func() { _ = told.Close() }()
	listening, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	all := &hops{socket: told}
	marking, unseen, err := mark(e.Options, e.host.name)
	if err != nil {
		return nil, err
	}
	why, err := openReasons(e.port.name, e.in().name)
	if err != nil {
		unseen = append(unseen, fmt.Sprintf("the kernel's own reasons are not seen: %v", err))
	} else {
		go why.listen(listening)
	}
	if e.Ready != nil {
		e.Ready()
	}
	err = e.hear(ctx, links, sockets, all)
	stop()
	if why != nil {
		<-why.done
		why.remove()
		e.reasons = why.count
	}
	if all.lost || sockets.Lost() > 0 {
		unseen = append(unseen, "more came than could be read: numbers are too low; name a protocol and a destination")
	}
	e.follow(all.all)
	e.nameRules()
	return unseen, errors.Join(err, marking.socket.Close())
}

// settle is how long what is on its way when the trace ends has to arrive.
const settle = 150 * time.Millisecond

// hear counts packets on the links until ctx ends or there are enough answers.
func (e *evidence) hear(ctx context.Context, links []string, sockets *packets.Sockets, all *hops) error {
	note := func(p packets.Packet) {
		e.count(links[p.Link], p.Outgoing, packets.Decode(bytes.Clone(p.Data))) // what is kept of it stays
	}
	for ctx.Err() == nil && e.answers < enough {
		_, err := sockets.Read(100*time.Millisecond, func(p packets.Packet) bool {
			note(p)
			return ctx.Err() == nil && e.answers < enough
		})
		if err = errors.Join(err, all.read()); err != nil {
			return err
		}
	}
	time.Sleep(settle)
	_, err := sockets.Read(0, func(p packets.Packet) bool {
		note(p)
		return true
	})
	return errors.Join(err, all.read())
}

// count counts a packet on a link.
func (e *evidence) count(name string, outgoing bool, f packets.Frame) {
	switch {
	case name == e.port.name && !outgoing && e.matches(f):
		e.noteSent(f)
	case name == e.port.name && outgoing && e.isAnswer(f):
		e.answers++
	case name != e.port.name && outgoing && !f.IsNeighbour() && e.matches(f) && (e.To.IsValid() || slices.Contains(e.own, f.From)):
		e.left++
	}
}

// noteSent notes what the guest sent.
func (e *evidence) noteSent(f packets.Frame) {
	e.sent++
	if f.From.IsValid() && !f.From.IsUnspecified() && !slices.Contains(e.own, f.From) && len(e.own) < 64 {
		e.own = append(e.own, f.From)
	}
	if f.IsNeighbour() {
		e.asked++
		if e.last.Length > 0 {
			return
		}
	} else if f.From.IsValid() {
		if f.DontFragment {
			e.largest = max(e.largest, f.Length)
		}
		if e.lowest == 0 || f.TTL < e.lowest {
			e.lowest = f.TTL
		}
	}
	e.last = f
}

// limited is IPv4's broadcast.
var limited = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// matches reports whether a packet of the guest's is one of those traced.
func (o Options) matches(f packets.Frame) bool {
	switch {
	case o.To.IsValid() && f.To != o.To:
		return false
	case !o.To.IsValid() && (f.To.IsMulticast() || f.To.IsLinkLocalUnicast() || f.To == limited):
		return false // what any system says by itself
	case f.IsNeighbour():
		return f.Type != packets.TypeARP || f.Request || !o.To.IsValid()
	}
	return (o.Protocol == 0 || f.Protocol == o.Protocol) && (o.ToPort == 0 || f.ToPort == o.ToPort)
}

// isAnswer reports whether a packet to the guest comes from where the traced ones go.
func (e *evidence) isAnswer(f packets.Frame) bool {
	return f.From.IsValid() && !f.IsNeighbour() && (e.Protocol == 0 || f.Protocol == e.Protocol) && (e.ToPort == 0 || f.FromPort == e.ToPort) &&
		(e.To.IsValid() && f.From == e.To || !e.To.IsValid() && slices.Contains(e.own, f.To))
}

// follow counts the stages that packets came to, and collects what dropped them.
func (e *evidence) follow(all []hop) {
	frames := make(map[uint32]packets.Frame) // the last that was told by its number
	for _, h := range all {
		if h.frame.Type != 0 || h.frame.From.IsValid() {
			frames[h.id] = h.frame
		}
		f := frames[h.id]
		sent, answer := e.matches(f), e.isAnswer(f)
		switch {
		case h.table == tableName && h.end && sent:
			e.stages[h.chain]++
		case h.table == tableName:
		case h.dropped && (sent || answer):
			h.frame = f
			e.addDrop(h, !sent)
		}
	}
}

func (e *evidence) addDrop(h hop, answer bool) {
	for i, d := range e.drops {
		if d.family == h.family && d.table == h.table && d.chain == h.chain && d.rule == h.rule && d.answer == answer {
			e.drops[i].count++
			return
		}
	}
	e.drops = append(e.drops, drop{hop: h, count: 1, answer: answer})
}

// families are nft's words.
var families = map[uint8]string{unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_BRIDGE: "bridge", unix.NFPROTO_NETDEV: "netdev", unix.NFPROTO_ARP: "arp"}

// nameRules has nft print the rules that dropped.
func (e *evidence) nameRules() {
	for i := range e.drops {
		d := &e.drops[i]
		d.text = "the policy of the chain"
		if d.rule == 0 {
			continue
		}
		d.text = fmt.Sprintf("rule with handle %d", d.rule)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		out, err := exec.CommandContext(ctx, "nft", "-a", "list", "chain", families[d.family], d.table, d.chain).Output()
		cancel()
		if err == nil {
			d.text = ruleText(string(out), d.rule, d.text)
		}
	}
}

// ruleText is the rule with a handle among those listed.
func ruleText(listing string, handle uint64, otherwise string) string {
	for line := range strings.Lines(listing) {
		if rule, found := strings.CutSuffix(strings.TrimSpace(line), fmt.Sprintf(" # handle %d", handle)); found {
			return rule
		}
	}
	return otherwise
}

// destination is where packets go: what was asked for, or what the guest last sent to.
func (e *evidence) destination() netip.Addr {
	if e.To.IsValid() {
		return e.To
	}
	return e.last.To
}

// findPeer finds the port that the destination is behind on the same bridge.
func (e *evidence) findPeer() {
	to := e.destination()
	for _, p := range e.Guests {
		if p.IfName != e.Port.IfName && (slices.Contains(p.Addresses, to) || slices.Contains(p.Reserved, to)) {
			e.peer = readLink(p.IfName)
			return
		}
	}
	if mac := e.last.Destination; len(mac) == 6 && mac[0]&1 == 0 {
		if name := portOf(e.bridge.name, mac); name != "" && name != e.port.name {
			e.peer = readLink(name)
		}
	}
}

// findWay asks the kernel for the way of the guest's packets.
func (e *evidence) findWay() {
	e.way, e.wayErr = path.Way{}, nil
	e.vlans = readVLANs(e.bridge.name)
	to := e.destination()
	i := slices.IndexFunc(e.own, func(a netip.Addr) bool { return a.Is4() == to.Is4() && !a.IsLinkLocalUnicast() })
	if !to.IsValid() || to.IsMulticast() || !e.bridge.there {
		return
	}
	if e.host = e.peer.otherEnd(); !e.host.has(to) {
		e.host = link{}
	}
	var asker path.Asker
	defer asker.Close()
	if i < 0 { // nothing is known of the guest yet: as the host's own go
		e.way, _ = asker.Lookup(path.Packet{To: to})
	} else {
		e.way, e.wayErr = asker.Lookup(path.Packet{From: e.own[i], To: to, In: e.in().index})
	}
	if found, err := net.InterfaceByIndex(e.way.Out); err == nil {
		e.out = readLink(found.Name)
	}
}

// in is the link by which this host receives the guest's packets.
func (e *evidence) in() link {
	if e.host.there {
		return e.host
	}
	return e.bridge
}

// legacy says that rules of iptables-legacy are not traced.
func legacy() []string {
	for _, name := range []string{"ip_tables_names", "ip6_tables_names"} {
		if strings.TrimSpace(readFile("/proc/self/net/"+name)) != "" {
			return []string{"rules of iptables-legacy are not traced: iptables-legacy -nvL has their counters"}
		}
	}
	return nil
}

// result puts the story together.
func (e *evidence) result(unseen []string) Result {
	r := Result{
		Port: e.Port.IfName, Network: e.Port.Network, Guest: e.Port.Name, Sent: e.sent, Answers: e.answers, Left: e.left,
		Steps: e.steps(), Reasons: e.reasons, Counters: e.counters, Verdict: e.verdict(), Unseen: unseen,
	}
	if e.To.IsValid() {
		r.To = e.To.String()
	}
	return r
}

// order is that of the stages on a packet's way.
var order = []string{
	stagePort, stageBridge, stageBridgeForward, stageBridgeOut, stageHost, stageBridgeInput, stagePrerouting, stageTracked, stageForward, stageInput, stagePostrouting,
}

// steps tells of the way in its order.
func (e *evidence) steps() (steps []Step) {
	say := func(where, format string, args ...any) {
		steps = append(steps, Step{where, fmt.Sprintf(format, args...)})
	}
	say("port "+e.port.name, "%s", e.port.text())
	say("guest", "sent %d packets, %d of them questions for a card; %d answers came back", e.sent, e.asked, e.answers)
	if e.sent > 0 {
		say("last sent", "%v", e.last)
	}
	for _, kind := range slices.Sorted(maps.Keys(e.guard)) {
		say("guard", "%s: %d frames stopped", kind, e.guard[kind])
	}
	for _, name := range order {
		if n := e.stages[name]; n > 0 {
			say("rules, "+name, "%d packets came here", n)
		}
	}
	for _, d := range e.drops {
		say("rules", "%v", d)
	}
	if e.peer.there {
		say("port "+e.peer.name, "%s", e.peer.text())
	}
	e.sayWay(say)
	for _, reason := range slices.Sorted(maps.Keys(e.reasons)) {
		say("kernel", "dropped %d packets of the port: %s", e.reasons[reason], reason)
	}
	return steps
}

// sayWay tells of the route.
func (e *evidence) sayWay(say func(where, format string, args ...any)) {
	switch {
	case e.wayErr != nil:
		say("route", "to %v: %v", e.destination(), e.wayErr)
	case e.out.there:
		via := ""
		if e.way.Via.IsValid() {
			via = fmt.Sprintf(" via %v", e.way.Via)
		}
		say("route", "to %v by %s%s, table %d", e.destination(), e.out.name, via, e.way.Table)
		if e.out.name != e.bridge.name {
			say("link "+e.out.name, "%s; %d packets left", e.out.text(), e.left)
		}
	}
	if _, text := trackingFull(); text != "" && e.stages[stagePrerouting] > 0 {
		say("connections", "%s", text)
	}
}

// text says how a link is.
func (l link) text() string {
	if !l.there {
		return "is not there"
	}
	words := []string{"down"}
	if l.up {
		words[0] = "up"
	}
	if !l.carrier {
		words = append(words, "no carrier")
	}
	words = append(words, fmt.Sprintf("MTU %d", l.mtu))
	if l.state != "" {
		words = append(words, l.state+" on "+l.bridge)
	}
	if l.isolated {
		words = append(words, "isolated")
	}
	return strings.Join(words, ", ")
}

// String says which rule dropped how much.
func (d drop) String() string {
	direction := "packets"
	if d.answer {
		direction = "answers"
	}
	return fmt.Sprintf("%d %s dropped in table %s %s, chain %s: %s", d.count, direction, families[d.family], d.table, d.chain, d.text)
}
