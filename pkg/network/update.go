package network

import (
	"bytes"
	"context"
	"slices"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/change"
)

// Target says which of a network's documents an update changes. The values are
// libvirt's virNetworkUpdateFlags; they can be joined by or.
type Target uint32

// The targets.
const (
	TargetCurrent Target = 0 // what the network is while it is active, its definition otherwise
	TargetLive    Target = 1 // what it is
	TargetConfig  Target = 2 // what it will be at its next start
)

// Update changes one entry of the network, in place where it is active. Where
// both documents are asked for, each is changed by itself, and neither when one
// can't be.
func (n *Network) Update(ctx context.Context, u netdef.Update, target Target) error {
	return n.Edit(ctx, target, func(doc *netdef.Network) error { return doc.Update(u) })
}

// Edit is Update by a function that changes a document: it gets a copy.
func (n *Network) Edit(ctx context.Context, target Target, change func(*netdef.Network) error) error {
	if err := n.begin(); err != nil {
		return err
	}
	defer n.op.Unlock()
	live, def := n.liveNetwork(), n.definition()
	if target == TargetCurrent {
		target = TargetConfig
		if live != nil {
			target = TargetLive
		}
	}
	if err := n.checkTarget(target, live, def); err != nil {
		return err
	}
	e := edit{Network: n, live: live, def: def}
	var err error
	if e.nextLive, err = updated(live, change, target&TargetLive != 0); err != nil {
		return err
	}
	if e.nextDef, err = updated(def, change, target&TargetConfig != 0); err != nil {
		return err
	}
	return e.apply(ctx)
}

// checkTarget refuses to update what the network has not.
func (n *Network) checkTarget(target Target, live, def *netdef.Network) error {
	switch {
	case target&^(TargetLive|TargetConfig) != 0:
		return api.Errorf(api.Invalid, "flags: %#x is not known, want %d (live), %d (config), both or neither", target, TargetLive, TargetConfig)
	case target&TargetLive != 0 && live == nil:
		return api.Errorf(api.InvalidState, "network %q is not active", n.name)
	case target&TargetConfig != 0 && def == nil && !n.persistent():
		return api.Errorf(api.InvalidState, "network %q is transient: it has no definition to update", n.name)
	}
	if target&TargetConfig != 0 {
		return n.readable()
	}
	return nil
}

// updated is doc with a change, or doc itself where that is not wanted.
func updated(doc *netdef.Network, change func(*netdef.Network) error, wanted bool) (*netdef.Network, error) {
	if !wanted {
		return doc, nil
	}
	next := doc.Clone()
	if err := change(next); err != nil {
		return nil, err
	}
	return next, nil
}

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
	def := n.def
	n.mu.Unlock()
	live := n.liveNetwork()
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
