package network

import (
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

// conditionSources lists what is looked at: other programs' doings, then what only
// the hub knows of its networks.
func (m *Manager) conditionSources() []health.Source {
	return []health.Source{
		health.Firewall(m.cfg.Rules, m.activeNetworks),
		health.Services(m.servedNetworks),
		health.Clock(),
		health.Disks(m.cfg.Store.Troubles),
		health.Overlaps(m.cfg.Links.HostNets, m.activeNetworks),
		health.Leases(m.cfg.Store.LeaseDamage, m.givingNetworks),
		m.unusable.Source(m.definitionsOnDisk),
		{Name: "orphans", Find: m.orphanConditions},
		health.Deletions(m.unfinished),
	}
}

// activeNetworks are the active networks as conditions tell of them.
func (m *Manager) activeNetworks() (all []health.Network) {
	m.eachLive(func(n *Network, live *netdef.Network) {
		h := health.Network{Name: n.name, Bridge: live.Bridge.Name}
		for i := range live.IPs {
			h.Subnets = append(h.Subnets, live.IPs[i].Prefix().Masked())
		}
		all = append(all, h)
	})
	return all
}

// servedNetworks are what the active networks serve.
func (m *Manager) servedNetworks() (all []health.Served) {
	m.eachLive(func(n *Network, live *netdef.Network) {
		s := health.Served{Network: n.name, Bridge: live.Bridge.Name, NotUnderstood: translate.NotUnderstood(live)}
		for i := range live.IPs {
			if ip := &live.IPs[i]; ip.Addressless() {
				s.Addressless = append(s.Addressless, ip.Prefix().Masked())
			}
		}
		_, faults := live.Served()
		for _, f := range faults {
			s.Faulty = append(s.Faulty, f)
		}
		if srv := n.runningServices().DHCP(); srv != nil {
			s.Foreign, s.Contested = srv.Foreign(), srv.Contested()
		}
		if srv := n.runningServices().DHCP6(); srv != nil {
			s.Contested = append(s.Contested, srv.Contested()...)
		}
		all = append(all, s)
	})
	return all
}

// givingNetworks are the names of the active networks that give addresses.
func (m *Manager) givingNetworks() (names []string) {
	m.eachLive(func(n *Network, live *netdef.Network) {
		if translate.DHCPIP(live) != nil || translate.DHCP6IP(live) != nil {
			names = append(names, n.name)
		}
	})
	return names
}

// definitionsOnDisk says of every network, by name, what there is of its definition.
func (m *Manager) definitionsOnDisk() map[string]health.Definition {
	all := make(map[string]health.Definition)
	for _, n := range m.all() {
		d := health.Definition{Kept: n.definition() != nil, Active: n.liveNetwork() != nil}
		if !d.Kept && n.persistent() {
			d.Gone = m.cfg.Store.DefinitionPath(n.name)
		}
		all[n.name] = d
	}
	return all
}

// unfinished are networks that could not be taken down, and ports that could not be
// deleted.
func (m *Manager) unfinished() (all []health.Unfinished) {
	for _, n := range m.all() {
		if err := n.unfinished(); err != nil {
			all = append(all, health.Unfinished{Network: n.name, Err: err})
		}
	}
	for _, p := range m.ports.reg.All(port.Own) {
		if err := p.Status().Failed; err != nil {
			all = append(all, health.Unfinished{Network: p.Network, Port: p.UUID, IfName: p.IfName, Err: err})
		}
	}
	return all
}
