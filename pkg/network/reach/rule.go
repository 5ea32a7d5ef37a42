package reach

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose/eval"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose/ruleset"
)

// What a rule does, in a ReachRule.
const (
	actionAccept    = "accept"
	actionDrop      = "drop"
	actionReject    = "reject"
	actionTranslate = "translate"
	actionUnknown   = "unknown"
)

// passed notes what let the packet pass, and what changed it.
func (c *connection) passed(l *leg) {
	for i := range l.result.Accepts {
		a := &l.result.Accepts[i]
		if a.Base.Type == "nat" {
			continue
		}
		c.way.Accepted = append(c.way.Accepted, c.rule(found{a.Rule.Chain, a.Rule, a.Element, a.Hook}, actionAccept))
	}
	for i := range l.result.Translations {
		t := &l.result.Translations[i]
		from, to := t.Before.Dst, t.After.Dst
		if t.Before.Src != t.After.Src {
			from, to = t.Before.Src, t.After.Src
		}
		rule := c.rule(found{t.Rule.Chain, t.Rule, t.Element, t.Hook}, actionTranslate)
		if owner := c.w.forwardOf(t.Before.Dst, t.After.Dst, c.protocol); owner != "" {
			rule.Owner = owner
		}
		c.way.Translations = append(c.way.Translations, api.ReachTranslation{Kind: kindOf(t.Rule), From: ends(from), To: ends(to), Rule: rule})
	}
}

// kindOf is how a rule translates.
func kindOf(r *ruleset.Rule) string {
	for i := range r.Statements {
		if s := &r.Statements[i]; s.Kind == ruleset.Translate {
			return s.Verdict.Name
		}
	}
	return actionTranslate
}

// ends is an address and port for people; what is not known of it is left out.
func ends(at netip.AddrPort) string {
	switch {
	case !at.Addr().IsValid():
		return "?"
	case at.Port() == 0:
		return at.Addr().String()
	}
	return at.String()
}

// forwardOf is the forward of a network that leads from one destination to another, empty for
// none.
func (w *World) forwardOf(from, to netip.AddrPort, protocol string) string {
	if from == to {
		return ""
	}
	for _, n := range w.Networks {
		for _, f := range n.Forwards {
			low, high, ranged := strings.Cut(f.Ports, "-")
			if !ranged {
				high = low
			}
			first, _ := strconv.Atoi(low)
			last, _ := strconv.Atoi(high)
			if f.Protocol == protocol && int(from.Port()) >= first && int(from.Port()) <= last && slices.Contains(f.Targets, to.Addr()) {
				return fmt.Sprintf("forward %s/%s of network %s", f.Ports, f.Protocol, n.Name)
			}
		}
	}
	return ""
}

// stopped is the answer of a rule that stops a packet.
func (c *connection) stopped(l *leg, answer bool) {
	r := &l.result
	action := actionDrop
	if r.Verdict == eval.Rejected {
		action = actionReject
	}
	rule := c.rule(found{r.Chain, r.Rule, r.Element, r.Hook}, action)
	c.way.Rule = &rule
	did := map[string]string{actionDrop: "dropped", actionReject: "rejected"}[action]
	f := &fault{verdict: api.ReachNo, reason: fmt.Sprintf("it is %s by %s", did, sentence(&rule))}
	c.remedy(f, l, &rule, answer)
	c.failed(f, answer)
}

// undecided is the answer of a rule that nobody can know.
func (c *connection) undecided(r *eval.Result, answer bool) {
	f := cannotTell("what the rules do is not known")
	if r.Rule != nil {
		rule := c.rule(found{r.Rule.Chain, r.Rule, r.Element, r.Hook}, actionUnknown)
		c.way.Rule = &rule
		f = cannotTell("it depends on what is not known here of %s", sentence(&rule))
		f.kind = string(firewall.KindUnclear)
	}
	c.failed(f, answer)
}

// sentence names a rule in a sentence.
func sentence(r *api.ReachRule) string {
	what := "a rule"
	if r.Text == "" && r.Action != actionUnknown {
		what = "the policy"
	}
	text := fmt.Sprintf("%s of %s (table %s, chain %s)", what, r.Program, r.Table, r.Chain)
	if r.Owner != "" {
		text += ", of " + r.Owner
	}
	return text
}

// found is a rule, or a policy, and where it was met.
type found struct {
	chain   *ruleset.Chain
	rule    *ruleset.Rule // nil: the policy
	element *ruleset.Element
	hook    eval.Hook
}

