package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/attach"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/live"
	"github.com/vnetd/vnetd/pkg/network/takeover"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// taking is a network of libvirt's that is taken over.
type taking struct {
	*takeover.Plan
	m       *Manager
	network *Network     // that is known by the name; nil: a new one
	known   *api.Network // of it; nil: a new one
}

// TakeOver makes a network of libvirt's a network of vnetd's, under the same name,
// UUID, MAC address and bridge. One that is active goes on with its guests plugged
// in: its bridge stays, its rules are replaced by vnetd's at once, its ports are
// registered, and its leases are on disk before DHCP is served. libvirt's dnsmasq
// must be gone by then, or the services wait for it. With dry nothing is changed,
// and the result is what would be.
//
// A network that vnetd has already keeps its definition, and is marked for autostart
// where it was in libvirt; where it is inactive here and active there it is adopted.
// Errors are Invalid for a text that can't be read, Exists and Conflict for what is in
// the way, and Unsupported; nothing is changed then.
func (m *Manager) TakeOver(ctx context.Context, s api.Takeover, dry bool) (api.Taken, error) {
	m.catalog.defining.Lock()
	defer m.catalog.defining.Unlock()
	plan, err := takeover.Parse(s)
	t := &taking{Plan: plan, m: m}
	if err == nil {
		err = t.check(s)
	}
	if err != nil || dry {
		return t.Report, err
	}
	n, err := t.register()
	if err != nil || t.Report.Action == api.TakePresent {
		return t.Report, err
	}
	if err := t.storeLeases(); err != nil {
		return t.Report, err
	}
	switch {
	case t.Live != nil:
		err = t.adopt(ctx, n)
	case t.Report.Start:
		if failed := n.Start(ctx); failed != nil {
			t.Refuse("it is defined and could not be started: %w", failed)
		}
	}
	m.env.Logger.Info("network of libvirt taken over", env.KeyNetwork, n.Name(), "action", t.Report.Action,
		"ports", len(t.Report.Ports), "leases", t.Report.Leases, "refused", t.Report.Refused)
	return t.Report, err
}

// check finds out whether the network is still active, completes its documents,
// looks for what is in their way, and classifies it. The caller holds m.catalog.defining.
func (t *taking) check(s api.Takeover) error {
	if err := t.checkLive(); err != nil {
		return err
	}
	is := t.Is()
	if t.network = t.m.catalog.find(is.Name); t.network != nil {
		info := t.network.Info()
		t.known = &info
		if is.UUID != "" && info.UUID != is.UUID {
			return api.Errorf(api.Exists, "vnetd has another network %q, with the UUID %s", is.Name, info.UUID)
		}
	}
	if t.Live != nil {
		if err := errors.Join(netdef.Conflicts(t.Live, t.m.catalog.definitions(t.network)), t.m.catalog.subnetsTaken(t.network, t.Live, nil)); err != nil {
			return fmt.Errorf("status: %w", err)
		}
	}
	if t.Def != nil && t.network == nil {
		t.Inherit()
		def, err := t.m.catalog.complete(t.Def, nil)
		if err != nil {
			return fmt.Errorf("definition: %w", err)
		}
		t.Complete(def)
	}
	t.Classify(t.known)
	if t.Report.Action == api.TakeAdopt {
		t.ParsePorts(s.Ports,
			func(live *netdef.Network, doc *netdef.Port) (*netdef.Port, error) {
				pool, err := attach.Pools{Ports: t.m.catalog.ports}.Of(live)
				if err != nil {
					return nil, err
				}
				return translate.NetworkPort(live, doc, true, pool)
			},
			func(uuid string) bool { return t.m.catalog.ports.Registry().UUID(uuid) != nil })
	}
	return nil
}

// checkLive drops the status of a network whose bridge is gone, which libvirt takes
// for inactive, too, and refuses what vnetd could not run.
func (t *taking) checkLive() error {
	live := t.Live
	if live == nil {
		return nil
	}
	l, err := t.m.env.Links.Lookup(live.Bridge.Name)
	switch {
	case live.Bridge.Name != "" && errors.Is(err, bridge.ErrNotFound):
		if t.Live = nil; t.Def == nil {
			return api.Errorf(api.InvalidState, "status: the bridge %q is gone and the network has no definition: nothing is left of it", live.Bridge.Name)
		}
		return nil
	case err != nil && live.Bridge.Name != "":
		return err
	case live.Mode().OwnsBridge() && l.Kind != "bridge":
		return api.Errorf(api.Conflict, "status: the device %q is no bridge, but %s", live.Bridge.Name, l.Kind)
	}
	if err := translate.Unsupported(live); err != nil {
		return fmt.Errorf("status: %w", err)
	}
	if !live.OwnsBridge() {
		return nil
	}
	if live.MAC == nil {
		live.MAC = l.MAC
	}
	for i := range live.IPs {
		p := live.IPs[i].Prefix()
		if owner, err := t.m.env.Links.AddressOwner(p, live.Bridge.Name); err != nil {
			return err
		} else if owner != "" {
			return api.Errorf(api.Conflict, "status: subnet %v is also on interface %q", p.Masked(), owner)
		}
	}
	return nil
}

// register makes the network known, with its definition on disk if it has one, and
// marks it for autostart.
func (t *taking) register() (*Network, error) {
	if n := t.network; n != nil {
		if t.Report.Autostart == t.known.Autostart {
			return n, nil
		}
		return n, n.SetAutostart(t.Report.Autostart)
	}
	m := t.m
	n := m.catalog.make(cmp.Or(t.Def, t.Live))
	if t.Def != nil {
		if err := m.env.Store.SaveDefinition(t.Def); err != nil {
			return nil, err
		}
		if t.Report.Autostart {
			if err := m.env.Store.SetAutostart(n.Name(), true); err != nil {
				_, undone := m.env.Store.DeleteDefinition(n.Name())
				return nil, errors.Join(err, undone)
			}
		}
		n.Load(t.Def, t.Report.Autostart)
	}
	m.catalog.add(n)
	m.env.Events.Publish(env.Event{Kind: env.NetworkDefined, Network: n.Info()})
	return n, nil
}

// storeLeases puts the leases on disk, for the servers to find there when they are
// opened.
func (t *taking) storeLeases() error {
	disk := t.m.env.Store.Leases(t.Report.UUID)
	had, err := disk.Load()
	if err != nil {
		return err
	}
	if puts := t.Merge(had, time.Now()); len(puts) > 0 {
		return disk.Commit(puts, nil)
	}
	return nil
}

// adopt makes vnetd's what libvirt left active. What fails leaves the network
// degraded, never down: its guests are at work.
func (t *taking) adopt(ctx context.Context, n *Network) error {
	refused, err := live.Former{Network: n}.TakeOver(ctx, t.Live, t.Ports)
	for _, why := range refused {
		t.Refuse("%w", why)
	}
	if held, served := n.Services().Leases(); err == nil && served {
		t.Compare(held, time.Now())
	}
	return err
}
