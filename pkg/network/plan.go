package network

import (
	"errors"
	"net/netip"
	"strings"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/service"
)

// Plan tells what a network of that document would be, and touches nothing. What
// is in its way is in the plan, not an error; faults of the document are.
func (m *Manager) Plan(xml []byte) (api.Plan, error) {
	parsed, err := readDocument(xml)
	if err != nil {
		return api.Plan{}, err
	}
	m.defining.Lock()
	defer m.defining.Unlock()
	known, err := m.identify(parsed, false)
	if err != nil {
		return api.Plan{}, err
	}
	def, err := m.completed(parsed, known)
	if err != nil {
		return api.Plan{}, err
	}
	p := planOf(def, m.cfg.Rules.Rules(firewallNetwork(def)))
	if known == nil || known.Info().MAC == "" {
		// The next one that is made up is another one.
		unsettle(&p, parsed)
	}
	n := newNetwork(m, def)
	in := []error{unsupported(def), netdef.Conflicts(def, m.definitions(known)), n.missing(def)}
	switch live := known.activeNetwork(); {
	case live != nil:
		p.Action = "change"
		in = append(in, known.newSubnets(live, def))
		p.Pending = append(p.Pending, described(netdef.Diff(known.nextLive(live, def, api.ApplyHarmless), def))...)
	case known != nil:
		p.Action = "redefine"
		in = append(in, m.subnetsTaken(known, def, nil), n.hostConflicts(def))
	default:
		in = append(in, m.subnetsTaken(known, def, nil), n.hostConflicts(def))
	}
	if err := errors.Join(in...); err != nil {
		p.Conflicts = strings.Split(err.Error(), "\n")
	}
	return p, nil
}

// activeNetwork is liveNetwork of a network that may be nil.
func (n *Network) activeNetwork() *netdef.Network {
	if n == nil {
		return nil
	}
	return n.liveNetwork()
}

// unsettle forgets what was made up for this plan alone.
func unsettle(p *api.Plan, parsed *netdef.Network) {
	if parsed.MAC == nil {
		for i := range p.Links {
			p.Links[i].MAC = ""
		}
	}
}

// planOf is the plan of a complete document with those rules. It is pure.
func planOf(def *netdef.Network, rules []firewall.Line) api.Plan {
	p := api.Plan{
		Name: def.Name, Mode: string(def.Mode()), Action: "create", Conflicts: []string{}, Pending: []string{},
		Links:     []api.PlannedLink{plannedLink(def)},
		Addresses: []api.PlannedAddress{}, Routes: []api.PlannedRoute{}, Sysctls: []api.PlannedSysctl{}, Rules: []api.PlannedRule{},
		Pools: []api.Pool{}, Services: []api.PlannedService{}, NotUnderstood: append([]string{}, notUnderstood(def)...),
	}
	if !def.Mode().OwnsBridge() {
		return p
	}
	cfg := bridgeConfig(def)
	for _, a := range cfg.Addrs {
		p.Addresses = append(p.Addresses, api.PlannedAddress{Link: cfg.Name, Address: a})
	}
	for _, r := range cfg.Routes {
		p.Routes = append(p.Routes, api.PlannedRoute{Destination: r.Prefix.Masked(), Gateway: r.Gateway, Link: cfg.Name, Metric: max(int(r.Metric), 1)})
	}
	v4, v6 := forwards(def)
	for _, s := range bridge.Sysctls(cfg, v4, v6) {
		p.Sysctls = append(p.Sysctls, api.PlannedSysctl(s))
	}
	for _, r := range rules {
		p.Rules = append(p.Rules, api.PlannedRule{Family: strings.ToLower(r.Family.String()), Table: r.Table, Chain: r.Chain, Args: r.Args})
	}
	planServices(&p, def)
	return p
}

// plannedLink is the bridge of def.
func plannedLink(def *netdef.Network) api.PlannedLink {
	return api.PlannedLink{
		Name: def.Bridge.Name, Made: def.OwnsBridge() || def.Uplink != "", MAC: def.MAC.String(), MTU: def.MTU,
		STP: def.Bridge.STP, ForwardDelay: int(def.Bridge.Delay), Uplink: def.Uplink, Zone: def.Bridge.Zone,
	}
}

// planServices adds what def serves.
func planServices(p *api.Plan, def *netdef.Network) {
	for _, s := range []struct {
		name string
		ip   *netdef.IP
		pool bool
	}{
		{service.DHCP, dhcpIP(def), true},
		{service.DHCP6, dhcp6IP(def), true},
		{service.TFTP, tftpIP(def), false},
	} {
		if s.ip == nil {
			continue
		}
		p.Services = append(p.Services, api.PlannedService{Name: s.name, Addrs: []netip.Addr{s.ip.Address}})
		if s.pool {
			p.Pools = append(p.Pools, newPool(s.ip, nil))
		}
	}
	if hasIPv6(def) {
		p.Services = append(p.Services, api.PlannedService{Name: service.RA, Addrs: []netip.Addr{}})
	}
	if servesDNS(def) {
		p.Services = append(p.Services, api.PlannedService{Name: service.DNS, Addrs: gateways(def)})
	}
}
