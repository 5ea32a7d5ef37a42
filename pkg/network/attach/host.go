package attach

import (
	"bytes"
	"context"
	"errors"
	"net"

	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/bridge/hostlink"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/drift"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// HostPorts are the ports by which this host itself is in networks that span hosts. To the rest of the hub they
// are what another program registered, and plugged in.
type HostPorts struct{ *Ports }

// Of is that of n, nil for none.
func (h HostPorts) Of(n Network) *port.Port {
	p := h.reg.UUID(hostUUID(n))
	if p == nil || p.Network != n.Name() {
		return nil
	}
	return p
}

// hostUUID is the UUID of the port of n by which this host is in it: always the same one.
func hostUUID(n Network) string {
	space, _ := ether.ParseUUID(n.Document().UUID) // a network's is one
	return ether.NamedUUID(space, "host-address").String()
}

// Suspected reports whether the port of n, or that it is not there, is among what is suspected.
func (h HostPorts) Suspected(n Network, s drift.Suspects) bool {
	p := h.Of(n)
	return s.Bridge || s.Whole || p == nil || s.Has(p.Status().Index)
}

// Keep has this host be in n, which is live, by the link that cfg asks for, as far as that allows: its port is
// registered, and plugged into the bridge with that ifindex. It returns the ifindex of the host's end, 0 where
// that is left away. name is that of this host. The error is Conflict where a device is in the way. The caller has
// the turn of n.
func (h HostPorts) Keep(ctx context.Context, n Network, live *netdef.Network, bridgeIndex int, cfg hostlink.Config, name string) (index int, err error) {
	index, end, err := h.env.HostLinks.Ensure(ctx, cfg)
	if errors.Is(err, hostlink.ErrTaken) {
		return 0, api.Errorf(api.Conflict, "network/vnetd:span/@host-address: %w", err)
	}
	if err != nil || index == 0 {
		return 0, err
	}
	l, err := h.env.Links.LookupIndex(end)
	if err != nil {
		return 0, err
	}
	p, fresh, err := h.registered(n, live, cfg.MAC, name)
	if err != nil {
		return 0, err
	}
	moved := p.Status().Index != end
	if moved {
		p.SetDevice(l)
	}
	for _, w := range cfg.Ways { // of IPv6 nobody else tells
		p.Lease(w.Addr)
	}
	if err := h.plugIn(ctx, live, p, bridgeIndex, cfg.Amend); err != nil {
		return 0, err
	}
	kind := env.PortChanged
	if fresh {
		kind = env.PortAdded
		h.env.Logger.Info("this host is in the network by a link of its own", env.KeyNetwork, n.Name(), env.KeyIfName, cfg.Name, env.KeyMAC, cfg.MAC.String())
	}
	if !fresh && !moved {
		return index, nil
	}
	if err := h.env.Store.SavePort(p.Record()); err != nil {
		return 0, err
	}
	h.publish(kind, n, h.info(p))
	return index, nil
}

// registered is the port of n for a card of this host, which is called name; fresh reports whether there was none.
func (h HostPorts) registered(n Network, live *netdef.Network, mac net.HardwareAddr, name string) (p *port.Port, fresh bool, err error) {
	if p = h.Of(n); p != nil && bytes.Equal(p.MAC, mac) {
		return p, false, nil
	}
	if p != nil { // the others know this host by another name now
		if err := h.end(p); err != nil {
			return nil, false, err
		}
	}
	uuid := hostUUID(n)
	doc, err := translate.NetworkPort(live, &netdef.Port{UUID: uuid, MAC: mac, Owner: netdef.Owner{Name: "host " + name, UUID: uuid}}, false, &translate.Pool{})
	if err != nil {
		return nil, false, err
	}
	p, err = h.reg.Register(live.Name, live.UUID, doc, 0, port.Limits{})
	return p, true, err
}

// plugIn puts the device of p on the bridge with that ifindex, and its guard.
func (h HostPorts) plugIn(ctx context.Context, live *netdef.Network, p *port.Port, bridgeIndex int, amend bridge.Amend) error {
	cfg := plugged(h.env, live, p)
	cfg.Amend = amend
	if cfg.NoLearning {
		cfg.FDB = p.MAC
	}
	if err := p.Attach(ctx, h.env.Links, bridgeIndex, cfg); err != nil {
		return err
	}
	h.guards.Port(live, p)
	return nil
}

// Release has n forget the port by which this host is in it, and take its address back.
func (h HostPorts) Release(n Network) error {
	p := h.Of(n)
	if p == nil {
		return nil
	}
	n.Services().Dismiss(GuestOf(p.Record()), p.Status().Held)
	return h.end(p)
}
