package cluster

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/pkg/cluster/record"
)

// What follows is what this host goes by in what it does with frames and names. A host that
// has still to write its own into a store that lost it counts as it was before: it says
// where its guests are before it says that it is back, see plans.

// member is what a host is.
func (m *state) member(host string) (record.Member, bool) {
	h, there := m.view.members[host]
	if !there && m.before != nil && m.view.awaits(host) {
		h, there = m.before.members[host]
	}
	return h.v, there
}

// members are all hosts, in order of name.
func (m *state) members() []string {
	all := slices.Collect(maps.Keys(m.view.members))
	if m.before != nil {
		for host := range m.before.members {
			if _, there := m.view.members[host]; !there && m.view.awaits(host) {
				all = append(all, host)
			}
		}
	}
	slices.Sort(all)
	return all
}

// sender is the host from which a card sends.
func (m *state) sender(g Guest) (host string, port kept[record.Port]) {
	host, port = m.view.winner(g)
	if host == "" && m.before != nil {
		if h, p := m.before.winner(g); h != "" && m.view.awaits(h) {
			return h, p
		}
	}
	return host, port
}

// guests are all cards of a network.
func (m *state) guests(network string) []Guest {
	all := make(map[Guest]struct{})
	for _, v := range m.views() {
		for mac := range v.cards[network] {
			all[Guest{network, mac}] = struct{}{}
		}
	}
	return slices.Collect(maps.Keys(all))
}

// views are what there is to go by.
func (m *state) views() []*view {
	if m.before == nil {
		return []*view{m.view}
	}
	return []*view{m.view, m.before}
}

// nameOf is who has a name.
func (m *state) nameOf(n FQN) (record.Name, bool) {
	name, there := m.view.names[n]
	if !there && m.before != nil {
		if name, there = m.before.names[n]; there && !m.view.awaits(name.v.Host) {
			return record.Name{}, false
		}
	}
	return name.v, there
}

// addressesOf are those of which a record names a card.
func (m *state) addressesOf(g Guest) (addrs []netip.Addr) {
	for _, v := range m.views() {
		for a := range v.of[g] {
			for host := range v.leases[a].all() {
				if v == m.view || m.view.awaits(host) {
					addrs = append(addrs, a.Addr)
				}
			}
		}
	}
	return addrs
}

// remind has all be looked at that hosts which were awaited may say otherwise by now.
func (m *state) remind() {
	if m.before == nil {
		return
	}
	for g := range m.before.ports {
		m.changes.guest(g)
	}
	for n := range m.before.names {
		m.changes.name(n)
	}
}
