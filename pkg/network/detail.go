package network

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// Detail tells more of the network, which holds these leases.
func (n *Network) Detail(leases []Lease) api.Detail {
	pending := append([]string{}, n.Pending()...)
	n.mu.Lock()
	is := cmp.Or(n.live, n.def, n.last)
	d := api.Detail{Pending: pending, Pools: []api.Pool{}, NotUnderstood: []string{}, Faults: map[string]string{}, Repairs: n.repairs}
	for part, err := range n.faults {
		d.Faults[part] = err.Error()
	}
	n.mu.Unlock()
	if is == nil {
		return d
	}
	var leased []netip.Addr
	for _, l := range leases {
		leased = append(leased, l.Addr)
	}
	d.Pools = translate.Pools(is, leased)
	d.NotUnderstood = append(d.NotUnderstood, translate.NotUnderstood(is)...)
	if translate.ServesDNS(is) {
		d.DNS = &api.DNS{Domain: translate.Domain(is), Upstreams: n.upstreams()}
	}
	return d
}

// Firewall tells what became of the firewall.
func (m *Manager) Firewall() api.Firewall {
	s := m.cfg.Rules.Stats()
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
