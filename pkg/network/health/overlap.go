package health

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
)

// Overlaps is the source of subnets of active networks that the host reaches
// elsewhere as well: what came after the network started, such as a VPN.
func Overlaps(hostNets func() ([]bridge.HostNet, error), active func() []Network) Source {
	return Source{"routes", func(context.Context) ([]api.Condition, error) {
		nets, err := hostNets()
		if err != nil {
			return nil, fmt.Errorf("looking for routes that overlap networks: %w", err)
		}
		var all []api.Condition
		for _, n := range active() {
			for _, p := range n.Subnets {
				for _, other := range nets {
					if other.Link != n.Bridge && other.Link != n.HostLink && p.Overlaps(other.Prefix) {
						all = append(all, overlap(n, p, other))
					}
				}
			}
		}
		return all, nil
	}}
}

// overlap is the condition of a subnet and what it overlaps. A wider route loses
// to the bridge's own: only what lies behind it can't be reached.
func overlap(n Network, p netip.Prefix, other bridge.HostNet) api.Condition {
	c := api.Condition{
		Kind: "subnet-overlap", Severity: api.SeverityError, Networks: []string{n.Name},
		Message:  fmt.Sprintf("the host has %v on %s: packets for guests on %s may go there", other.Prefix, other.Link, n.Bridge),
		Evidence: fmt.Sprintf("network %q has %v, %s has %v", n.Name, p, other.Link, other.Prefix),
		Remedy:   fmt.Sprintf("vnetctl renumber %s --now", n.Name),
	}
	if other.Prefix.Bits() < p.Bits() {
		c.Severity, c.Remedy = api.SeverityInfo, "ip route show root "+p.String()
		c.Message = fmt.Sprintf("guests on %s hide the part %v of what lies behind %s", n.Bridge, p, other.Link)
	}
	return c
}
