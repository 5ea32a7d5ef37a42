package network

import (
	"context"
	"net"
	"slices"

	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/drift"
	"github.com/vnetd/vnetd/pkg/network/live"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// watcher follows changes of links, and is the owner of the networks that are kept as
// they were made.
type watcher struct{ *catalog }

// Active lists the active networks.
func (w watcher) Active() (names []string) {
	w.eachLive(func(n *Network, _ *netdef.Network) { names = append(names, n.Name()) })
	return names
}

// Mend has the network of that name mended, see live.Network.
func (w watcher) Mend(ctx context.Context, name string, suspected func() drift.Suspects, amend bridge.Amend) error {
	n := w.find(name)
	if n == nil {
		return nil
	}
	return n.Mend(ctx, suspected, amend)
}

// onLink deals with one change of a link. It never blocks for long.
func (w watcher) onLink(e bridge.LinkEvent) {
	if e.Resync {
		w.ports.Devices().Resync()
		return
	}
	ofPort := w.ports.Devices().OnLink(e)
	w.ports.Guards().OnLink(e)
	for _, n := range w.onBridges().others {
		if live.Awaits(n.Live(), e.Link.Name) {
			w.env.Keeper.Suspect(n.Name(), drift.All())
		}
	}
	if ofPort || e.Deleted {
		return
	}
	for _, n := range w.awaiting(e.Link) {
		w.env.Keeper.Suspect(n.Name(), drift.All())
	}
}

// onChange suspects what a change is of. It never blocks.
func (w watcher) onChange(c bridge.Change) {
	if c.Resync {
		for _, n := range w.all() {
			w.env.Keeper.Suspect(n.Name(), drift.All())
		}
		return
	}
	if p := w.ports.Registry().Index(c.Index); p != nil {
		if p.Kind == port.Own || p.Kind == port.External {
			w.env.Keeper.Suspect(p.Network, drift.Suspects{Ports: []int{c.Index}, Process: c.Process})
		}
		return
	}
	for _, n := range w.onBridge(c.Index) {
		s := drift.Suspects{Bridge: true, Process: c.Process}
		if c.MAC != nil {
			if doc := n.Live(); doc != nil {
				w.env.Clusters.Noticed(doc, c.MAC)
			}
			p := w.told(n, c.MAC)
			if p == nil {
				continue
			}
			s = drift.Suspects{Ports: []int{p.Status().Index}}
		}
		w.env.Keeper.Suspect(n.Name(), s)
	}
}

// told is the port of vnetd's own behind which the network's bridge is told that the
// address is; nil where the bridge learns that, and for other addresses.
func (w watcher) told(n *Network, mac net.HardwareAddr) *port.Port {
	live := n.Live()
	if live == nil || !translate.ManagesMACs(live) {
		return nil
	}
	p := w.ports.Registry().MAC(n.Name(), mac)
	if p == nil || p.Kind != port.Own {
		return nil
	}
	return p
}

// onBridges are the active networks by what changes of links are of: each change asks.
type onBridges struct {
	activity uint64             // when it was so, as env.Activity has it
	at       map[int][]*Network // by the ifindex of their bridges, in order of name
	// others are those that also other links are of: uplinks, tunnels, interfaces of ports, a
	// bridge of the host's that may come.
	others []*Network
}

// onBridges are those as they are now.
func (c *catalog) onBridges() *onBridges {
	activity := c.env.Activity.Load()
	c.mu.Lock()
	defer c.mu.Unlock()
	all := sortedOf(c)
	if c.bridges != nil && c.bridges.activity == activity {
		return c.bridges
	}
	b := &onBridges{activity: activity, at: make(map[int][]*Network)}
	for _, n := range all {
		doc := n.Live()
		if doc == nil {
			continue
		}
		if index := n.BridgeIndex(); index != 0 {
			b.at[index] = append(b.at[index], n)
		}
		if doc.Span != nil || doc.PortPlug() != netdef.PlugNetwork {
			b.others = append(b.others, n)
		}
	}
	c.bridges = b
	return b
}

// onBridge lists the active networks on the bridge with that ifindex, or whose bridge has
// that uplink or tunnel to other hosts, or in which this host is by that link.
func (w watcher) onBridge(index int) []*Network {
	b := w.onBridges()
	all := slices.Clone(b.at[index])
	for _, n := range b.others {
		doc := n.Live()
		if live.TunnelIndex(n) == index || live.HostIndex(n) == index || doc != nil && doc.Uplink != "" && w.env.UplinkKeeper.Port(doc.Bridge.Name) == index {
			all = append(all, n)
		}
	}
	return all
}

// awaiting lists the active networks on a bridge of the host's that was not there, and
// now is l, or that was l and has another name now.
func (w watcher) awaiting(l bridge.Link) (all []*Network) {
	for _, n := range w.onBridges().others {
		doc := n.Live()
		if doc == nil || doc.PortPlug() != netdef.PlugBridge {
			continue
		}
		expected := 0
		if doc.Bridge.Name != l.Name {
			expected = l.Index
		}
		if n.BridgeIndex() == expected {
			all = append(all, n)
		}
	}
	return all
}
