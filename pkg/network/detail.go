package network

import (
	"cmp"
	"maps"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/vnetd/vnetd/pkg/dnsd"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// Detail is what a person asks of a network beyond its Info.
type Detail struct {
	Pools         []Pool            `json:"pools"`
	DNS           *DNSDetail        `json:"dns"` // null where no names are served
	NotUnderstood []string          `json:"not_understood"`
	Faults        map[string]string `json:"faults"`  // what fails, by part
	Repairs       uint64            `json:"repairs"` // times that the bridge or what hangs on it was put back
}

// Pool is the DHCP of one address family.
type Pool struct {
	Family       string  `json:"family"` // ipv4 or ipv6
	Ranges       []Range `json:"ranges"`
	Size         uint64  `json:"size"` // addresses in the ranges that guests can have; at most 2^64-1
	Used         uint64  `json:"used"` // of them, leased
	Reservations int     `json:"reservations"`
}

// Range is the first and the last address of a range.
type Range struct {
	Start netip.Addr `json:"start"`
	End   netip.Addr `json:"end"`
}

// DNSDetail is the name service of a network.
type DNSDetail struct {
	Domain    string        `json:"domain"`
	Upstreams []DNSUpstream `json:"upstreams"`
}

// DNSUpstream is a server that guests' queries are forwarded to.
type DNSUpstream struct {
	Addr    netip.AddrPort `json:"addr"`
	Domain  string         `json:"domain"` // whose names it is asked for; empty: all others
	Failing bool           `json:"failing"`
}

// Detail tells more of the network, which holds these leases.
func (n *Network) Detail(leases []Lease) Detail {
	n.mu.Lock()
	is := cmp.Or(n.live, n.def, n.last)
	d := Detail{Pools: []Pool{}, NotUnderstood: []string{}, Faults: map[string]string{}, Repairs: n.repairs}
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
		d.DNS = &DNSDetail{Domain: domainOf(is), Upstreams: n.upstreams()}
	}
	return d
}

// upstreams lists the servers that the network's name service asks.
func (n *Network) upstreams() []DNSUpstream {
	all := []DNSUpstream{}
	if srv, ok := n.server(partDNS).(*dnsd.Server); ok {
		for _, u := range srv.Upstreams() {
			all = append(all, DNSUpstream(u))
		}
	}
	return all
}

// poolsOf are the pools of a network with those leases, IPv4 first.
func poolsOf(is *netdef.Network, leases []Lease) []Pool {
	pools := []Pool{}
	for _, ip := range []*netdef.IP{dhcpIP(is), dhcp6IP(is)} {
		if ip != nil {
			pools = append(pools, newPool(ip, leases))
		}
	}
	return pools
}

// newPool counts the addresses of ip, for which DHCP is served.
func newPool(ip *netdef.IP, leases []Lease) Pool {
	p := Pool{Family: "ipv4", Ranges: []Range{}, Reservations: len(ip.DHCP.Hosts)}
	if ip.Address.Is6() {
		p.Family = "ipv6"
	}
	for _, r := range ip.DHCP.Ranges {
		p.Ranges = append(p.Ranges, Range{r.Start, r.End})
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
		if slices.ContainsFunc(p.Ranges, func(r Range) bool { return inRange(l.Addr, r.Start, r.End) }) {
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

// FirewallState is what became of the firewall since vnetd started.
type FirewallState struct {
	Repairs    uint64            `json:"repairs"`
	ByCause    map[string]uint64 `json:"by_cause"`
	Rules      uint64            `json:"rules"` // put back
	Zones      uint64            `json:"zones"` // bridges put back into their zones
	Checks     uint64            `json:"checks"`
	Failed     uint64            `json:"failed"`      // repairs
	LastRepair *time.Time        `json:"last_repair"` // null: never
	Contended  bool              `json:"contended"`
}

// Firewall tells what became of the firewall.
func (m *Manager) Firewall() FirewallState {
	s := m.cfg.Rules.Stats()
	f := FirewallState{
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
