package network

import (
	"bytes"
	"slices"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/change"
)

// pending is what changes at a network's next start, as last asked for. Documents
// don't change once they are a network's: the same two differ in the same.
type pending struct {
	live, def *netdef.Network
	changes   []string
}

// Pending lists what of an active network its next start will change: how its
// definition differs from what it is. It is empty for any other network.
func (n *Network) Pending() []string {
	n.mu.Lock()
	p := n.pending
	live, def := n.live, n.def
	n.mu.Unlock()
	if p.live == live && p.def == def {
		return slices.Clone(p.changes)
	}
	p = pending{live: live, def: def}
	if live != nil && def != nil && !bytes.Equal(live.XML(), def.XML()) {
		p.changes = change.Describe(netdef.Diff(live, def))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pending = p
	return slices.Clone(p.changes)
}

// nextLive is what an active network becomes at once when its definition becomes
// def: live itself where nothing changes now. Both may be nil. The caller holds n.op.
func (n *Network) nextLive(live, def *netdef.Network, how api.Apply) *netdef.Network {
	if live == nil || how == api.ApplyNothing {
		return live
	}
	next := def
	if how != api.ApplyAll {
		next = change.Harmless(live, def, func(doc *netdef.Network) bool {
			return doc.Runnable() == nil && change.Check(live, doc) == nil && n.newSubnets(live, doc) == nil
		})
	}
	if bytes.Equal(next.XML(), live.XML()) {
		return live
	}
	return next
}
