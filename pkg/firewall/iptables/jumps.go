package iptables

import (
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// Jumps are the lines of the built-in chains that lead to those that are always
// there, for both families, each parent's in the order in which they must stand. In
// FORWARD that is FWX, FWI, FWO: traffic within a bridge is accepted before the rules
// that reject what enters or leaves it. The administrator's chain stands before all.
func Jumps(prefix string) []firewall.Line {
	return slices.DeleteFunc(allJumps(prefix), func(j firewall.Line) bool { return optional(jumpTarget(j.Args)) })
}

// optional reports whether a chain is there only once a network has rules in it.
func optional(chain string) bool {
	return slices.Contains([]string{chainEgress, chainIngress, chainAdmit, chainHost, chainPeers}, chain)
}

// owns reports whether rules of networks stand in a chain, and none that the administrator
// is asked to put there.
func (o options) owns(chain string) bool {
	return optional(chain) || strings.HasPrefix(chain, o.prefix)
}

// users reports whether what stands in a chain is the administrator's.
func users(chain string) bool { return chain == chainUserForward || chain == chainUserInput }

// allJumps are Jumps, and those to chains that are there if a network has rules in them,
// which come before libvirt's: what is refused is refused before those accept, and what
// is let in before they reject.
func allJumps(prefix string) []firewall.Line {
	var jumps []firewall.Line
	for _, f := range []firewall.Family{firewall.IPv4, firewall.IPv6} {
		for _, j := range []struct{ table, parent, chain string }{
			{tableFilter, "INPUT", chainUserInput},
			{tableFilter, "INPUT", chainHost},
			{tableFilter, "INPUT", prefix + chainINP},
			{tableFilter, "FORWARD", chainUserForward},
			{tableFilter, "FORWARD", chainEgress},
			{tableFilter, "FORWARD", chainIngress},
			{tableFilter, "FORWARD", chainAdmit},
			{tableFilter, "FORWARD", prefix + chainFWX},
			{tableFilter, "FORWARD", prefix + chainFWI},
			{tableFilter, "FORWARD", prefix + chainFWO},
			{tableFilter, "OUTPUT", prefix + chainOUT},
			{tableNAT, "POSTROUTING", chainPeers},
			{tableNAT, "POSTROUTING", prefix + chainPRT},
			{tableMangle, "POSTROUTING", prefix + chainPRT},
		} {
			jumps = append(jumps, firewall.Line{Family: f, Table: j.table, Chain: j.parent, Args: "-j " + j.chain})
		}
	}
	return jumps
}

// jumps are those that shall stand once lines do: those of Jumps, and to the chains that
// are there or in which some of the lines stand.
func (o options) jumps(there func(table, chain string) bool, lines []firewall.Line) []firewall.Line {
	placed := map[firewall.Line]bool{}
	for _, l := range lines {
		placed[firewall.Line{Family: l.Family, Table: l.Table, Chain: l.Chain}] = true
	}
	return slices.DeleteFunc(allJumps(o.prefix), func(j firewall.Line) bool {
		chain := jumpTarget(j.Args)
		return optional(chain) && !there(j.Table, chain) && !placed[firewall.Line{Family: j.Family, Table: j.Table, Chain: chain}]
	})
}

// nowhere has no chain be there.
func nowhere(_, _ string) bool { return false }

// dockerJumps lead from DOCKER-USER to the chains that FORWARD leads to by jumps. They
// accept for the networks' bridges what the networks' rules accept and reject
// what those reject: an accept for a bridge as a whole would open isolated and
// translated networks to each other.
func dockerJumps(jumps []firewall.Line) []firewall.Line {
	var out []firewall.Line
	for _, j := range jumps {
		if j.Chain == "FORWARD" {
			j.Chain = chainDockerUser
			out = append(out, j)
		}
	}
	return out
}

// jumpTarget is the chain that a rule of Jumps leads to.
func jumpTarget(args string) string {
	return strings.TrimPrefix(args, "-j ")
}
