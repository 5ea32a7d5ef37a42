package network

import (
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/drift"
	"github.com/vnetd/vnetd/pkg/network/health"
)

// onUplink has the networks looked at again whose bridge's uplink came, went or changed.
func (w watcher) onUplink(bridge string) {
	w.eachLive(func(n *Network, live *netdef.Network) {
		if live.Bridge.Name == bridge {
			w.env.Keeper.Suspect(n.Name(), drift.Whole())
		}
	})
}

// uplinks are the uplinks as conditions tell of them.
func (c conditions) uplinks() (all []health.Uplink) {
	on := make(map[string][]string)
	c.eachLive(func(n *Network, live *netdef.Network) {
		on[live.Bridge.Name] = append(on[live.Bridge.Name], n.Name())
	})
	for _, u := range c.env.UplinkKeeper.List() {
		all = append(all, health.Uplink{Bridge: u.Bridge, Dev: u.Dev, Name: u.Name, Owed: u.Owed, Err: u.Err, Networks: on[u.Bridge]})
	}
	return all
}

// bridgesAway are the host's bridges that active networks are on, and that are not there.
func (c conditions) bridgesAway() (all []health.Missing) {
	c.eachLive(func(n *Network, live *netdef.Network) {
		if live.Mode() == netdef.ModeBridge && live.Uplink == "" && n.BridgeIndex() == 0 {
			all = append(all, health.Missing{Network: n.Name(), Bridge: live.Bridge.Name})
		}
	})
	return all
}
