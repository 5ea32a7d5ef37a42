package network

import (
	"maps"
	"slices"

	"github.com/vnetd/vnetd/internal/histogram"
	"github.com/vnetd/vnetd/pkg/api"
)

// Stats are the counts of all networks, in order of name. Those of a service
// begin anew when it is opened anew.
func (m *Manager) Stats() []Stats {
	var all []Stats
	for _, n := range m.catalog.all() {
		all = append(all, n.Stats())
	}
	return all
}

// PortRequests returns how long the requests that got a port took, the start of a
// network on demand included.
func (m *Manager) PortRequests() histogram.Counts { return m.env.PortRequests.Load() }

// Firewall tells what became of the firewall.
func (m *Manager) Firewall() api.Firewall {
	s := m.env.Rules.Stats()
	f := api.Firewall{
		Repairs: s.Repairs, ByCause: map[string]uint64{}, Rules: s.Rules, Zones: s.Zones,
		Checks: s.Checks, Failed: s.Failed, Contended: s.Contended,
	}
	for _, cause := range slices.Collect(maps.Keys(s.ByCause)) {
		f.ByCause[string(cause)] = s.ByCause[cause]
	}
	if !s.LastRepair.IsZero() {
		f.LastRepair = &s.LastRepair
	}
	return f
}
