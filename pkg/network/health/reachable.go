package health

import (
	"context"
	"fmt"
	"strings"

	"github.com/vnetd/vnetd/pkg/api"
)

// Reachable is the source of networks of mode nat whose IPv6 is routed: who reads
// "nat" may take guests to be out of reach.
func Reachable(active func() []Network) Source {
	return Source{"reachable", func(context.Context) ([]api.Condition, error) {
		var all []api.Condition
		for _, n := range active() {
			if len(n.Reachable) > 0 {
				all = append(all, reachable(n))
			}
		}
		return all, nil
	}}
}

// reachable is the condition of one network. A unique local prefix (RFC 4193) is as open as
// any other: it has only fewer routes that lead there.
func reachable(n Network) api.Condition {
	var prefixes []string
	for _, p := range n.Reachable {
		scope := "global"
		if p.Addr().IsPrivate() {
			scope = "unique local"
		}
		prefixes = append(prefixes, fmt.Sprintf("%v (%s)", p, scope))
	}
	return api.Condition{
		Kind: "ipv6-reachable", Severity: api.SeverityInfo, Networks: []string{n.Name},
		Message:  fmt.Sprintf("guests of network %q can be connected to from outside by IPv6, which is routed, not translated as IPv4 is", n.Name),
		Evidence: "open to who has a route there, and the document does not say whether it shall be: " + strings.Join(prefixes, ", "),
		Remedy:   fmt.Sprintf("vnetctl edit %s # add <vnetd:ipv6 xmlns:vnetd='urn:vnetd:network:1' inbound='no'/>, or 'yes' if it is meant so", n.Name),
	}
}