// rule is what is found for the outside.
func (c *connection) rule(f found, action string) api.ReachRule {
	r := api.ReachRule{Program: "nft", Action: action}
	if f.chain == nil {
		return r
	}
	t := f.chain.Table
	r.Table, r.Chain = t.Family+" "+t.Name, f.chain.Name
	if t.Program != "" {
		r.Program, r.Table = t.Program, t.Name
	}
	if f.rule != nil {
		r.Text, r.Handle = f.rule.Text, f.rule.Handle
	}
	if f.element != nil && diagnose.Own(t.Family, t.Name) {
		r.Element = f.element.String()
	}
	r.Owner = c.owner(f)
	return r
}

// others are the programs that tables and chains are known by.
var others = []struct{ prefix, owner string }{
	{"DOCKER", "Docker"},
	{"docker", "Docker"},
	{"ufw-", "ufw"},
	{"ufw6-", "ufw"},
	{"KUBE-", "Kubernetes"},
	{"cali-", "Calico"},
	{"CNI-", "CNI"},
	{"NETAVARK", "netavark"},
	{"netavark", "netavark"},
	{"firewalld", "firewalld"},
	{"libvirt_network", "libvirt"},
}

// owner is whose a rule is, empty where nothing tells.
func (c *connection) owner(f found) string {
	t := f.chain.Table
	if t.Family == "netdev" && firewall.IsGuardTable(t.Name) {
		return "the guard of port " + f.hook.In + kindOfGuard(f.chain.Name)
	}
	if _, n := c.w.policyOf(f); n != nil {
		return c.networkOf(f)
	}
	if f.element != nil && diagnose.Own(t.Family, t.Name) {
		return "network " + f.element.Comment
	}
	if f.rule != nil && f.rule.Comment != "" && diagnose.Own(t.Family, t.Name) {
		return f.rule.Comment
	}
	if strings.HasPrefix(f.chain.Name, c.w.Prefix) || strings.HasPrefix(f.chain.Name, "VNETD_") || diagnose.Own(t.Family, t.Name) {
		return c.networkOf(f)
	}
	for _, o := range others {
		if strings.HasPrefix(t.Name, o.prefix) || strings.HasPrefix(f.chain.Name, o.prefix) {
			return o.owner
		}
	}
	return ""
}

// kindOfGuard is what a chain of guards looks for.
func kindOfGuard(chain string) string {
	kind, ok := strings.CutPrefix(chain, "drop_")
	if !ok {
		return ""
	}
	return " (" + kind + ")"
}

// accepting is the command that has the base chain which stops a packet accept it.
func (c *connection) accepting(l *leg) string {
	r := &l.result
	base, t := r.Base, r.Chain.Table
	p := &r.Packet
	if base == nil {
		base = r.Chain
	}
	if t.Program != "" {
		match := ""
		if r.Hook.In != "" {
			match += " -i " + r.Hook.In
		}
		if r.Hook.Out != "" {
			match += " -o " + r.Hook.Out
		}
		if p.Src.IsValid() {
			match += " -s " + p.Src.String()
		}
		if p.Dst.IsValid() {
			match += " -d " + p.Dst.String()
		}
		table := ""
		if t.Name != "filter" {
			table = " -t " + t.Name
		}
		return fmt.Sprintf("%s%s -I %s%s%s -j ACCEPT", t.Program, table, base.Name, match, c.matchProtocol(p, false))
	}
	family := "ip"
	if c.v6 {
		family = "ip6"
	}
	match := ""
	if p.Src.IsValid() {
		match += fmt.Sprintf(" %s saddr %v", family, p.Src)
	}
	if p.Dst.IsValid() {
		match += fmt.Sprintf(" %s daddr %v", family, p.Dst)
	}
	return fmt.Sprintf("nft insert rule %s %s %s%s%s accept", t.Family, t.Name, base.Name, match, c.matchProtocol(p, true))
}

// matchProtocol matches the packet's protocol and ports, of an answer the source's.
func (c *connection) matchProtocol(p *eval.Packet, nft bool) string {
	protocol := c.protocol
	if protocol == "icmp" {
		if c.v6 {
			protocol = "ipv6-icmp"
		}
		if nft {
			return " meta l4proto " + protocol
		}
		return " -p " + protocol
	}
	side, port := "dport", p.DstPort
	if p.Connection.Reply {
		side, port = "sport", p.SrcPort
	}
	if nft {
		return fmt.Sprintf(" %s %s %d", protocol, side, port)
	}
	return fmt.Sprintf(" -p %s --%s %d", protocol, side, port)
}

