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

// DOCKER-USER is the chain that Docker makes for others' rules and asks before
// its own. It stands in FORWARD of filter, in both families if Docker has IPv6.
// Accepts for open networks stand there behind the jumps.
const chainDockerUser = "DOCKER-USER"

// options are how rules are arranged, the same for all networks.
type options struct {
	prefix string
	exact  bool // libvirt's rules to the letter
	docker bool // DOCKER-USER leads to the chains
}

// Render is the pure function from a network's intent to libvirt's rules for it,
// in the order of its Rules. The text is exactly what iptables-save prints, so that
// a listing can be compared with it. prefix is that of the chain names, normally
// DefaultPrefix. Modes without rules render none.
func Render(n firewall.Network, prefix string) []firewall.Line {
	return options{prefix: prefix, exact: true}.lines(n.Rules())
}

// Jumps are the lines of the built-in chains that lead to ours, for both
// families, each parent's in the order in which they must stand. In FORWARD
// that is FWX, FWI, FWO: traffic within a bridge is accepted before the rules
// that reject what enters or leaves it.
func Jumps(prefix string) []firewall.Line {
	var jumps []firewall.Line
	for _, f := range []firewall.Family{firewall.IPv4, firewall.IPv6} {
		for _, j := range []struct{ table, parent, chain string }{
			{tableFilter, "INPUT", chainINP},
			{tableFilter, "FORWARD", chainFWX},
			{tableFilter, "FORWARD", chainFWI},
			{tableFilter, "FORWARD", chainFWO},
			{tableFilter, "OUTPUT", chainOUT},
			{tableNAT, "POSTROUTING", chainPRT},
			{tableMangle, "POSTROUTING", chainPRT},
		} {
			jumps = append(jumps, firewall.Line{Family: f, Table: j.table, Chain: j.parent, Args: "-j " + prefix + j.chain})
		}
	}
	return jumps
}

// dockerJumps lead from DOCKER-USER to the chains that FORWARD leads to. They
// accept for the networks' bridges what the networks' rules accept and reject
// what those reject: an accept for a bridge as a whole would open isolated and
// translated networks to each other.
func (o options) dockerJumps() []firewall.Line {
	var jumps []firewall.Line
	for _, j := range Jumps(o.prefix) {
		if j.Chain == "FORWARD" {
			j.Chain = chainDockerUser
			jumps = append(jumps, j)
		}
	}
	return jumps
}

// lines are rules as they are written under these options.
func (o options) lines(rules []firewall.Rule) []firewall.Line {
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
	for _, m := range []struct{ flag, value string }{{"-i ", r.In}, {"-o ", r.Out}, {"-p ", r.Protocol}} {
		if m.value != "" {
			b = append(append(append(b, m.flag...), m.value...), ' ')
		}
	}
	if r.Port != 0 {
		b = append(append(append(b, "-m "...), r.Protocol...), " --dport "...)
		b = append(strconv.AppendUint(b, uint64(r.Port), 10), ' ')
	}
	if r.Replies {
		b = append(b, "-m conntrack --ctstate RELATED,ESTABLISHED "...)
	}
	return b
}

// appendTarget appends a rule's target with its options.
func (o options) appendTarget(b []byte, r firewall.Rule) []byte {
	switch r.Verdict {
	case firewall.Reject:
		if r.Family == firewall.IPv6 {
			return append(b, "REJECT --reject-with icmp6-port-unreachable"...)
		}
		return append(b, "REJECT --reject-with icmp-port-unreachable"...)
	case firewall.Keep:
		return append(b, "RETURN"...)
	case firewall.Masquerade:
		return appendPorts(append(b, "MASQUERADE"...), " --to-ports ", r.Ports)
	case firewall.Translate:
		b = r.Addrs.Start.AppendTo(append(b, "SNAT --to-source "...))
		if r.Addrs.End.IsValid() && r.Addrs.End != r.Addrs.Start {
			b = r.Addrs.End.AppendTo(append(b, '-'))
		}
		return appendPorts(b, ":", r.Ports)
	case firewall.Redirect:
		return appendPorts(append(b, "REDIRECT"...), " --to-ports ", r.Ports)
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
