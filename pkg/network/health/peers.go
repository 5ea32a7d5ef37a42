package health

import (
	"context"
	"fmt"

	"github.com/vnetd/vnetd/pkg/api"
)

// WaitingPeer is a peering of an active network that does not hold.
type WaitingPeer struct {
	Network, Peer string
	Direction     string
	Reason        string
}

// Peers is the source of peerings that wait.
func Peers(waiting func() []WaitingPeer) Source {
	return Source{"peers", func(context.Context) ([]api.Condition, error) {
		var all []api.Condition
		for _, w := range waiting() {
			all = append(all, api.Condition{
				Kind: "peer-waiting", Severity: api.SeverityWarning, Networks: []string{w.Network},
				Message:  fmt.Sprintf("guests of networks %q and %q do not reach each other as <vnetd:peer> of %q says", w.Network, w.Peer, w.Network),
				Evidence: w.Reason, Remedy: fmt.Sprintf("vnetctl peer list %s", w.Network),
			})
		}
		return all, nil
	}}
}