// asks is what a chain of networks' rules is asked about.
type asks struct {
	direction firewall.Direction
	peers     bool // what peers may open, before the rules that allow
}

// policyChains are the chains that have networks' peers and rules, of iptables by their names
// and of nftables by what these begin with, a bridge behind.
var policyChains = map[string]asks{
	"VNETD_EGRESS": {direction: firewall.Egress}, "VNETD_HOST": {direction: firewall.Egress}, "VNETD_INGRESS": {direction: firewall.Ingress},
	"VNETD_ADMIT": {firewall.Ingress, true}, "VNETD_PEERS": {firewall.Ingress, true},
	"leaving": {direction: firewall.Egress}, "asking": {direction: firewall.Egress}, "outbound": {direction: firewall.Egress},
	"entering": {direction: firewall.Ingress}, "inbound": {firewall.Ingress, true}, "exempt": {firewall.Ingress, true},
}

// policyOf is what a rule is asked about, and the network whose it is; nil for a rule that is
// none of peers or rules.
func (w *World) policyOf(f found) (asks, *Network) {
	name := f.chain.Name
	if name == w.Prefix+"FWO" {
		name = "outbound"
	} else if diagnose.Own(f.chain.Table.Family, f.chain.Table.Name) {
		name, _, _ = strings.Cut(name, "_")
	}
	a, known := policyChains[name]
	if name == "outbound" { // of an isolated network, what its rules allow
		n := w.onDevice(f.hook.In)
		known = n != nil && n.Rules.Mode == firewall.ModeIsolated
	}
	if !known || f.rule == nil {
		return a, nil
	}
	device := f.hook.Out
	if a.direction == firewall.Egress {
		device = f.hook.In
	}
	return a, w.onDevice(device)
}

// onDevice is the network whose bridge has that name, nil for none.
func (w *World) onDevice(name string) *Network {
	return w.findNetwork(func(n *Network) bool { return n.Bridge == name && name != "" })
}

// deciding names what of the network's peers and rules decides, "" where it is the mode.
func (c *connection) deciding(a asks, n *Network) string {
	if a.peers {
		if peer := n.Rules.Opener(&c.flow); peer != "" {
			return "peer " + peer
		}
	}
	return n.Rules.Policy.Decides(a.direction, &c.flow)
}

// networkOf is the network whose peer or rule a rule stands for; else the one whose bridge or
// subnet it names, or the two; else those whose bridges the packet comes and leaves by.
func (c *connection) networkOf(f found) string {
	if f.rule == nil {
		return ""
	}
	if a, n := c.w.policyOf(f); n != nil {
		if what := c.deciding(a, n); what != "" {
			return "network " + n.Name + ", " + what
		}
		return "network " + n.Name
	}
	words := strings.Fields(f.rule.Text)
	names := c.w.namesOf(func(n *Network) bool {
		return n.Bridge != "" && slices.Contains(words, n.Bridge) || slices.ContainsFunc(n.Gateways, func(p netip.Prefix) bool { return slices.Contains(words, p.Masked().String()) })
	})
	if len(names) == 0 && diagnose.Own(f.chain.Table.Family, f.chain.Table.Name) {
		names = c.w.namesOf(func(n *Network) bool { return n.Bridge != "" && (n.Bridge == f.hook.In || n.Bridge == f.hook.Out) })
	}
	switch len(names) {
	case 0:
		return ""
	case 1:
		return "network " + names[0]
	}
	return "networks " + strings.Join(names, " and ")
}

// namesOf are the names of the networks that are so.
func (w *World) namesOf(are func(*Network) bool) (names []string) {
	for i := range w.Networks {
		if n := &w.Networks[i]; are(n) {
			names = append(names, n.Name)
		}
	}
	return names
}

// remedy adds what would have a packet pass that a rule stops.
func (c *connection) remedy(f *fault, l *leg, rule *api.ReachRule, answer bool) {
	t := l.result.Chain.Table
	networks := c.w.isNetworks(rule) || diagnose.Own(t.Family, t.Name)
	switch {
	case t.Family == "netdev" && firewall.IsGuardTable(t.Name):
		f.remedies = append(f.remedies, "vnetctl port show "+l.result.Hook.In)
	case networks && !answer:
		f.remedies = append(f.remedies, c.opened(l)...)
	case !networks:
		f.kind = string(firewall.KindDrop)
		if rule.Text == "" {
			f.kind = string(firewall.KindPolicy)
		}
		f.remedies = append(f.remedies, c.accepting(l))
	}
}

