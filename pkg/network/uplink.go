package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/store"
)

// record writes the network's run-state. The caller holds n.op.
func (n *Network) record(r store.Run) error {
	r.Uplink = nil
	if n.uplink != nil {
		data, err := json.Marshal(n.uplink)
		if err != nil {
			return fmt.Errorf("writing down the uplink of network %q: %w", n.name, err)
		}
		r.Uplink = data
	}
	n.run = r
	return n.m.cfg.Store.SaveRun(r)
}

// restore takes over the run-state that a former vnetd wrote. The caller holds
// n.op.
func (n *Network) restore(r store.Run) error {
	n.run = r
	if r.Uplink == nil {
		return nil
	}
	n.uplink = new(bridge.UplinkState)
	if err := json.Unmarshal(r.Uplink, n.uplink); err != nil {
		n.uplink = nil
		return fmt.Errorf("reading the uplink of network %q: %w", n.name, err)
	}
	return nil
}

// ensureBridged is ensure for a network on a bridge that is the LAN's: one of
// the admin's, which need not be there, or one that vnetd makes of an uplink.
func (n *Network) ensureBridged(ctx context.Context, live *netdef.Network) (index int, err error) {
	if live.Uplink != "" {
		if err := n.attachUplink(ctx, live); err != nil {
			return 0, err
		}
	}
	l, err := n.m.cfg.Links.Lookup(live.Bridge.Name)
	if errors.Is(err, bridge.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return l.Index, n.m.replug(ctx, n, l.Index)
}

// attachUplink makes live's uplink a port of its bridge, unless it is. How the
// uplink was is on disk before anything changes. The caller holds n.op.
func (n *Network) attachUplink(ctx context.Context, live *netdef.Network) error {
	if n.uplink != nil {
		attached, err := n.m.cfg.Links.UplinkAttached(*n.uplink)
		if err != nil || attached {
			return err
		}
		if err := n.detachUplink(ctx); err != nil {
			return err
		}
	}
	_, err := n.m.cfg.Links.AttachUplink(ctx, bridge.UplinkConfig{
		Bridge: live.Bridge.Name, Uplink: live.Uplink,
		Save: func(s bridge.UplinkState) error {
			n.uplink = &s
			return n.record(n.run)
		},
	})
	switch {
	case errors.Is(err, bridge.ErrNotFound):
		return Errorf(Conflict, "network/vnetd:uplink/@dev: %q is no link of this host", live.Uplink)
	case errors.Is(err, bridge.ErrNoAnswer):
		return Errorf(Conflict, "network/vnetd:uplink/@dev: everything is put back: %w", err)
	}
	return err
}

// detachUplink gives the host its uplink back, if the network has it. The caller
// holds n.op.
func (n *Network) detachUplink(ctx context.Context) error {
	if n.uplink == nil {
		return nil
	}
	if err := n.m.cfg.Links.DetachUplink(ctx, *n.uplink); err != nil {
		return err
	}
	n.uplink = nil
	return nil
}
