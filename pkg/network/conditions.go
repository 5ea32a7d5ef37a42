package network

import (
	"context"
	"fmt"
	"slices"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/health"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// Conditions lists what is amiss, the worst first, as Watch found it within the
// last seconds.
func (m *Manager) Conditions() []api.Condition { return m.health.Conditions() }

// Conditions lists those that concern the network.
func (n *Network) Conditions() []api.Condition {
	return slices.DeleteFunc(n.m.Conditions(), func(c api.Condition) bool { return !slices.Contains(c.Networks, n.name) })
}

// conditionsChanged tells subscribers, also of what is known of the networks
// concerned.
func (m *Manager) conditionsChanged(concerned []string) {
	m.events.publish(Event{Kind: ConditionsChanged})
	for _, name := range concerned {
		if n := m.find(name); n != nil {
			n.changed()
		}
	}
}

// conditions shows the sources of conditions what only the hub knows of its networks.
type conditions struct{ m *Manager }

// sources lists what is looked at: other programs' doings, then what only
// the hub knows of its networks.
func (c conditions) sources() []health.Source {
	return []health.Source{
		health.Firewall(c.m.cfg.Rules, c.active),
		health.Services(c.served()),
		health.Clock(),
		health.Disks(c.m.cfg.Store.Troubles),
		health.Overlaps(c.m.cfg.Links.HostNets, c.active),
		health.Leases(c.m.cfg.Store.LeaseDamage, c.giving),
		c.m.unusable.Source(c.definitions),
		{Name: "orphans", Find: c.orphans},
		health.Deletions(c.unfinished),
	}
}

// active are the active networks as conditions tell of them.
func (c conditions) active() (all []health.Network) {
	c.m.eachLive(func(n *Network, live *netdef.Network) {
		h := health.Network{Name: n.name, Bridge: live.Bridge.Name}
		for i := range live.IPs {
			h.Subnets = append(h.Subnets, live.IPs[i].Prefix().Masked())
		}
		all = append(all, h)
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
		c.m.eachLive(func(n *Network, live *netdef.Network) {
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
	s := health.Served{Network: n.name, Bridge: live.Bridge.Name, NotUnderstood: live.Dnsmasq.Unknown, Faulty: faulty}
	for i := range live.IPs {
		if ip := &live.IPs[i]; ip.Addressless() {
			s.Addressless = append(s.Addressless, ip.Prefix().Masked())
		}
	}
	if srv := n.runningServices().DHCP(); srv != nil {
		s.Foreign, s.Contested, s.Unused = srv.Foreign(), srv.Contested(), srv.Unused()
	}
	if srv := n.runningServices().DHCP6(); srv != nil {
		s.Contested = append(s.Contested, srv.Contested()...)
		s.Unused = append(s.Unused, srv.Unused()...)
	}
	return s
}

// giving are the names of the active networks that give addresses.
func (c conditions) giving() (names []string) {
	c.m.eachLive(func(n *Network, live *netdef.Network) {
		if translate.DHCPIP(live) != nil || translate.DHCP6IP(live) != nil {
			names = append(names, n.name)
		}
	})
	return names
}

// definitions says of every network, by name, what there is of its definition.
func (c conditions) definitions() map[string]health.Definition {
	all := make(map[string]health.Definition)
	for _, n := range c.m.all() {
		d := health.Definition{Kept: n.definition() != nil, Active: n.liveNetwork() != nil}
		if !d.Kept && n.persistent() {
			d.Gone = c.m.cfg.Store.DefinitionPath(n.name)
		}
		all[n.name] = d
	}
	return all
}

// unfinished are networks that could not be taken down, and ports that could not be
// deleted.
func (c conditions) unfinished() (all []health.Unfinished) {
	for _, n := range c.m.all() {
		if err := n.unfinished(); err != nil {
			all = append(all, health.Unfinished{Network: n.name, Err: err})
		}
	}
	for _, p := range c.m.ports.reg.All(port.Own) {
		if err := p.Status().Failed; err != nil {
			all = append(all, health.Unfinished{Network: p.Network, Port: p.UUID, IfName: p.IfName, Err: err})
		}
	}
	return all
}

// orphans are orphans that are still there.
func (c conditions) orphans(context.Context) ([]api.Condition, error) {
	var all []api.Condition
	for _, p := range c.m.ports.reg.All(port.Orphan) {
		all = append(all, api.Condition{
			Kind: "port-orphaned", Severity: api.SeverityWarning, Evidence: fmt.Sprintf("port %s (%s) is of the network %s", p.UUID, p.IfName, p.Record().Network),
			Message: fmt.Sprintf("port %s has no network any more: it is kept for when that comes back", p.IfName),
			Remedy:  "vnetctl port delete " + p.UUID,
		})
	}
	for _, l := range c.m.stock.lastMarks() {
		now, err := c.m.cfg.Links.LookupIndex(l.Index)
		uuid := markedNetwork(now)
		if err != nil || now.Kind != "bridge" || uuid == "" || c.m.owns(uuid) {
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
