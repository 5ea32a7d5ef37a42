package health

import (
	"context"
	"fmt"

	"github.com/vnetd/vnetd/pkg/api"
)

// Span is an active network that spans hosts.
type Span struct {
	Network string
	Cluster string // that this host is not in, and the network is of; empty for none
	Err     error  // why this host has no address for its tunnel; nil: it has
	Link    string
	// LinkMTU is that of Link, by which the tunnel goes, MTU that of the network, and Needed
	// that which a link must have for it.
	LinkMTU, MTU, Needed int
}

// Spans is the source of networks that span hosts and whose tunnel can't work as it should.
func Spans(list func() []Span) Source {
	return Source{"spans", func(context.Context) ([]api.Condition, error) {
		var all []api.Condition
		for _, s := range list() {
			switch {
			case s.Cluster != "":
				all = append(all, api.Condition{
					Kind: "cluster-missing", Severity: api.SeverityError, Networks: []string{s.Network},
					Message:  fmt.Sprintf("network %q is one of cluster %q, in which this host is not any more: its guests keep their addresses, others get none, and those of other hosts are not reached", s.Network, s.Cluster),
					Evidence: s.Err.Error(), Remedy: "$EDITOR /etc/vnetd/vnetd.toml && systemctl restart vnetd",
				})
			case s.Err != nil:
				all = append(all, api.Condition{
					Kind: "span-underlay", Severity: api.SeverityError, Networks: []string{s.Network},
					Message:  fmt.Sprintf("network %q has no tunnel to its other hosts until this host has one of the addresses that they reach it at", s.Network),
					Evidence: s.Err.Error(), Remedy: "ip -br addr",
				})
			case s.LinkMTU < s.Needed:
				all = append(all, api.Condition{
					Kind: "span-mtu", Severity: api.SeverityWarning, Networks: []string{s.Network},
					Message:  fmt.Sprintf("the largest packets of guests of network %q are cut to pieces or lost on their way to other hosts: with the tunnel's headers they are larger than link %s takes", s.Network, s.Link),
					Evidence: fmt.Sprintf("the network has MTU %d, so the link needs %d, and has %d", s.MTU, s.Needed, s.LinkMTU),
					Remedy:   fmt.Sprintf("vnetctl set %s mtu=%d", s.Network, s.MTU-(s.Needed-s.LinkMTU)),
				})
			}
		}
		return all, nil
	}}
}
