package iptables

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// leftovers are the lines in our chains that a libvirtd left for the bridge of the
// change's network and that the network does not have. The network owns its
// bridge, so no living libvirtd does. An administrator's rules for the bridge
// look much the same; therefore only what comes in libvirt's pairs is taken for
// its work, such as an accept into and one out of the same subnet.
func leftovers(l listing, f firewall.Family, o options, c change) []firewall.Line {
	bridge := c.network.Bridge
	if bridge == "" {
		return nil
	}
	s := search{listed: l, family: f, prefix: o.prefix, bridge: bridge}
	subnets := s.filter()
	for _, n := range c.network.SubnetsOf(f) {
		subnets[n.String()] = true
	}
	s.services()
	s.nat(subnets)
	s.found = slices.DeleteFunc(s.found, func(r firewall.Line) bool { return slices.Contains(c.place, r) })
	if len(s.found) > 0 {
		s.spare(o, c.others)
	}
	return s.found
}

// policyChains are the chains for peers and policies, and what the rules of the network of a
// bridge have there: all that have the device, and with but not without.
var policyChains = []struct{ table, chain, device, with, without string }{
	{tableFilter, chainEgress, "-i ", "", ""},
	{tableFilter, chainHost, "-i ", "", ""},
	{tableFilter, chainIngress, "-o ", "", ""},
	{tableFilter, chainAdmit, "-o ", "", "--ctdir REPLY"}, // those are the peer's, to which it leads
	{tableFilter, chainAdmit, "-i ", "--ctdir REPLY", ""},
	{tableNAT, chainPeers, "-o ", "", ""},
}

// strays are the lines about the bridge of the change's network in the chains for peers and
// policies, whose rules are nobody's but that network's, that it does not have and that nobody
// knows of: those of a name's address that a vnetd opened as it was killed, or of a peer that
// changed when none ran. One that lets pass would do so ahead of what refuses.
func strays(l listing, f firewall.Family, c change) (found []firewall.Line) {
	if c.bridge == "" {
		return nil
	}
	wanted := setOf(c.place)
	for _, p := range policyChains {
		about := " " + p.device + c.bridge + " "
		for args := range l[p.table][p.chain].all() {
			line := firewall.Line{Family: f, Table: p.table, Chain: p.chain, Args: args}
			others := p.without != "" && strings.Contains(args, p.without)
			if strings.Contains(" "+args+" ", about) && strings.Contains(args, p.with) && !others && !wanted[line] {
				found = append(found, line)
			}
		}
	}
	return found
}

// search collects what a libvirtd left for one bridge.
type search struct {
	listed listing
	family firewall.Family
	prefix string
	bridge string
	found  []firewall.Line
}

// chain is what one of our chains holds.
func (s *search) chain(table, name string) *chain { return s.listed[table][s.prefix+name] }

// add notes a rule if the chain holds it.
func (s *search) add(table, name, args string) {
	if s.chain(table, name).has(args) {
		s.found = append(s.found, firewall.Line{Family: s.family, Table: table, Chain: s.prefix + name, Args: args})
	}
}

// filter finds the rules of forwarding and returns the subnets for which there
// are any.
func (s *search) filter() map[string]bool {
	subnets := map[string]bool{}
	into := regexp.MustCompile(`^-d (\S+)(?: -i (\S+))? -o ` + regexp.QuoteMeta(s.bridge) + `(?: -m conntrack --ctstate RELATED,ESTABLISHED)? -j ACCEPT$`)
	for args := range s.chain(tableFilter, chainFWI).all() {
		// Most rules are other networks', or of forwards: those need no closer look.
		if !strings.Contains(args, s.bridge) || strings.Contains(args, " -p ") {
			continue
		}
		m := into.FindStringSubmatch(args)
		if m == nil {
			continue
		}
		out := "-s " + m[1] + " -i " + s.bridge + suffix(" -o ", m[2]) + " -j ACCEPT"
		if s.chain(tableFilter, chainFWO).has(out) {
			subnets[m[1]] = true
			s.add(tableFilter, chainFWI, args)
			s.add(tableFilter, chainFWO, out)
		}
	}
	return subnets
}

// spare takes out what other networks have, such as one with the same subnet.
func (s *search) spare(o options, others firewall.Desired) {
	for _, e := range others {
		if e.Network.Bridge == s.bridge {
			continue
		}
		translation := slices.DeleteFunc(slices.Clone(e.Rules), func(r firewall.Rule) bool { return r.Path != firewall.Translation })
		lines := o.lines(translation)
		s.found = slices.DeleteFunc(s.found, func(r firewall.Line) bool { return slices.Contains(lines, r) })
	}
}

// suffix is flag and value, "" for an empty value.
func suffix(flag, value string) string {
	if value == "" {
		return ""
	}
	return flag + value
}

// services finds the lines of a network without subnets: those for this host's
// services of which both the request and the reply are accepted, the rejects, and
// what else a network with all services would have.
func (s *search) services() {
	everything := firewall.Network{
		Bridge: s.bridge, Mode: firewall.ModeIsolated, TFTP: true, DHCP: true,
		Subnets: []netip.Prefix{netip.MustParsePrefix("fe80::/64")}, // without one there is no service of IPv6
	}
	var requests, replies []string
	for _, r := range ofFamily(s.family, Render(everything, s.prefix)) {
		switch r.Chain {
		case s.prefix + chainINP:
			requests = append(requests, r.Args)
		case s.prefix + chainOUT:
			replies = append(replies, r.Args)
		default:
			s.add(r.Table, strings.TrimPrefix(r.Chain, s.prefix), r.Args)
		}
	}
	for i := range requests {
		if s.chain(tableFilter, chainINP).has(requests[i]) && s.chain(tableFilter, chainOUT).has(replies[i]) {
			s.add(tableFilter, chainINP, requests[i])
			s.add(tableFilter, chainOUT, replies[i])
		}
	}
}

// translation is a rule that translates what a subnet sends elsewhere.
var translation = regexp.MustCompile(`^-s (\S+) ! -d (\S+)(?: -o (\S+))?(?: -p (?:tcp|udp))? -j (?:MASQUERADE|SNAT --to-source \S+)(?: --to-ports \S+)?$`)

// nat finds the rules that translate the subnets. libvirt's stand beside an
// exemption of multicast with the same device.
func (s *search) nat(subnets map[string]bool) {
	multicast := "224.0.0.0/24"
	if s.family == firewall.IPv6 {
		multicast = "ff02::/16"
	}
	var sources []string
	for subnet := range subnets {
		sources = append(sources, "-s "+subnet+" ")
	}
	for args := range s.chain(tableNAT, chainPRT).all() {
		// Most rules are other networks': those need no closer look.
		if !slices.ContainsFunc(sources, func(source string) bool { return strings.HasPrefix(args, source) }) {
			continue
		}
		m := translation.FindStringSubmatch(args)
		if m == nil || m[1] != m[2] {
			continue
		}
		device := suffix(" -o ", m[3])
		exempt := "-s " + m[1] + " -d " + multicast + device + " -j RETURN"
		if s.chain(tableNAT, chainPRT).has(exempt) {
			s.add(tableNAT, chainPRT, args)
			s.add(tableNAT, chainPRT, exempt)
			s.add(tableNAT, chainPRT, "-s "+m[1]+" -d 255.255.255.255/32"+device+" -j RETURN")
		}
	}
}
