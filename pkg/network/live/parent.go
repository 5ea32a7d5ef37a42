package live

import (
	"context"
	"errors"
	"slices"

	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/drift"
	"github.com/vnetd/vnetd/pkg/network/host"
)

// onParent reports whether ports of live are on interfaces or devices of the host, and not
// on a bridge.
func onParent(live *netdef.Network) bool {
	plug := live.PortPlug()
	return plug == netdef.PlugDirect || plug == netdef.PlugHostdevPCI
}

// keepOnParent is keep of a network without a bridge: of its ports, and of the host's own
// interface beside them.
func (n turn) keepOnParent(ctx context.Context, live *netdef.Network, s drift.Suspects, amend bridge.Amend) error {
	var err error
	if s.Bridge {
		err = host.EnsureAccess(n.env.Links, live, Mark(live), amend)
	}
	return errors.Join(err, n.ports.Devices().Keep(ctx, n.Network, live, 0, s, amend))
}

// Awaits reports whether a network that is live, if it is, has no bridge, and a link of that
// name is one that it has ports on, or has them of.
func Awaits(live *netdef.Network, name string) bool {
	if live == nil || !onParent(live) || live.Forward == nil {
		return false
	}
	if live.HostAccess != nil && live.HostAccess.Dev == name || live.Forward.PF == name {
		return true
	}
	return slices.Contains(live.Forward.Interfaces, name)
}
