package live

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/portowner"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/bridge/vxlan"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/attach"
	"github.com/vnetd/vnetd/pkg/network/drift"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// partTunnel is the part of a network by which it is one with those of other hosts.
const partTunnel = "the tunnel to other hosts"

// tunnels is what is done about the tunnel to other hosts while a turn lasts.
type tunnels struct{ turn }

// keep makes the tunnel of live, which spans hosts, what it should be where it is suspected, as far as amend
// allows, and has it end where the network no longer does. The rules that keep what is each
// host's own apart stand by then. Where this host has no address for it there is none, and
// the network waits.
func (n tunnels) keep(ctx context.Context, live *netdef.Network, index int, s drift.Suspects, amend bridge.Amend) error {
	if !s.Bridge && !s.Whole {
		return nil
	}
	if live.Span == nil {
		return nil
	}
	live = n.env.Clusters.Resolve(live)
	if n.env.Tunnels == nil {
		return api.Errorf(api.Unsupported, "network/vnetd:span: this vnetd makes no tunnels")
	}
	self, err := ownUnderlay(n.Network, live)
	if live.Span.Cluster != "" {
		// Another host says what they are, and may be wrong: that is no reason to be without the rest.
		live.Span.Peers = slices.DeleteFunc(live.Span.Peers, func(a netip.Addr) bool { return slices.Contains(self.Broadcasts, a) })
	} else if err == nil {
		err = peersFit(live, &self)
	}
	if err != nil || !self.Addr.IsValid() {
		return err
	}
	cfg := translate.Tunnel(live, self)
	cfg.Alias, cfg.Amend = Mark(live), amend
	n.asFollowed(&cfg, live)
	port, plugged, err := n.env.Tunnels.Ensure(ctx, cfg)
	if err != nil {
		return tunnelError(live, err)
	}
	if port == 0 {
		return nil
	}
	plug := translate.TunnelPort(live)
	plug.Amend = amend
	if err := n.env.Links.Attach(ctx, index, port, plug); err != nil {
		return tunnelError(live, err)
	}
	if !plugged {
		// Only now there is a bridge that can be told of the cards.
		if _, _, err := n.env.Tunnels.Ensure(ctx, cfg); err != nil {
			return tunnelError(live, err)
		}
	}
	if n.tunnel.Swap(int64(port)) != int64(port) {
		n.env.Logger.Info("the network is one with those of other hosts", env.KeyNetwork, n.name, env.KeyIfName, cfg.Name, "underlay", self.Addr.String(), "peers", len(cfg.Peers))
	}
	return n.env.Tunnels.RouteMulticast(port)
}

// asFollowed has the tunnel of live know of cards what its cluster says. What differs is compared with
// what of its cluster the network has followed: what came since is no doing of somebody else's.
func (n tunnels) asFollowed(cfg *vxlan.Config, live *netdef.Network) {
	if was := n.followed.Load(); cfg.Amend != nil && was != nil && was.VNI == cfg.VNI {
		cfg.Peers, cfg.Cards = was.Peers, was.Cards
		return
	}
	if cfg.Cards = n.env.Clusters.Cards(live); cfg.Amend == nil {
		n.followed.Store(&vxlan.Config{VNI: cfg.VNI, Peers: cfg.Peers, Cards: cfg.Cards})
	}
}

// peersFit refuses peers of doc that are no hosts, where this host has the links that at tells of.
func peersFit(doc *netdef.Network, at *vxlan.Underlay) error {
	for i, a := range doc.Span.Peers {
		if slices.Contains(at.Broadcasts, a) {
			return api.Errorf(api.Conflict, "network/vnetd:span/vnetd:peer[%d]/@underlay: %v is the address by which a link of this host reaches all: want the address of a host", i+1, a)
		}
	}
	return nil
}

