package network

import (
	"context"
	"net"
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose/ruleset"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/forward"
	"github.com/vnetd/vnetd/pkg/network/live"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/reach"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// Reach answers whether a connection can be opened, by what the kernel has at this moment. It
// changes and sends nothing. Where some of that can't be listed, the answer says that it is not
// known.
func (m *Manager) Reach(ctx context.Context, q api.ReachQuestion) (api.Reach, error) {
	select {
	case m.asked <- struct{}{}:
		defer func() { <-m.asked }()
	case <-ctx.Done():
		return api.Reach{}, ctx.Err()
	}
	w, err := m.World(ctx)
	if err != nil {
		return api.Reach{}, err
	}
	return w.Ask(q)
}

// World is the host at this moment, for several questions.
func (m *Manager) World(ctx context.Context) (*reach.World, error) {
	if m.env.Ruleset == nil {
		return nil, api.Errorf(api.Unsupported, "this vnetd does not look at the host's rules")
	}
	rules, hidden := m.env.Ruleset(ctx)
	if rules == nil {
		rules = new(ruleset.Ruleset)
	}
	facts := diagnose.ReadFacts(nil)
	w := &reach.World{
		Rules: rules, Hidden: hidden, Prefix: m.env.ChainPrefix, Ways: &m.ways, Links: m.env.Links, Neighbours: &m.neighbours,
		Addresses: facts.Addresses, Routes: facts.Routes, BridgeNF4: facts.BridgeNF4, BridgeNF6: facts.BridgeNF6,
	}
	m.catalog.eachLive(func(n *Network, doc *netdef.Network) {
		r := reach.Network{
			Name: n.Name(), Rules: live.Firewall(n, doc), Forwards: m.Forwards().On(n), Peers: m.Peerings().On(n), LAN: doc.Mode() == netdef.ModeBridge,
		}
		if r.Index = n.BridgeIndex(); r.Index != 0 {
			r.Bridge = doc.Bridge.Name
		}
		if doc.Mode().OwnsBridge() {
			r.Gateways = translate.Bridge(doc).Addrs
		}
		for i := range doc.Routes {
			r.Behind = append(r.Behind, doc.Routes[i].Prefix())
		}
		if doc.Domain != nil {
			r.Domain = doc.Domain.Name
		}
		w.Networks = append(w.Networks, r)
		w.Guests = append(w.Guests, m.guestsOf(n, doc)...)
	})
	return w, nil
}

// guestsOf are the guests of a network, as its ports, its leases and its document know them.
func (m *Manager) guestsOf(n *Network, live *netdef.Network) (all []reach.Guest) {
	for _, p := range m.Ports().Registry().On(n.Name(), port.Own, port.External, port.Foreign) {
		all = append(all, guestOn(n, p))
	}
	held, _ := n.Services().Leases()
	for _, l := range held {
		all = known(all, reach.Guest{Network: n.Name(), Names: named(l.Hostname), MAC: l.MAC, Addrs: []netip.Addr{l.Addr}})
	}
	for _, r := range forward.Reserved(live) {
		g := reach.Guest{Network: n.Name(), Names: named(r.Name), Addrs: r.Reserved}
		if len(r.MACs) > 0 {
			g.MAC, _ = net.ParseMAC(r.MACs[0])
		}
		all = known(all, g)
	}
	return all
}

// guestOn is the guest of a port.
func guestOn(n *Network, p *port.Port) reach.Guest {
	s := p.Status()
	info := p.Info()
	return reach.Guest{
		Network: n.Name(), Names: append(named(p.Name), p.Aliases...), MAC: p.CardAddr(), IfName: s.IfName, Index: s.Index,
		Addrs: slices.Concat(s.Held, p.Addrs), Parent: info.Parent, UUID: p.UUID,
	}
}

// named is a name, none for an empty one.
func named(name string) []string {
	if name == "" {
		return nil
	}
	return []string{name}
}

// known adds what is known of a guest to one that is listed, by its card or its name, or lists
// it.
func known(all []reach.Guest, g reach.Guest) []reach.Guest {
	is := func(o reach.Guest) bool {
		if len(g.MAC) > 0 || len(o.MAC) > 0 && len(g.Names) == 0 {
			return len(o.MAC) > 0 && o.MAC.String() == g.MAC.String()
		}
		return len(g.Names) > 0 && slices.Contains(o.Names, g.Names[0])
	}
	i := slices.IndexFunc(all, is)
	if i < 0 {
		return append(all, g)
	}
	for _, a := range g.Addrs {
		if !slices.Contains(all[i].Addrs, a) {
			all[i].Addrs = append(all[i].Addrs, a)
		}
	}
	for _, name := range g.Names {
		if !slices.Contains(all[i].Names, name) {
			all[i].Names = append(all[i].Names, name)
		}
	}
	return all
}
