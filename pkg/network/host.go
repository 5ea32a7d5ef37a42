package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/bridge/uplink"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/translate"
	"github.com/vnetd/vnetd/pkg/store"
)

// hostState is what the network changed on the host outside of its own links and
// rules. It is on disk before it is true.
type hostState struct {
	// Uplink is how the uplink was, nil while it is the host's own.
	Uplink *uplink.State `json:"uplink,omitempty"`
	// AcceptRA are links whose accept_ra was raised, so that the host keeps its
	// routes although it forwards.
	AcceptRA []bridge.AcceptRA `json:"accept_ra,omitempty"`
}

// record writes the network's run-state. The caller holds n.op.
func (n *Network) record(r store.Run) error {
	if n.hostLost {
		if err := n.findHost(r.Network.UUID); err != nil {
			n.run = r
			return fmt.Errorf("saving run-state of network %q: what stands there can't be read: %w", n.name, err)
		}
	}
	data, err := json.Marshal(n.host)
	if err != nil {
		return fmt.Errorf("writing down what network %q changed on the host: %w", n.name, err)
	}
	r.Host = data
	n.run = r
	return n.m.cfg.Store.SaveRun(r)
}

// restore takes over the run-state that a former vnetd wrote. The caller holds
// n.op.
func (n *Network) restore(r store.Run) error {
	n.run, n.host = r, hostState{}
	if r.Host == nil {
		return nil
	}
	if err := json.Unmarshal(r.Host, &n.host); err != nil {
		return fmt.Errorf("reading what network %q changed on the host: %w", n.name, err)
	}
	return nil
}

// forward has the host forward what live needs. Links that would lose routes of
// router advertisements by it keep them. The caller holds n.op.
func (n *Network) forward(live *netdef.Network) error {
	changed, err := n.m.cfg.Links.Forward(translate.Forwards(live))
	switch {
	case errors.Is(changed.Unsaved, fs.ErrPermission): // no fault: vnetd does not run as root
		n.m.log.Info("forwarding is on; where a file for sysctl says otherwise, `sysctl --system` switches it off", keyNetwork, n.name)
	case changed.Unsaved != nil:
		n.m.log.Warn("forwarding is on, but `sysctl --system` will not keep it", keyNetwork, n.name, keyError, changed.Unsaved)
	}
	if len(changed.AcceptRA) > 0 {
		n.host.AcceptRA = append(n.host.AcceptRA, changed.AcceptRA...)
		for _, ra := range changed.AcceptRA {
			n.m.log.Info("accept_ra raised to 2: the host keeps its IPv6 routes though it forwards", keyNetwork, n.name, "link", ra.Link, "was", ra.AcceptRA)
		}
		err = errors.Join(err, n.record(n.run))
	}
	return err
}

// restoreHost puts back what the network changed on the host. The caller holds
// n.op.
func (n *Network) restoreHost(ctx context.Context) error {
	err := n.detachUplink(ctx)
	if len(n.host.AcceptRA) > 0 {
		if raErr := n.m.cfg.Links.RestoreAcceptRA(n.host.AcceptRA); raErr != nil {
			return errors.Join(err, raErr)
		}
		n.host.AcceptRA = nil
	}
	return err
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
	return l.Index, n.m.replug(ctx, n, live, l.Index)
}

// noteBridge has the network be degraded for as long as the bridge that it names is
// not there, which is the admin's to make: its ifindex is 0 then. It may come
// later than vnetd, so no start fails for it.
func (n *Network) noteBridge(live *netdef.Network, index int) {
	if index == 0 && live.Mode() == netdef.ModeBridge {
		n.fault(partBridge, noSuchBridge(live))
		return
	}
	n.recovered(partBridge)
}

// noSuchBridge is the error of a network whose bridge the host has not.
func noSuchBridge(live *netdef.Network) error {
	return api.Errorf(api.Conflict, "network/bridge/@name: the host has no bridge %q: make it, or name another", live.Bridge.Name)
}

// missing lists what of the host n needs and is not there.
func (n *Network) missing(def *netdef.Network) error {
	var errs []error
	need := func(name string, err error) {
		if _, lookup := n.m.cfg.Links.Lookup(name); name != "" && errors.Is(lookup, bridge.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	switch {
	case def.Uplink != "":
		need(def.Uplink, noSuchUplink(def))
	case def.Mode() == netdef.ModeBridge:
		need(def.Bridge.Name, noSuchBridge(def))
	}
	if def.Forward != nil && def.Mode().OwnsBridge() {
		need(def.Forward.Dev, api.Errorf(api.Conflict, "network/forward/@dev: %q is no link of this host: nothing would be forwarded", def.Forward.Dev))
	}
	return errors.Join(errs...)
}

// noSuchUplink is the error of a network whose uplink the host has not.
func noSuchUplink(def *netdef.Network) error {
	return api.Errorf(api.Conflict, "network/vnetd:uplink/@dev: %q is no link of this host", def.Uplink)
}

// attachUplink makes live's uplink a port of its bridge, unless it is. How the
// uplink was is on disk before anything changes. The caller holds n.op.
func (n *Network) attachUplink(ctx context.Context, live *netdef.Network) error {
	if n.host.Uplink != nil {
		attached, err := n.m.cfg.Uplinks.Attached(*n.host.Uplink)
		if err != nil || attached {
			return err
		}
		if err := n.detachUplink(ctx); err != nil {
			return err
		}
	}
	_, err := n.m.cfg.Uplinks.Attach(ctx, uplink.Config{
		Bridge: live.Bridge.Name, Uplink: live.Uplink,
		Save: func(s uplink.State) error {
			n.host.Uplink = &s
			return n.record(n.run)
		},
	})
	switch {
	case errors.Is(err, bridge.ErrNotFound):
		return noSuchUplink(live)
	case errors.Is(err, uplink.ErrNoAnswer):
		return api.Errorf(api.Conflict, "network/vnetd:uplink/@dev: everything is put back: %w", err)
	}
	return err
}

// detachUplink gives the host its uplink back, if the network has it. The caller
// holds n.op.
func (n *Network) detachUplink(ctx context.Context) error {
	if n.host.Uplink == nil {
		return nil
	}
	if err := n.m.cfg.Uplinks.Detach(ctx, *n.host.Uplink); err != nil {
		return err
	}
	n.host.Uplink = nil
	return nil
}
