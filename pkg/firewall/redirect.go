package firewall

import (
	"fmt"
	"slices"
)

// chainPrerouting is the built-in chain in which redirects stand. libvirt has no
// chain of its own there, and no jump is made for the few networks that need one.
const chainPrerouting = "PREROUTING"

// redirects lead guests' queries to the gateway to where its name server
// listens, for want of port 53.
func (n Network) redirects(f Family) []Rule {
	var rules []Rule
	for _, at := range n.DNS {
		if at.Addr().Is4() != (f == IPv4) {
			continue
		}
		host := at.Addr().WithZone("")
		for _, s := range dns() {
			rules = append(rules, Rule{f, tableNAT, chainPrerouting, fmt.Sprintf("-d %s/%d -i %s -p %s -m %s --dport %d -j REDIRECT --to-ports %d",
				host, host.BitLen(), n.Bridge, s.proto, s.proto, s.port, at.Port())})
		}
	}
	return rules
}

// otherDNS is the name service where it listens instead of at port 53.
func (n Network) otherDNS(f Family) []service {
	var other []service
	for _, at := range n.DNS {
		for _, s := range dns() {
			s.port = int(at.Port())
			if at.Addr().Is4() == (f == IPv4) && !slices.Contains(other, s) {
				other = append(other, s)
			}
		}
	}
	return other
}
