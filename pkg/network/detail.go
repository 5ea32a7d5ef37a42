package network

import (
	"cmp"
	"maps"
	"math"
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
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
	d.Pools = poolsOf(is, leases)
	d.NotUnderstood = append(d.NotUnderstood, notUnderstood(is)...)
	if servesDNS(is) {
		d.DNS = &api.DNS{Domain: domainOf(is), Upstreams: n.upstreams()}
	}
	return d
}

// poolsOf are the pools of a network with those leases, IPv4 first.
func poolsOf(is *netdef.Network, leases []Lease) []api.Pool {
	pools := []api.Pool{}
	for _, ip := range []*netdef.IP{dhcpIP(is), dhcp6IP(is)} {
		if ip != nil {
			pools = append(pools, newPool(ip, leases))
		}
	}
	return pools
}

// newPool counts the addresses of ip, for which DHCP is served.
func newPool(ip *netdef.IP, leases []Lease) api.Pool {
	p := api.Pool{Family: "ipv4", Ranges: []api.Range{}, Reservations: len(ip.DHCP.Hosts)}
	if ip.Address.Is6() {
		p.Family = "ipv6"
	}
	for _, r := range ip.DHCP.Ranges {
		p.Ranges = append(p.Ranges, api.Range{Start: r.Start, End: r.End})
		size := distance(r.Start, r.End)
		if size < math.MaxUint64 {
			size++
		}
		if inRange(ip.Address, r.Start, r.End) {
			size-- // the gateway's own
		}
		p.Size += min(size, math.MaxUint64-p.Size)
	}
	for _, l := range leases {
		if slices.ContainsFunc(p.Ranges, func(r api.Range) bool { return inRange(l.Addr, r.Start, r.End) }) {
			p.Used++
		}
	}
	return p
}

// inRange tells whether a lies between start and end, both included.
func inRange(a, start, end netip.Addr) bool { return !a.Less(start) && !end.Less(a) }

// distance is end minus start, at most 2^64-1.
func distance(start, end netip.Addr) uint64 {
	a, b := start.As16(), end.As16()
	var d uint64
	for i := range a {
		if d > math.MaxUint64>>8-1 {
			return math.MaxUint64
		}
		d = d<<8 + uint64(b[i]) - uint64(a[i])
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