// tunnelError names what keeps the tunnel of doc from being made.
func tunnelError(doc *netdef.Network, err error) error {
	switch {
	case errors.Is(err, vxlan.ErrTaken):
		return api.Errorf(api.Conflict, "network/vnetd:span/@vni: %w", err)
	case errors.Is(err, vxlan.ErrUnsupported):
		return api.Errorf(api.Unsupported, "network/vnetd:span: %w", err)
	case errors.Is(err, unix.EADDRINUSE):
		by := "by another program, or a tunnel of another kind"
		if who, _, found := portowner.Listener("udp", netip.Addr{}, doc.Span.Port, doc.Span.Port); found {
			by = "by " + who
		}
		return api.Errorf(api.Conflict, "network/vnetd:span/@port: port %d of UDP is in use %s: end that, or choose another, the same on all hosts: %w", doc.Span.Port, by, err)
	}
	return err
}

// removeFormer deletes the tunnel that the network has and live has not.
func (n tunnels) removeFormer(live *netdef.Network) error {
	was := n.Live()
	if was == nil || was.Span == nil || live.Span != nil && live.Span.Device() == was.Span.Device() {
		return nil
	}
	return n.remove(was)
}

// remove deletes the tunnel of doc, if it has one.
func (n tunnels) remove(doc *netdef.Network) error {
	if doc.Span == nil || n.env.Tunnels == nil {
		return nil
	}
	n.tunnel.Store(0)
	return n.env.Tunnels.Remove(doc.Span.Device(), Mark(doc))
}

// note has the network be degraded for as long as this host has no address for its
// tunnel.
func (n tunnels) note(live *netdef.Network) {
	if live.Span == nil || n.env.Tunnels == nil {
		n.fault(partTunnel, nil)
		return
	}
	err := n.env.Clusters.Absent(live)
	if err == nil {
		if _, err = n.env.Tunnels.Underlay(translate.Underlays(n.env.Clusters.Resolve(live)), nil); err != nil {
			err = fmt.Errorf("network/vnetd:span: %w", err)
		}
	}
	n.fault(partTunnel, err)
}

// partHost is the part of a network by which this host itself is in it.
const partHost = "this host's own address"

// hosts is what is done about this host's own link to a network while a turn lasts.
type hosts struct{ turn }

// told is what people are told of the link that doc asks for, nil for none.
func (n hosts) told(doc *netdef.Network) *api.SpanHost {
	if !translate.HasHostLink(doc) {
		return nil
	}
	s := &api.SpanHost{Link: doc.Span.HostDevice(), Addresses: []netip.Addr{}}
	if cfg, _, ok := hostLink(n.Network, doc); ok {
		s.MAC = cfg.MAC.String()
		if HostIndex(n.Network) == 0 {
			return s
		}
		for _, w := range cfg.Ways {
			s.Addresses = append(s.Addresses, w.Addr)
		}
	}
	return s
}

// keep makes the link that live asks for what it should be where it is suspected, as far as amend allows. The rules that keep
// guests from going by it elsewhere stand by then.
func (n hosts) keep(ctx context.Context, live *netdef.Network, index int, s drift.Suspects, amend bridge.Amend) error {
	ports := attach.HostPorts{Ports: n.ports}
	cfg, name, ok := hostLink(n.Network, live)
	if !ok || !ports.Suspected(n.Network, s) {
		return nil
	}
	cfg.Alias, cfg.Amend = Mark(live), amend
	link, err := ports.Keep(ctx, n.Network, live, index, cfg, name)
	if err != nil || link == 0 {
		return err
	}
	n.card.index.Store(int64(link))
	return n.env.HostLinks.Settle(ctx, link, cfg)
}

// removeFormer deletes the link that the network has and live has not.
func (n hosts) removeFormer(live *netdef.Network) error {
	was := n.Live()
	if was == nil || !translate.HasHostLink(was) || translate.HasHostLink(live) && live.Span.VNI == was.Span.VNI {
		return nil
	}
	return n.remove(was)
}

// remove deletes the link of doc, if it has one, and gives its address back.
func (n hosts) remove(doc *netdef.Network) error {
	if !translate.HasHostLink(doc) || n.env.HostLinks == nil {
		return nil
	}
	n.card.index.Store(0)
	n.card.given.Store(nil)
	cfg := translate.HostLink(doc, doc.Span.HostMAC(""), netip.Addr{})
	return errors.Join((attach.HostPorts{Ports: n.ports}).Release(n.Network), n.env.HostLinks.Remove(cfg.Name, Mark(doc), cfg.Table))
}

