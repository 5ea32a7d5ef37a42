package health

import (
	"context"
	"fmt"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network/drift"
)

// Fights is the source of what somebody changes as fast as it is put back.
func Fights(fights func() []drift.Fight) Source {
	return Source{"fights", func(context.Context) (all []api.Condition, _ error) {
		for _, f := range fights() {
			all = append(all, api.Condition{
				Kind: "network-contended", Severity: api.SeverityWarning, Networks: []string{f.Network}, Evidence: f.What,
				Message: fmt.Sprintf("another program changes what vnetd made of network %q as fast as it is put back: it is put back less often", f.Network),
				Remedy:  "journalctl -u vnetd -g 'network repaired'",
			})
		}
		return all, nil
	}}
}
