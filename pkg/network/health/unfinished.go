package health

import (
	"context"
	"fmt"

	"github.com/vnetd/vnetd/pkg/api"
)

// Unfinished is a network that could not be taken down, or a port that could not be
// deleted, for a reason.
type Unfinished struct {
	Network string
	Port    string // its UUID; empty: it is the network
	IfName  string // of the port
	Err     error
}

// Deletions is the source of what could not be deleted.
func Deletions(unfinished func() []Unfinished) Source {
	return Source{"what could not be deleted", func(context.Context) ([]api.Condition, error) {
		var all []api.Condition
		for _, u := range unfinished() {
			c := api.Condition{
				Kind: "network-unfinished", Severity: api.SeverityError, Networks: []string{u.Network}, Evidence: u.Err.Error(),
				Message: fmt.Sprintf("network %q could not be taken down, and is tried again", u.Network), Remedy: "vnetctl stop " + u.Network,
			}
			if u.Port != "" {
				c.Kind, c.Severity, c.Remedy = "port-unfinished", api.SeverityWarning, "vnetctl port delete "+u.Port
				c.Message = fmt.Sprintf("port %s (%s) could not be deleted, and is tried again", u.Port, u.IfName)
			}
			all = append(all, c)
		}
		return all, nil
	}}
}
