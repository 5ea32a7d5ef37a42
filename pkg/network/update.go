package network

import (
	"context"
	"errors"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/change"
	"github.com/vnetd/vnetd/pkg/store"
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
	nextLive, err := updated(live, change, target&TargetLive != 0)
	if err != nil {
		return err
	}
	nextDef, err := updated(def, change, target&TargetConfig != 0)
	if err != nil {
		return err
	}
	return n.apply(ctx, live, def, nextLive, nextDef)
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

// apply makes nextLive and nextDef the network's documents where they are
// others than live and def. The caller holds n.op.
func (n *Network) apply(ctx context.Context, live, def, nextLive, nextDef *netdef.Network) error {
	if nextLive != live {
		if err := change.Check(live, nextLive); err != nil {
			return err
		}
	}
	if nextDef != def {
		if err := n.m.cfg.Store.SaveDefinition(nextDef); err != nil {
			return err
		}
	}
	if err := n.applyLive(ctx, live, def, nextLive, nextDef); err != nil {
		if nextDef != def {
			err = errors.Join(err, n.restoreDefinition(def))
		}
		return err
	}
	n.setDefinition(nextDef)
	n.changed()
	return nil
}

// applyLive makes nextLive what the network is. One that is not transient any more
// is recorded so.
func (n *Network) applyLive(ctx context.Context, live, def, nextLive, nextDef *netdef.Network) error {
	switch {
	case nextLive != live:
		return n.converge(ctx, live, nextLive, nextDef != nil || n.persistent())
	case live != nil && def == nil && nextDef != nil:
		return n.record.Save(store.Run{Phase: store.Active, Network: live, Persistent: true})
	}
	return nil
}
