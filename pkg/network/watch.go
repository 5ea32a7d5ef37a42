package network

import (
	"context"
	"slices"

	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/drift"
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
func (w watcher) Mend(ctx context.Context, name string, s drift.Suspects, amend bridge.Amend) error {
	n := w.find(name)
	if n == nil {
		return nil
	}
	return n.Mend(ctx, s, amend)
}

// onLink deals with one change of a link. It never blocks for long.
func (w watcher) onLink(e bridge.LinkEvent) {
	if e.Resync {
		w.ports.Devices().Resync()
		return
	}
	if w.ports.Devices().OnLink(e) || e.Deleted {
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
		if p.Kind == port.Own && (!c.FDB || w.managed(p)) {
			w.env.Keeper.Suspect(p.Network, drift.Suspects{Ports: []int{c.Index}, Process: c.Process})
		}
		return
	}
	if c.FDB {
		return
	}
	for _, n := range w.onBridge(c.Index) {
		w.env.Keeper.Suspect(n.Name(), drift.Suspects{Bridge: true, Process: c.Process})
	}
}

// managed reports whether the bridge of p is told what is behind it.
func (w watcher) managed(p *port.Port) bool {
	n := w.find(p.Network)
	if n == nil {
		return false
	}
	live := n.Live()
	return live != nil && translate.ManagesMACs(live)
}

// onBridge lists the active networks on the bridge with that ifindex.
func (w watcher) onBridge(index int) []*Network {
	return slices.DeleteFunc(w.all(), func(n *Network) bool { return n.BridgeIndex() != index })
}

// awaiting lists the active networks on a bridge of the host's that was not there,
// and now is l.
func (w watcher) awaiting(l bridge.Link) []*Network {
	return slices.DeleteFunc(w.all(), func(n *Network) bool {
		doc := n.Live()
		return doc == nil || n.BridgeIndex() != 0 || doc.Mode() != netdef.ModeBridge || doc.Bridge.Name != l.Name
	})
}
