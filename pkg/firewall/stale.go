package firewall

import (
	"regexp"
	"slices"
	"strings"
)

// stale are the rules in our chains that a libvirtd left for the bridge of the
// change's network and that the network does not have. The network owns its
// bridge, so no living libvirtd does. An administrator's rules for the bridge
// look much the same; therefore only what comes in libvirt's pairs is taken for
// its work, such as an accept into and one out of the same subnet.
func stale(l listing, f Family, prefix string, c change) []Rule {
	bridge := c.network.Bridge
	if bridge == "" {
		return nil
	}
	s := relics{listed: l, family: f, prefix: prefix, bridge: bridge}
	subnets := s.filter()
	for _, n := range c.network.subnets(f) {
		subnets[n.String()] = true
	}
	s.services()
	s.nat(subnets)
	s.found = slices.DeleteFunc(s.found, func(r Rule) bool { return slices.Contains(c.place, r) })
	if len(s.found) == 0 {
		return nil
	}
	for _, other := range c.others {
		s.spare(other)
	}
	return s.found
}

// relics collects what a libvirtd left for one bridge.
type relics struct {
	listed listing
	family Family
	prefix string
	bridge string
	found  []Rule
}

// chain is what one of our chains holds.
func (s *relics) chain(table, name string) *chain { return s.listed[table][s.prefix+name] }

// add notes a rule if the chain holds it.
func (s *relics) add(table, name, args string) {
	if s.chain(table, name).has(args) {
		s.found = append(s.found, Rule{s.family, table, s.prefix + name, args})
	}
}

// filter finds the rules of forwarding and returns the subnets for which there
// are any.
func (s *relics) filter() map[string]bool {
	subnets := map[string]bool{}
	into := regexp.MustCompile(`^-d (\S+)(?: -i (\S+))? -o ` + regexp.QuoteMeta(s.bridge) + `(?: -m conntrack --ctstate RELATED,ESTABLISHED)? -j ACCEPT$`)
	for args := range s.chain(tableFilter, chainFWI).all() {
		if !strings.Contains(args, s.bridge) {
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
	s.add(tableFilter, chainFWX, "-i "+s.bridge+" -o "+s.bridge+" -j ACCEPT")
	s.add(tableFilter, chainFWI, "-o "+s.bridge+" "+unreachable(s.family))
	s.add(tableFilter, chainFWO, "-i "+s.bridge+" "+unreachable(s.family))
	return subnets
}

// spare takes out what another network has, such as one with the same subnet.
func (s *relics) spare(n Network) {
	nat := n.translation(s.family)
	s.found = slices.DeleteFunc(s.found, func(r Rule) bool {
		return r.Table == tableNAT && slices.Contains(nat, r.Args)
	})
}

// suffix is flag and value, "" for an empty value.
func suffix(flag, value string) string {
	if value == "" {
		return ""
	}
	return flag + value
}

// services finds the rules for this host's services: those of which both the
// request and the reply are accepted.
func (s *relics) services() {
	everything := Network{Bridge: s.bridge, Mode: ModeIsolated, TFTP: true, IPv6: true, DHCP: true}
	requests, replies := accept("-i "+s.bridge, everything.requests(s.family)), accept("-o "+s.bridge, everything.replies(s.family))
	if s.family == IPv6 {
		services := slices.Concat([]service{{"udp", 547}}, dns())
		requests = accept("-i "+s.bridge, services)
		services[0].port = 546
		replies = accept("-o "+s.bridge, services)
	}
	for i := range requests {
		if s.chain(tableFilter, chainINP).has(requests[i]) && s.chain(tableFilter, chainOUT).has(replies[i]) {
			s.add(tableFilter, chainINP, requests[i])
			s.add(tableFilter, chainOUT, replies[i])
		}
	}
	for _, args := range everything.checksum(s.family) {
		s.add(tableMangle, chainPRT, args)
	}
}

// translation is a rule that translates what a subnet sends elsewhere.
var translation = regexp.MustCompile(`^-s (\S+) ! -d (\S+)(?: -o (\S+))?(?: -p (?:tcp|udp))? -j (?:MASQUERADE|SNAT --to-source \S+)(?: --to-ports \S+)?$`)

// nat finds the rules that translate the subnets. libvirt's stand beside an
// exemption of multicast with the same device.
func (s *relics) nat(subnets map[string]bool) {
	multicast := "224.0.0.0/24"
	if s.family == IPv6 {
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
