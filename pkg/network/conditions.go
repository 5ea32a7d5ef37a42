package network

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/health"
	"github.com/vnetd/vnetd/pkg/network/live"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// conditions shows the sources of conditions what only the hub knows of its networks.
type conditions struct {
	*catalog
	stock *stock
	ways  health.Ways
}

// sources lists what is looked at: other programs' doings, then what only
// the hub knows of its networks.
func (c conditions) sources() []health.Source {
	return []health.Source{
		health.Firewall(c.env.Rules, c.active, c.bridged),
		health.Repairs(c.env.Rules),
		health.Services(c.served()),
		health.Clock(),
		health.Disks(c.env.Store.Troubles),
		health.Reachable(c.active),
		health.Overlaps(c.env.Links.HostNets, c.active),
		health.Leases(c.env.Store.LeaseDamage, c.giving),
		c.env.Unusable.Source(c.definitions),
		health.Paths(c.ways, c.env.Links, c.routed),
		c.env.Hooks.Source(),
		health.Fights(c.env.Keeper.Fights),
		{Name: "orphans", Find: c.orphans},
		{Name: "guards", Find: c.ports.Guards().Conditions},
		health.Deletions(c.unfinished),
		health.Uplinks(c.uplinks, c.bridgesAway),
		health.Parents(c.parentsAway),
		health.Peers(Peerings{c.catalog}.waiting),
		health.UnguardedPorts(c.unguarded),
		health.Misfits(c.misfits),
		health.Bandwidths(c.outheld),
		health.Spans(c.spans),
		health.Clusters(c.clusters),
		health.BGP(Announcements{c.catalog}.wanted, Announcements{c.catalog}.Status),
	}
}

// active are the active networks as conditions tell of them.
func (c conditions) active() (all []health.Network) {
	c.eachLive(func(n *Network, live *netdef.Network) {
		h := health.Network{Name: n.Name(), Bridge: live.Bridge.Name}
		for i := range live.IPs {
			h.Subnets = append(h.Subnets, live.IPs[i].Prefix().Masked())
		}
		h.Reachable = translate.Reachable(live)
		if translate.HasHostLink(live) {
			h.HostLink = live.Span.HostDevice()
		}
		all = append(all, h)
	})
	return all
}

// bridged are the active networks on bridges that lead to the LAN, as the firewall sees
// them.
func (c conditions) bridged() (all []firewall.Network) {
	c.eachLive(func(n *Network, live *netdef.Network) {
		if live.Mode() == netdef.ModeBridge && n.BridgeIndex() != 0 {
			all = append(all, translate.Firewall(live))
		}
	})
	return all
}

// routed are the active networks whose guests the host routes to.
func (c conditions) routed() (all []health.Routed) {
	c.eachLive(func(n *Network, doc *netdef.Network) {
		index := n.BridgeIndex()
		if index == 0 || !doc.Mode().OwnsBridge() {
			return
		}
		r := health.Routed{Network: n.Name(), Bridge: doc.Bridge.Name, Index: index, Host: live.HostIndex(n), Gateways: translate.Bridge(doc).Addrs, Dev: translate.Firewall(doc).Dev}
		r.Forwards4, r.Forwards6 = translate.Forwards(doc)
		all = append(all, r)
	})
	return all
}

// served returns a function that lists what the active networks serve. It is for one
// goroutine: it keeps what is faulty of each document, which does not change once it
// is a network's, for the next call.
func (c conditions) served() func() []health.Served {
	var known map[*netdef.Network][]error
	return func() (all []health.Served) {
		faulty := make(map[*netdef.Network][]error)
		c.eachLive(func(n *Network, live *netdef.Network) {
			faults, ok := known[live]
			if !ok {
				faults = faultyRecords(live)
			}
			faulty[live] = faults
			all = append(all, servedBy(n, live, faults))
		})
		known = faulty
		return all
	}
}

// faultyRecords are the names and records of a document that can't be served.
func faultyRecords(live *netdef.Network) []error {
	_, faults := live.Served()
	var all []error
	for _, f := range faults {
		all = append(all, f)
	}
	return all
}

// servedBy is what an active network serves, of whose document that is faulty.
func servedBy(n *Network, live *netdef.Network, faulty []error) health.Served {
	s := health.Served{Network: n.Name(), Bridge: live.Bridge.Name, NotUnderstood: live.Dnsmasq.Unknown, Faulty: faulty}
	for i := range live.IPs {
		if ip := &live.IPs[i]; ip.Addressless() {
			s.Addressless = append(s.Addressless, ip.Prefix().Masked())
		}
	}
	open := n.Services().Servers()
	if srv := open.DHCP; srv != nil {
		s.Foreign, s.Contested, s.Unused = srv.Foreign(), srv.Contested(), srv.Unused()
	}
	if srv := open.DHCP6; srv != nil {
		s.Contested = append(s.Contested, srv.Contested()...)
		s.Unused = append(s.Unused, srv.Unused()...)
	}
	return s
}

// giving are the names of the active networks that give addresses.
func (c conditions) giving() (names []string) {
	c.eachLive(func(n *Network, live *netdef.Network) {
		if translate.DHCPIP(live) != nil || translate.DHCP6IP(live) != nil {
			names = append(names, n.Name())
		}
	})
	return names
}