// isNetworks reports whether a rule is one of a network of ours.
func (w *World) isNetworks(r *api.ReachRule) bool {
	return strings.HasPrefix(r.Owner, "network ") || strings.HasPrefix(r.Owner, "networks ") || strings.HasPrefix(r.Chain, w.Prefix) || strings.HasPrefix(r.Chain, "VNETD_")
}

// opened are the commands by which networks open what their rules stop.
func (c *connection) opened(l *leg) (all []string) {
	r := &l.result
	if a, n := c.w.policyOf(found{r.Chain, r.Rule, r.Element, r.Hook}); n != nil && c.deciding(a, n) != "" {
		return []string{c.allowing(n, a.direction)}
	}
	if l.to.kind == api.ReachHost { // what guests need of this host is open; the rest is the host's INPUT
		return []string{c.accepting(l)}
	}
	from, to := l.from.network, l.to.network
	if l.to.kind != api.ReachGuest {
		to = nil
	}
	switch {
	case from == to:
		return nil
	case from.judges() && to.judges():
		all = append(all, c.peering(from, to))
	case from.judges() && to == nil && from.Rules.Mode == firewall.ModeIsolated:
		all = append(all, c.allowing(from, firewall.Egress), fmt.Sprintf("vnetctl set %s mode=nat", from.Name))
	case to.judges() && from == nil:
		all = append(all, c.allowing(to, firewall.Ingress))
	}
	return append(all, c.forwarding(l, to)...)
}

// forwarding is the command that leads a port of this host to the guest; none where its network
// can have no forwards.
func (c *connection) forwarding(l *leg, to *Network) []string {
	if to == nil || to.Rules.Mode != firewall.ModeNAT && to.Rules.Mode != firewall.ModeRoute || c.protocol == "icmp" {
		return nil
	}
	guest := c.to.text
	if l.to.guest != nil && len(l.to.guest.Names) > 0 {
		guest = l.to.guest.Names[0]
	} else if a, err := netip.ParseAddr(guest); err == nil && a.Is6() {
		guest = "[" + guest + "]"
	}
	return []string{fmt.Sprintf("vnetctl forward add %s %d:%s:%d/%s # then by this host's address", to.Name, c.port, guest, c.port, c.protocol)}
}

// judges reports whether the network may have peers and rules.
func (n *Network) judges() bool { return n != nil && n.Rules.Mode.Filtered() }

// service is what is to be opened, as peers and rules name it.
func (c *connection) service() string {
	if c.flow.Port == 0 {
		return c.flow.Protocol
	}
	return fmt.Sprintf("%s/%d", c.flow.Protocol, c.flow.Port)
}

// allowing is the command that has a network's rules allow the connection, ahead of the others.
// Those of a port come before these.
func (c *connection) allowing(n *Network, d firewall.Direction) string {
	if port, _, of := strings.Cut(n.Rules.Policy.Decides(d, &c.flow), " rule "); of {
		return "vnetctl port show " + port
	}
	where, who := c.flow.Destination, " to "
	if d == firewall.Ingress {
		where, who = c.flow.Source, " from "
	}
	text := fmt.Sprintf("vnetctl rule add %s %s allow %s", n.Name, d, c.service())
	if where != outside4 && where != outside6 {
		text += who + where.String()
	}
	return text + " --at 1"
}

// peering are the commands by which guests of one network may open the connection to those of
// another: each says what it does not say yet.
func (c *connection) peering(from, to *Network) string {
	var all []string
	for _, half := range []struct {
		n, peer   *Network
		direction string
	}{{from, to, "out"}, {to, from, "in"}} {
		services, said := half.n.says(half.peer.Name, half.direction, c.service())
		if said {
			continue
		}
		text := fmt.Sprintf("vnetctl peer add %s %s %s", half.n.Name, half.peer.Name, strings.Join(services, " "))
		if half.direction != "out" {
			text += " --direction " + half.direction
		}
		all = append(all, text)
	}
	if len(all) == 0 {
		return "vnetctl peer list " + from.Name // which says why it waits
	}
	return strings.Join(all, " && ")
}

// says reports whether the network's document has a peering of a direction that names the service,
// or everything. services are those that one of just that direction has, with this one.
func (n *Network) says(peer, direction, service string) (services []string, said bool) {
	for _, p := range n.Peers {
		if p.Network != peer || p.Direction != direction && p.Direction != "both" {
			continue
		}
		said = said || len(p.Services) == 0 || slices.Contains(p.Services, service)
		if p.Direction == direction {
			services = append(services, p.Services...)
		}
	}
	return append(services, service), said
}