// HostIndex is the ifindex of the link by which this host is in n, 0 for none.
func HostIndex(n *Network) int { return int(n.card.index.Load()) }

// Expect has the bridge of n know nothing of cards whose guests are about to move here: libvirt tells it.
// The caller has the turn.
func Expect(ctx context.Context, n *Network) error {
	live, index := n.Live(), n.BridgeIndex()
	if live == nil || index == 0 {
		return nil
	}
	return tunnels{turn{n}}.keep(ctx, live, index, drift.Whole(), nil)
}

// TunnelIndex is the ifindex of the tunnel to other hosts, 0 for none.
func TunnelIndex(n *Network) int { return int(n.tunnel.Load()) }

// ForeseeSpan says in a plan where the tunnel of def would go, and returns what is in its way;
// known is the network that def would be, nil for a new one.
func ForeseeSpan(e *env.Environment, p *api.Plan, def *netdef.Network, known *Network) error {
	if def.Span == nil || e.Tunnels == nil {
		return nil
	}
	def = e.Clusters.Resolve(def)
	at, err := e.Tunnels.Underlay(translate.Underlays(def), def.Span.Peers)
	if errors.Is(err, vxlan.ErrNoUnderlay) {
		err = api.Errorf(api.Conflict, "network/vnetd:span: %w", err)
	}
	err = errors.Join(err, peersFit(def, &at))
	for i := range p.Links {
		if s := p.Links[i].Span; s != nil && err == nil {
			s.Underlay, s.Link, s.Peers = at.Addr, at.Link, def.Span.Others(at.Own...)
		}
	}
	if known != nil && TunnelIndex(known) != 0 {
		return err
	}
	return errors.Join(err, inTheWay(e, def))
}

// inTheWay is what of this host keeps the tunnel of def, which is resolved, from being made.
func inTheWay(e *env.Environment, def *netdef.Network) error {
	err := portTaken(e, def.Span.Port)
	if l, missing := e.Links.Lookup(def.Span.Device()); missing == nil && Marked(l) == "" {
		err = errors.Join(err, api.Errorf(api.Conflict, "network/vnetd:span/@vni: a device %q (%s) already exists and is not vnetd's: delete it, or choose another VNI", l.Name, l.Kind))
	}
	for _, name := range []string{def.Span.HostDevice(), def.Span.HostPort()} {
		if l, missing := e.Links.Lookup(name); missing == nil && Marked(l) == "" && translate.HasHostLink(def) {
			err = errors.Join(err, api.Errorf(api.Conflict, "network/vnetd:span/@host-address: a device %q (%s) already exists and is not vnetd's: delete it, or choose another VNI", l.Name, l.Kind))
		}
	}
	return err
}

// portTaken says who has a port of UDP that a tunnel wants, nil for nobody and for tunnels, which
// share it.
func portTaken(e *env.Environment, port uint16) error {
	who, where, found := portowner.Listener("udp", netip.Addr{}, port, port)
	if !found {
		return nil
	}
	if shared, err := e.Tunnels.Shares(port); shared || err != nil {
		return err
	}
	return api.Errorf(api.Conflict, "network/vnetd:span/@port: %s has port %d of UDP (%v): end that, or choose another, the same on all hosts", who, port, where)
}

// spanOf is what people are told of the tunnel of n, which is what doc says; nil for none.
func spanOf(n *Network, doc *netdef.Network) *api.Span {
	doc = n.env.Clusters.Resolve(doc)
	s := translate.Span(doc)
	if s != nil {
		s.Share, s.Host = n.env.Clusters.Share(doc), hosts{turn{n}}.told(doc)
	}
	if s == nil || n.env.Tunnels == nil {
		return s
	}
	if self, err := n.env.Tunnels.Underlay(translate.Underlays(doc), doc.Span.Peers); err == nil {
		s.Underlay, s.Link = self.Addr, self.Link
		s.Peers = slices.DeleteFunc(doc.Span.Others(self.Own...), func(a netip.Addr) bool { return slices.Contains(self.Broadcasts, a) })
	}
	return s
}
