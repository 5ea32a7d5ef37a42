package iptables

import (
	"fmt"
	"strings"

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

// chainPrerouting is the built-in chain in which redirects stand. libvirt has no
// chain of its own there, and no jump is made for the few networks that need one.
const chainPrerouting = "PREROUTING"

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

// Guards are the lines by which vnetd differs from libvirt: a guard stands at the
// head of the network's part of LIBVIRT_FWI and asks LIBVIRT_FWO first. See
// firewall.AskOutbound.
func Guards(n firewall.Network, prefix string) []firewall.Line {
	var guards []firewall.Rule
	for _, r := range n.Rules() {
		if r.Verdict == firewall.AskOutbound {
			guards = append(guards, r)
		}
	}
	return options{prefix: prefix}.lines(guards)
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
	var lines []firewall.Line
	for _, r := range rules {
		if o.exact && r.Verdict == firewall.AskOutbound || !o.docker && r.Path == firewall.Open {
			continue
		}
		table, chain := o.chain(r.Path)
		lines = append(lines, firewall.Line{Family: r.Family, Table: table, Chain: chain, Args: matches(r) + "-j " + o.target(r)})
	}
	return lines
}

// chain is where rules of a path stand.
func (o options) chain(p firewall.Path) (table, chain string) {
	switch p {
	case firewall.Redirection:
		return tableNAT, chainPrerouting
	case firewall.Open:
		return tableFilter, chainDockerUser
	}
	at := map[firewall.Path][2]string{
		firewall.ToHost:      {tableFilter, chainINP},
		firewall.FromHost:    {tableFilter, chainOUT},
		firewall.Within:      {tableFilter, chainFWX},
		firewall.Inbound:     {tableFilter, chainFWI},
		firewall.Outbound:    {tableFilter, chainFWO},
		firewall.Translation: {tableNAT, chainPRT},
		firewall.Completion:  {tableMangle, chainPRT},
	}[p]
	return at[0], o.prefix + at[1]
}

// matches are a rule's matches in the order in which iptables-save prints them,
// with a blank behind each.
func matches(r firewall.Rule) string {
	var b strings.Builder
	match := func(flag, value string) {
		if value != "" {
			b.WriteString(flag + " " + value + " ")
		}
	}
	if r.Source.IsValid() {
		match("-s", r.Source.String())
	}
	if r.Elsewhere {
		b.WriteString("! ")
	}
	if r.Destination.IsValid() {
		match("-d", r.Destination.String())
	}
	match("-i", r.In)
	match("-o", r.Out)
	match("-p", r.Protocol)
	if r.Port != 0 {
		match("-m", fmt.Sprintf("%s --dport %d", r.Protocol, r.Port))
	}
	if r.Replies {
		match("-m", "conntrack --ctstate RELATED,ESTABLISHED")
	}
	return b.String()
}

// target is a rule's target with its options.
func (o options) target(r firewall.Rule) string {
	switch r.Verdict {
	case firewall.Reject:
		if r.Family == firewall.IPv6 {
			return "REJECT --reject-with icmp6-port-unreachable"
		}
		return "REJECT --reject-with icmp-port-unreachable"
	case firewall.Keep:
		return "RETURN"
	case firewall.Masquerade:
		return "MASQUERADE" + ports(" --to-ports ", r.Ports)
	case firewall.Translate:
		return "SNAT --to-source " + addresses(r.Addrs) + ports(":", r.Ports)
	case firewall.Redirect:
		return "REDIRECT" + ports(" --to-ports ", r.Ports)
	case firewall.Fill:
		return "CHECKSUM --checksum-fill"
	case firewall.AskOutbound:
		return o.prefix + chainFWO
	default: // firewall.Accept
		return "ACCEPT"
	}
}

// addresses is a range as iptables prints it: a range of one as one address.
func addresses(r firewall.AddrRange) string {
	if !r.End.IsValid() || r.End == r.Start {
		return r.Start.String()
	}
	return r.Start.String() + "-" + r.End.String()
}

// ports is a range of ports behind what introduces it, "" for any port. A range of
// one is one number.
func ports(intro string, r firewall.PortRange) string {
	switch {
	case r == firewall.PortRange{}:
		return ""
	case r.Start == r.End:
		return fmt.Sprint(intro, r.Start)
	}
	return fmt.Sprintf("%s%d-%d", intro, r.Start, r.End)
}
