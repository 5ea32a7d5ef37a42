// Package diagnose explains what rules that are not ours, and the kernel's
// settings, do to the guests of networks. It is given what the programs of
// iptables and nftables list, executes nothing and changes nothing.
package diagnose

import "github.com/vnetd/vnetd/pkg/firewall"

// Snapshot is all that may drop guests' packets and is not ours.
type Snapshot struct {
	Filters []Filter
	Tables  []Table // that iptables does not show
}

// Conditions are what the snapshot means for networks; prefix is that of the chains
// of iptables that are ours.
func (s Snapshot) Conditions(prefix string, networks []firewall.Network) []firewall.Condition {
	var out []firewall.Condition
	for _, f := range s.Filters {
		out = append(out, f.conditions(prefix, guestsOf(f.Family, networks))...)
	}
	for _, t := range s.Tables {
		for _, f := range []firewall.Family{firewall.IPv4, firewall.IPv6} {
			if g := guestsOf(f, networks); t.of(f) && !g.none() {
				out = append(out, t.conditions(g)...)
			}
		}
	}
	return out
}
