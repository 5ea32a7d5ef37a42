package firewall

import (
	"net/netip"
)

// layout is how the rule set is arranged, the same for all networks.
type layout struct {
	prefix string
	exact  bool // libvirt's rules to the letter
	docker bool // DOCKER-USER leads to the chains
}

// rules are those of a network under this layout.
func (l layout) rules(n Network) []Rule {
	rules := Render(n, l.prefix)
	if !l.exact {
		rules = append(Guards(n, l.prefix), rules...)
	}
	if l.docker {
		rules = append(rules, dockerAccepts(n)...)
	}
	return rules
}

// Guards are the rules by which vnetd differs from libvirt. In libvirt's set
// LIBVIRT_FWI accepts all that goes to a routed subnet before LIBVIRT_FWO is
// asked, so guests of an isolated network, and those that use another's source
// address, can send into it. A guard stands at the head of the network's part of
// LIBVIRT_FWI, one for each subnet that is routed by any device, and asks
// LIBVIRT_FWO first: that accepts or rejects what comes from a network's bridge,
// and returns what comes from elsewhere. Other networks have none.
func Guards(n Network, prefix string) []Rule {
	if n.Dev != "" || n.Mode != ModeNAT && n.Mode != ModeRoute {
		return nil
	}
	var rules []Rule
	for _, f := range []Family{IPv4, IPv6} {
		for _, s := range n.routed(f) {
			rules = append(rules, Rule{f, tableFilter, prefix + chainFWI, "-d " + s.String() + " -o " + n.Bridge + " -j " + prefix + chainFWO})
		}
	}
	return rules
}

// routed are the subnets of a family that keep their addresses outside.
func (n Network) routed(f Family) []netip.Prefix {
	if n.translated(f) {
		return nil
	}
	return n.subnets(f)
}

// DOCKER-USER is the chain that Docker makes for others' rules and asks before
// its own. It stands in FORWARD of filter, in both families if Docker has IPv6.
const chainDockerUser = "DOCKER-USER"

// dockerJumps lead from DOCKER-USER to the chains that FORWARD leads to. They
// accept for the networks' bridges what the networks' rules accept and reject
// what those reject: an accept for a bridge as a whole would open isolated and
// translated networks to each other.
func (l layout) dockerJumps() []Rule {
	var rules []Rule
	for _, j := range Jumps(l.prefix) {
		if j.Chain == "FORWARD" {
			j.Chain = chainDockerUser
			rules = append(rules, j)
		}
	}
	return rules
}

// dockerAccepts are the rules in DOCKER-USER for a network without rules
// elsewhere, none for the others. They stand behind the jumps.
func dockerAccepts(n Network) []Rule {
	if n.Mode != ModeOpen {
		return nil
	}
	var rules []Rule
	for _, f := range []Family{IPv4, IPv6} {
		if f == IPv6 && !n.IPv6 && len(n.subnets(IPv6)) == 0 {
			continue
		}
		for _, flag := range []string{"-i ", "-o "} {
			rules = append(rules, Rule{f, tableFilter, chainDockerUser, flag + n.Bridge + " -j ACCEPT"})
		}
	}
	return rules
}
