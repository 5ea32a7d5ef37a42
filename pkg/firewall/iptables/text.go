package iptables

import (
	"strconv"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// DefaultPrefix is what libvirt's chain names start with.
const DefaultPrefix = "LIBVIRT_"

// The tables in which the chains stand.
const (
	tableFilter = "filter"
	tableNAT    = "nat"
	tableMangle = "mangle"
)

// The chains without their prefix: packets to the host (INP), from the host
// (OUT), forwarded within one bridge (FWX), into a bridge (FWI), out of a
// bridge (FWO), and after routing (PRT; in nat and in mangle).
const (
	chainFWI = "FWI"
	chainFWO = "FWO"
	chainFWX = "FWX"
	chainINP = "INP"
	chainOUT = "OUT"
	chainPRT = "PRT"
)

// The chains without libvirt's like. Those of the administrator are made empty, and what
// comes to stand there is nobody's but theirs. The others are there as of the first
// network with peers or rules.
const (
	chainUserForward = "VNETD_USER_FWD" // the administrator's, of what is forwarded
	chainUserInput   = "VNETD_USER_INP" // the administrator's, of what comes to this host
	chainEgress      = "VNETD_EGRESS"   // refuses what is forwarded out of a bridge
	chainIngress     = "VNETD_INGRESS"  // refuses what is forwarded into a bridge
	chainAdmit       = "VNETD_ADMIT"    // lets in what a network's mode does not
	chainHost        = "VNETD_HOST"     // refuses what guests send to the host
	chainPeers       = "VNETD_PEERS"    // keeps the sources of peers
)

// ownPrefix is what these chains' names start with.
const ownPrefix = "VNETD_"

// DOCKER-USER is the chain that Docker makes for others' rules and asks before
// its own. It stands in FORWARD of filter, in both families if Docker has IPv6.
// Accepts for open networks stand there behind the jumps.
const chainDockerUser = "DOCKER-USER"

// options are how rules are arranged, the same for all networks.
type options struct {
	prefix string
	exact  bool // libvirt's rules to the letter
	docker bool // DOCKER-USER leads to the chains
	none   bool // networks have no rules here
}

// Render is the pure function from a network's intent to libvirt's rules for it,
// in the order of its Rules. The text is exactly what iptables-save prints, so that
// a listing can be compared with it. prefix is that of the chain names, normally
// DefaultPrefix. Modes without rules render none.
func Render(n firewall.Network, prefix string) []firewall.Line {
	return options{prefix: prefix, exact: true}.lines(n.Rules())
}

// lines are rules as they are written under these options.
func (o options) lines(rules []firewall.Rule) []firewall.Line {
	if o.none {
		return nil
	}
	lines := make([]firewall.Line, 0, len(rules))
	var b []byte
	for _, r := range rules {
		if o.exact && r.Extra() || !o.docker && r.Path == firewall.Open {
			continue
		}
		at := places[r.Path]
		if at.ours {
			at.chain = o.prefix + at.chain
		}
		b = o.appendTarget(append(appendMatches(b[:0], r), "-j "...), r)
		lines = append(lines, firewall.Line{Family: r.Family, Table: at.table, Chain: at.chain, Args: string(b)})
	}
	return lines
}

// places are the table and the chain in which rules of a path stand. libvirt has no
// chain of its own before routing, and no jump is made for the few networks that
// need one.
var places = map[firewall.Path]struct {
	table, chain string
	ours         bool // the chain's name has the prefix
}{
	firewall.ToHost:      {tableFilter, chainINP, true},
	firewall.FromHost:    {tableFilter, chainOUT, true},
	firewall.Within:      {tableFilter, chainFWX, true},
	firewall.Inbound:     {tableFilter, chainFWI, true},
	firewall.Outbound:    {tableFilter, chainFWO, true},
	firewall.Translation: {tableNAT, chainPRT, true},
	firewall.Completion:  {tableMangle, chainPRT, true},
	firewall.Redirection: {tableNAT, "PREROUTING", false},
	firewall.Open:        {tableFilter, chainDockerUser, false},
	firewall.Departure:   {tableNAT, "OUTPUT", false},
	firewall.Leaving:     {tableFilter, chainEgress, false},
	firewall.Entering:    {tableFilter, chainIngress, false},
	firewall.Asking:      {tableFilter, chainHost, false},
	firewall.Admission:   {tableFilter, chainAdmit, false},
	firewall.Exemption:   {tableNAT, chainPeers, false},
}

// appendMatches appends a rule's matches in the order in which iptables-save prints
// them, with a blank behind each.
func appendMatches(b []byte, r firewall.Rule) []byte {
	if r.Source.IsValid() {
		b = append(r.Source.AppendTo(append(b, "-s "...)), ' ')
	}
	if r.Elsewhere {
		b = append(b, "! "...)
	}
	if r.Destination.IsValid() {
		b = append(r.Destination.AppendTo(append(b, "-d "...)), ' ')
	}
	for _, m := range []struct{ flag, value string }{{"-i ", r.In}, {"-o ", r.Out}, {"-p ", protocolName(r)}} {
		if m.value != "" {
			b = append(append(append(b, m.flag...), m.value...), ' ')
		}
	}
	if r.Local {
		b = append(b, "-m addrtype --dst-type LOCAL "...)
	}
	if r.Sender != (firewall.MAC{}) {
		b = append(append(append(b, "-m mac --mac-source "...), r.Sender.String()...), ' ')
	}
	if r.Type != 0 {
		b = append(strconv.AppendUint(append(b, "-m icmp6 --icmpv6-type "...), uint64(r.Type), 10), ' ')
	}
	if r.Port != 0 {
		b = append(append(append(b, "-m "...), r.Protocol...), " --dport "...)
		b = strconv.AppendUint(b, uint64(r.Port), 10)
		if r.PortEnd > r.Port {
			b = strconv.AppendUint(append(b, ':'), uint64(r.PortEnd), 10)
		}
		b = append(b, ' ')
	}
	switch {
	case r.Replies:
		b = append(append(b, "-m conntrack --ctstate RELATED,ESTABLISHED "...), sides[r.Side]...)
	case r.Side != firewall.EitherSide:
		b = append(append(b, "-m conntrack "...), sides[r.Side]...)
	}
	if r.Led {
		b = append(b, "-m conntrack --ctstate DNAT "...)
	}
	if r.Verdict == firewall.Log {
		b = append(b, "-m limit --limit "+logRate+" --limit-burst "+logBurst+" "...)
	}
	return b
}

// How many packets one rule has the kernel log, at most.
const (
	logRate  = "5/sec"
	logBurst = "20"
)

// sides are matches of the side that sends a packet.
var sides = map[firewall.Side]string{firewall.Opener: "--ctdir ORIGINAL ", firewall.Answerer: "--ctdir REPLY "}

// protocolName is a rule's protocol as iptables-save prints it.
func protocolName(r firewall.Rule) string {
	if r.Protocol == "icmp" && r.Family == firewall.IPv6 {
		return "ipv6-icmp"
	}
	return r.Protocol
}

// appendLead appends the target that leads packets to a guest. Ports that are not those
// of the packets are counted from the first of both ranges.
func appendLead(b []byte, r firewall.Rule) []byte {
	b = append(b, "DNAT --to-destination "...)
	if r.Ports == (firewall.PortRange{}) {
		return r.Addrs.Start.AppendTo(b)
	}
	if r.Family == firewall.IPv6 {
		b = append(r.Addrs.Start.AppendTo(append(b, '[')), ']')
	} else {
		b = r.Addrs.Start.AppendTo(b)
	}
	b = appendPorts(b, ":", r.Ports)
	if r.Ports.End > r.Ports.Start {
		b = strconv.AppendUint(append(b, '/'), uint64(r.Port), 10)
	}
	return b
}

// keepTarget has the source stay: as far as the network's own rules are concerned, or, of
// what peers send, whatever rules there are behind.
func keepTarget(r firewall.Rule) string {
	if r.Path == firewall.Exemption {
		return "ACCEPT"
	}
	return "RETURN"
}

// rejection is how a sender is told.
func rejection(r firewall.Rule) string {
	switch {
	case r.Verdict == firewall.Reset:
		return "tcp-reset"
	case r.Family == firewall.IPv6:
		return "icmp6-port-unreachable"
	default:
		return "icmp-port-unreachable"
	}
}

// appendSource appends the target that rewrites sources.
func appendSource(b []byte, r firewall.Rule) []byte {
	b = r.Addrs.Start.AppendTo(append(b, "SNAT --to-source "...))
	if r.Addrs.End.IsValid() && r.Addrs.End != r.Addrs.Start {
		b = r.Addrs.End.AppendTo(append(b, '-'))
	}
	return appendPorts(b, ":", r.Ports)
}

// appendTarget appends a rule's target with its options.
func (o options) appendTarget(b []byte, r firewall.Rule) []byte {
	switch r.Verdict {
	case firewall.Reject, firewall.Reset:
		return append(append(b, "REJECT --reject-with "...), rejection(r)...)
	case firewall.Keep:
		return append(b, keepTarget(r)...)
	case firewall.Pass:
		return append(b, "RETURN"...)
	case firewall.Drop:
		return append(b, "DROP"...)
	case firewall.Log:
		return strconv.AppendQuote(append(b, "LOG --log-prefix "...), r.Prefix)
	case firewall.Masquerade:
		return appendPorts(append(b, "MASQUERADE"...), " --to-ports ", r.Ports)
	case firewall.Translate:
		return appendSource(b, r)
	case firewall.Redirect:
		return appendPorts(append(b, "REDIRECT"...), " --to-ports ", r.Ports)
	case firewall.Lead:
		return appendLead(b, r)
	case firewall.Fill:
		return append(b, "CHECKSUM --checksum-fill"...)
	case firewall.AskOutbound:
		return append(append(b, o.prefix...), chainFWO...)
	default: // firewall.Accept
		return append(b, "ACCEPT"...)
	}
}

// appendPorts appends a range of ports behind what introduces it, nothing for any
// port, one number for a range of one.
func appendPorts(b []byte, intro string, r firewall.PortRange) []byte {
	if r == (firewall.PortRange{}) {
		return b
	}
	b = strconv.AppendUint(append(b, intro...), uint64(r.Start), 10)
	if r.End != r.Start {
		b = strconv.AppendUint(append(b, '-'), uint64(r.End), 10)
	}
	return b
}
