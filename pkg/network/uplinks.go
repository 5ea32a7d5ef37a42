package network

import (
	"cmp"
	"fmt"
	"time"

	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/attach"
	"github.com/vnetd/vnetd/pkg/network/drift"
	"github.com/vnetd/vnetd/pkg/network/health"
	"github.com/vnetd/vnetd/pkg/network/host"
	"github.com/vnetd/vnetd/pkg/network/port"
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
		all = append(all, health.Uplink{Bridge: u.Bridge, Dev: u.Dev, Name: u.Name, Owed: u.Owed, Err: u.Err, Ending: endings(u), Networks: on[u.Bridge]})
	}
	return all
}

// endings are the addresses of an uplink's bridge that end soon, in words.
func endings(u host.Uplink) (all []string) {
	for _, e := range u.Ending {
		all = append(all, fmt.Sprintf("%v on %s ends at %s", e.Prefix, u.Bridge, time.Now().Add(e.Left).Round(time.Minute).Format(time.TimeOnly)))
	}
	return all
}

// parentsAway are the active networks without a bridge whose ports have nothing to be on.
func (c conditions) parentsAway() (all []health.Parentless) {
	c.eachLive(func(n *Network, live *netdef.Network) {
		if err := host.NoParent(c.env.Links, c.env.Functions, live); err != nil {
			all = append(all, health.Parentless{Network: n.Name(), Err: err})
		}
	})
	return all
}

// unguarded are ports that can have no guard, of users who may not choose addresses.
func (c conditions) unguarded() (all []health.Unguarded) {
	c.eachLive(func(n *Network, _ *netdef.Network) {
		ports := 0
		for _, p := range c.ports.Registry().On(n.Name(), port.Own) {
			if p.OnMacvtap() && p.Untrusted {
				ports++
			}
		}
		if ports > 0 {
			all = append(all, health.Unguarded{Network: n.Name(), Ports: ports})
		}
	})
	return all
}

// misfits are ports that do not fit what their networks have become.
func (c conditions) misfits() (all []health.Misfit) {
	c.eachLive(func(n *Network, live *netdef.Network) {
		for _, p := range c.ports.Registry().On(n.Name(), port.Own, port.External) {
			if err := attach.Misfit(live, p); err != nil {
				all = append(all, health.Misfit{Network: n.Name(), Port: cmp.Or(p.Status().IfName, p.UUID), Err: err})
			}
		}
	})
	return all
}

// outheld are the active networks with a bandwidth whose bridge is held to another one's.
func (c conditions) outheld() (all []health.Outheld) {
	c.eachLive(func(n *Network, live *netdef.Network) {
		if live.Bandwidth == nil {
			return
		}
		if by := c.ports.Bandwidth().HeldBy(n, live, n.BridgeIndex()); by != nil {
			all = append(all, health.Outheld{Network: n.Name(), Bridge: live.Bridge.Name, By: by.Name()})
		}
	})
	return all
}

// bridgesAway are the host's bridges that active networks are on, and that are not there.
func (c conditions) bridgesAway() (all []health.Missing) {
	c.eachLive(func(n *Network, live *netdef.Network) {
		if live.PortPlug() == netdef.PlugBridge && live.Uplink == "" && n.BridgeIndex() == 0 {
			all = append(all, health.Missing{Network: n.Name(), Bridge: live.Bridge.Name})
		}
	})
	return all
}