// definitions says of every network, by name, what there is of its definition.
func (c conditions) definitions() map[string]health.Definition {
	all := make(map[string]health.Definition)
	for _, n := range c.all() {
		d := health.Definition{Kept: n.Definition() != nil, Active: n.Live() != nil}
		if !d.Kept && n.Persistent() {
			d.Gone = c.env.Store.DefinitionPath(n.Name())
		}
		all[n.Name()] = d
	}
	return all
}

// unfinished are networks that could not be taken down, and ports that could not be
// deleted.
func (c conditions) unfinished() (all []health.Unfinished) {
	for _, n := range c.all() {
		if err := n.Unfinished(); err != nil {
			all = append(all, health.Unfinished{Network: n.Name(), Err: err})
		}
	}
	for _, p := range c.ports.Registry().All(port.Own) {
		if err := p.Status().Failed; err != nil {
			all = append(all, health.Unfinished{Network: p.Network, Port: p.UUID, IfName: p.IfName, Err: err})
		}
	}
	return all
}

// spans are the active networks that span hosts, as conditions tell of them.
func (c conditions) spans() (all []health.Span) {
	if c.env.Tunnels == nil {
		return nil
	}
	c.eachLive(func(n *Network, doc *netdef.Network) {
		if doc.Span == nil {
			return
		}
		if err := c.env.Clusters.Absent(doc); err != nil {
			all = append(all, health.Span{Network: n.Name(), Cluster: doc.Span.Cluster, Err: err})
			return
		}
		doc = c.env.Clusters.Resolve(doc)
		at, err := c.env.Tunnels.Underlay(translate.Underlays(doc), nil)
		all = append(all, health.Span{
			Network: n.Name(), Err: err, Link: at.Link, LinkMTU: at.MTU, MTU: doc.MTU, Needed: translate.UnderlayMTU(doc),
		})
	})
	return all
}

// clusters are those that this host is in.
func (c conditions) clusters() (all []health.Cluster) {
	for _, m := range c.env.Clusters.All() {
		h := health.Cluster{Name: m.Name}
		for _, f := range m.Member.Faults() {
			if f.Kind == "away" && m.IsNew(time.Now()) {
				continue // it has hardly been asked
			}
			h.Faults = append(h.Faults, health.ClusterFault(f))
		}
		for network, err := range m.Problems() {
			h.Faults = append(h.Faults, health.ClusterFault{Kind: "definition", Subject: network, Text: err.Error()})
		}
		for _, p := range m.Member.Peers() {
			if p.Silent {
				h.Silent = append(h.Silent, p.Host)
			}
		}
		c.eachLive(func(n *Network, doc *netdef.Network) {
			if c.env.Clusters.Of(doc) == m {
				h.Networks = append(h.Networks, n.Name())
			}
		})
		all = append(all, h)
	}
	return all
}

// orphans are orphans that are still there.
func (c conditions) orphans(context.Context) ([]api.Condition, error) {
	var all []api.Condition
	for _, p := range c.ports.Registry().All(port.Orphan) {
		all = append(all, api.Condition{
			Kind: "port-orphaned", Severity: api.SeverityWarning, Evidence: fmt.Sprintf("port %s (%s) is of the network %s", p.UUID, p.IfName, p.Record().Network),
			Message: fmt.Sprintf("port %s has no network any more: it is kept for when that comes back", p.IfName),
			Remedy:  "vnetctl port delete " + p.UUID,
		})
	}
	for _, l := range c.stock.lastMarks() {
		if c.isItsBridge(l) {
			continue
		}
		now, err := c.env.Links.LookupIndex(l.Index)
		uuid := live.Marked(now)
		if err != nil || now.Kind != "bridge" || uuid == "" {
			continue
		}
		if n := c.uuid(uuid); n != nil && n.Standing() {
			all = append(all, stray(n, now)...)
			continue
		}
		all = append(all, api.Condition{
			Kind: "bridge-orphaned", Severity: api.SeverityWarning, Evidence: fmt.Sprintf("%s says of itself: %s", now.Name, now.Alias),
			Message: fmt.Sprintf("the bridge %s is of a network that is not known any more: its guests have no DHCP and no DNS", now.Name),
			Remedy:  fmt.Sprintf("vnetctl create FILE, of the network with the UUID %s, which takes the bridge over", uuid),
		})
	}
	return all, nil
}

// isItsBridge reports whether a link is the bridge of an active network of which it bears the mark,
// as most are, or no bridge: nothing is to be asked about it.
func (c conditions) isItsBridge(l bridge.Link) bool {
	if l.Kind != "bridge" {
		return true
	}
	for _, n := range c.onBridges().at[l.Index] {
		if strings.EqualFold(n.Document().UUID, live.Marked(l)) {
			return true
		}
	}
	return false
}

// stray is the condition of a bridge that bears the mark of a network which has another
// one, as where both were there when vnetd started.
func stray(n *Network, l bridge.Link) []api.Condition {
	index := n.BridgeIndex()
	if index == 0 || index == l.Index {
		return nil
	}
	own := n.Document().Bridge.Name
	return []api.Condition{{
		Kind: "bridge-stray", Severity: api.SeverityWarning, Networks: []string{n.Name()},
		Evidence: fmt.Sprintf("%s says of itself: %s", l.Name, l.Alias),
		Message:  fmt.Sprintf("the bridge %s bears the mark of network %q, whose bridge is %s: guests on it have no DHCP and no DNS", l.Name, n.Name(), own),
		Remedy:   fmt.Sprintf("bridge link show master %s; ip link set PORT master %s; ip link del %s", l.Name, own, l.Name),
	}}
}
