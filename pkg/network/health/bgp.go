package health

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
)

// downFor is how long a neighbour is down until that is a condition: vnetd has just started, or
// it comes back at once.
const downFor = 15 * time.Second

// BGP is the source of routers that are not told what networks announce. announced lists the
// active networks that are to be; status is nil where there is nobody to tell.
func BGP(announced func() []string, status func() *api.BGP) Source {
	return Source{"bgp", func(context.Context) ([]api.Condition, error) {
		networks := announced()
		s := status()
		if s == nil {
			return unconfigured(networks), nil
		}
		var all []api.Condition
		for _, n := range s.Neighbours {
			if n.Up || time.Since(n.Since) < downFor {
				continue
			}
			all = append(all, api.Condition{
				Kind: "bgp-neighbour-down", Severity: api.SeverityWarning, Networks: slices.Clone(networks),
				Message:  fmt.Sprintf("the BGP neighbour %v of AS %d is down: it learns of no network of this host, and forgets those that it knew", n.Address, n.AS),
				Evidence: n.Reason, Remedy: fmt.Sprintf("ping -c 3 %v", n.Address),
			})
		}
		return all, nil
	}}
}

// unconfigured are conditions of networks where nobody is told of any.
func unconfigured(networks []string) (all []api.Condition) {
	for _, name := range networks {
		all = append(all, api.Condition{
			Kind: "bgp-not-configured", Severity: api.SeverityWarning, Networks: []string{name},
			Message:  fmt.Sprintf("network %q is to be announced by BGP, and there is nobody to tell: its guests are not reached from outside but by routes that somebody else makes", name),
			Evidence: "vnetd.toml has no [bgp]", Remedy: "$EDITOR /etc/vnetd/vnetd.toml && systemctl restart vnetd",
		})
	}
	return all
}
