package translate

import (
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/service"
)

// Plan is the plan of a document with those rules. What may be in its way is the
// caller's to find.
func Plan(def *netdef.Network, rules []firewall.Line) api.Plan {
	p := api.Plan{
		Name: def.Name, Mode: string(def.Mode()), Action: "create", Conflicts: []string{}, Pending: []string{},
		Links:     plannedLinks(def),
		Addresses: []api.PlannedAddress{}, Routes: []api.PlannedRoute{}, Sysctls: []api.PlannedSysctl{}, Rules: []api.PlannedRule{},
		Pools: []api.Pool{}, Forwards: []api.Forward{}, Announces: []netip.Prefix{}, Services: []api.PlannedService{}, NotUnderstood: append([]string{}, def.Dnsmasq.Unknown...),
	}
	if !def.Mode().OwnsBridge() {
		return p
	}
	cfg := Bridge(def)
	for _, a := range cfg.Addrs {
		p.Addresses = append(p.Addresses, api.PlannedAddress{Link: cfg.Name, Address: a})
	}
	for _, r := range cfg.Routes {
		p.Routes = append(p.Routes, api.PlannedRoute{Destination: r.Prefix.Masked(), Gateway: r.Gateway, Link: cfg.Name, Metric: max(int(r.Metric), 1)})
	}
	v4, v6 := Forwards(def)
	for _, s := range bridge.Sysctls(cfg, v4, v6) {
		p.Sysctls = append(p.Sysctls, api.PlannedSysctl(s))
	}
	for _, r := range rules {
		p.Rules = append(p.Rules, api.PlannedRule{Family: strings.ToLower(r.Family.String()), Table: r.Table, Chain: r.Chain, Args: r.Args, Form: forms[r.Form]})
	}
	planServices(&p, def)
	return p
}

// forms are how rules are written, as a plan has it.
var forms = map[firewall.Form]string{firewall.FormIPTables: api.FormIPTables, firewall.FormElement: api.FormElement, firewall.FormRule: api.FormRule}

// plannedLinks are what ports of def are on: its bridge, or its pool.
func plannedLinks(def *netdef.Network) []api.PlannedLink {
	plug := def.PortPlug()
	if plug == netdef.PlugNetwork || plug == netdef.PlugBridge {
		return append([]api.PlannedLink{plannedBridge(def)}, plannedTunnel(def)...)
	}
	all, f := []api.PlannedLink{}, def.Forward
	add := func(kind, name string) { all = append(all, api.PlannedLink{Name: name, Kind: kind}) }
	if f.PF != "" {
		add(api.LinkFunctions, f.PF)
	}
	for _, dev := range f.Interfaces {
		add(api.LinkInterface, dev)
	}
	for _, a := range f.Addresses {
		add(api.LinkPCI, a.String())
	}
	if h := def.HostAccess; h != nil {
		all = append(all, api.PlannedLink{Name: h.Dev, Kind: api.LinkMacvlan, Made: true, MAC: h.MAC.String()})
	}
	return all
}

// plannedBridge is the bridge of def.
func plannedBridge(def *netdef.Network) api.PlannedLink {
	return api.PlannedLink{
		Kind: api.LinkBridge, Name: def.Bridge.Name, Made: def.OwnsBridge() || def.Uplink != "", MAC: def.MAC.String(), MTU: DeviceMTU(def),
		STP: def.Bridge.STP, ForwardDelay: int(def.Bridge.Delay), Uplink: def.Uplink, Zone: def.Bridge.Zone,
		Bandwidth: def.Bandwidth.Limits(),
	}
}

// plannedTunnel is the tunnel of def to other hosts, if it has one, with the link by which this host itself is in it.
func plannedTunnel(def *netdef.Network) []api.PlannedLink {
	if def.Span == nil {
		return nil
	}
	links := []api.PlannedLink{{Kind: api.LinkTunnel, Name: def.Span.Device(), Made: true, MTU: TunnelMTU(def), Span: Span(def)}}
	if HasHostLink(def) {
		links = append(links, api.PlannedLink{Kind: api.LinkHost, Name: def.Span.HostDevice(), Made: true, MTU: DeviceMTU(def)})
	}
	return links
}

// planServices adds what def serves.
func planServices(p *api.Plan, def *netdef.Network) {
	for _, s := range []struct {
		name string
		ip   *netdef.IP
		pool bool
	}{
		{service.DHCP, DHCPIP(def), true},
		{service.DHCP6, DHCP6IP(def), true},
		{service.TFTP, TFTPIP(def), false},
	} {
		if s.ip == nil {
			continue
		}
		p.Services = append(p.Services, api.PlannedService{Name: s.name, Addrs: []netip.Addr{s.ip.Address}})
		if s.pool {
			p.Pools = append(p.Pools, newPool(s.ip, nil))
		}
	}
	if HasIPv6(def) {
		p.Services = append(p.Services, api.PlannedService{Name: service.RA, Addrs: []netip.Addr{}})
	}
	if ServesDNS(def) {
		p.Services = append(p.Services, api.PlannedService{Name: service.DNS, Addrs: Gateways(def)})
	}
}

// Pools are the pools of a network on which those addresses are leased, IPv4 first.
func Pools(is *netdef.Network, leased []netip.Addr) []api.Pool {
	pools := []api.Pool{}
	for _, ip := range []*netdef.IP{DHCPIP(is), DHCP6IP(is)} {
		if ip != nil {
			pools = append(pools, newPool(ip, leased))
		}
	}
	return pools
}

// newPool counts the addresses of ip, for which DHCP is served: those for guests, each
// once where ranges overlap and without the gateway, at most 2^64-1.
func newPool(ip *netdef.IP, leased []netip.Addr) api.Pool {
	p := api.Pool{Family: "ipv4", Ranges: []api.Range{}, Reservations: len(ip.DHCP.Hosts)}
	if ip.Address.Is6() {
		p.Family = "ipv6"
	}
	var ranges []dhcpd.Range
	for _, r := range ip.DHCP.Ranges {
		p.Ranges = append(p.Ranges, api.Range{Start: r.Start, End: r.End})
		ranges = append(ranges, dhcpd.Range{Start: r.Start, End: r.End})
	}
	for r := range dhcpd.Disjoint(ranges) {
		size := r.Size()
		if r.Contains(ip.Address) {
			size--
		}
		p.Size += min(size, math.MaxUint64-p.Size)
	}
	for _, a := range leased {
		if slices.ContainsFunc(ranges, func(r dhcpd.Range) bool { return r.Contains(a) }) {
			p.Used++
		}
	}
	return p
}
