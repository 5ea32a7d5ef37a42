package iptables

import "github.com/vnetd/vnetd/pkg/firewall"

// options are how rules are arranged, the same for all networks.
type options struct {
	prefix string
	exact  bool // libvirt's rules to the letter
	docker bool // DOCKER-USER leads to the chains
}

// DOCKER-USER is the chain that Docker makes for others' rules and asks before
// its own. It stands in FORWARD of filter, in both families if Docker has IPv6.
// Accepts for open networks stand there behind the jumps.
const chainDockerUser = "DOCKER-USER"

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

// change is one network's part in a transaction, in lines.
type change struct {
	remove []firewall.Line // must be absent afterwards, unless in place as well
	place  []firewall.Line // must be there once, in this order
	// network is the one whose rules are placed; what a libvirtd left for its
	// bridge is removed. Zero: nothing is looked for.
	network firewall.Network
	others  firewall.Desired // whose rules are none of libvirtd's leftovers
}

// changes are those that networks ask for, in lines.
func (o options) changes(desired firewall.Desired, changes []firewall.Change) []change {
	var out []change
	for _, c := range changes {
		lines := change{remove: o.lines(c.Known), place: o.lines(c.Rules)}
		if !c.Remove {
			lines.network, lines.others = c.Network, desired
		}
		out = append(out, lines)
	}
	return out
}

// completion makes every network complete again, the newest last.
func (o options) completion(desired firewall.Desired) []change {
	var out []change
	for _, e := range desired {
		out = append(out, change{place: o.lines(e.Rules)})
	}
	return out
}

// known are the lines of all networks in any form.
func (o options) known(desired firewall.Desired) []firewall.Line {
	var out []firewall.Line
	for _, e := range desired {
		out = append(out, o.lines(e.All())...)
	}
	return out
}
