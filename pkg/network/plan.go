package network

import (
	"errors"
	"net/netip"
	"strings"

	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// Plan is what a start of a network would make, and what would be in its way.
type Plan struct {
	Name   string `json:"name"`
	Mode   string `json:"mode"`
	Action string `json:"action"` // what the document would do: create, redefine or change (an active network)

	// Conflicts are what is in the way; none: it would start.
	Conflicts []string `json:"conflicts"`

	Links     []PlannedLink    `json:"links"`
	Addresses []PlannedAddress `json:"addresses"`
	Routes    []PlannedRoute   `json:"routes"`
	Sysctls   []PlannedSysctl  `json:"sysctls"`
	Rules     []PlannedRule    `json:"rules"`
	Pools     []Pool           `json:"pools"`
	// Services are the sockets that would be served.
	Services      []PlannedService `json:"services"`
	NotUnderstood []string         `json:"not_understood"`
}

// PlannedLink is a bridge that would be made, or one of the host's that is used.
type PlannedLink struct {
	Name         string `json:"name"`
	Made         bool   `json:"made"` // false: it is the host's, and stays as it is
	MAC          string `json:"mac"`  // empty: chosen when the network is defined
	MTU          int    `json:"mtu"`  // 0: the kernel's default
	STP          bool   `json:"stp"`
	ForwardDelay int    `json:"forward_delay"` // seconds
	Uplink       string `json:"uplink"`        // the host's interface that becomes a port; empty: none
	Zone         string `json:"zone"`          // firewalld's; empty: libvirt's, where there is one
}

// PlannedAddress is an address of a link.
type PlannedAddress struct {
	Link    string       `json:"link"`
	Address netip.Prefix `json:"address"`
}

// PlannedRoute is a route by a guest.
type PlannedRoute struct {
	Destination netip.Prefix `json:"destination"`
	Gateway     netip.Addr   `json:"gateway"`
	Link        string       `json:"link"`
	Metric      int          `json:"metric"`
}

// PlannedSysctl is a setting, its key as in sysctl.d(5).
type PlannedSysctl struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// PlannedRule is a rule as iptables-save prints it.
type PlannedRule struct {
	Family string `json:"family"` // ipv4 or ipv6
	Table  string `json:"table"`
	Chain  string `json:"chain"`
	Args   string `json:"args"`
}

// PlannedService is something that would be served.
type PlannedService struct {
	Name  string       `json:"name"` // dhcp, dhcpv6, router advertisements, dns, tftp
	Addrs []netip.Addr `json:"addrs"`
}

// Plan tells what a network of that document would be, and touches nothing. What
// is in its way is in the plan, not an error; faults of the document are.
func (m *Manager) Plan(xml []byte) (Plan, error) {
	parsed, err := netdef.Parse(xml)
	if err != nil {
		return Plan{}, err
	}
	m.defining.Lock()
	defer m.defining.Unlock()
	known := m.find(parsed.Name)
	def, err := m.completed(parsed, known)
	if err != nil {
		return Plan{}, err
	}
	p := planOf(def, m.cfg.Rules.Rules(firewallNetwork(def)))
	if known == nil || known.lacksMAC() {
		// The next one that is made up is another one.
		p.unsettle(parsed)
	}
	n := newNetwork(m, def)
	in := []error{unsupported(def), netdef.Conflicts(def, m.definitions(known))}
	switch live := known.activeNetwork(); {
	case live != nil:
		p.Action = "change"
		in = append(in, changeable(live, def), n.newSubnets(live, def))
	case known != nil:
		p.Action = "redefine"
		in = append(in, n.hostConflicts(def))
	default:
		in = append(in, n.hostConflicts(def))
	}
	for line := range strings.Lines(errorText(errors.Join(in...))) {
		p.Conflicts = append(p.Conflicts, strings.TrimSuffix(line, "\n"))
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

// lacksMAC tells whether nothing is known of the network's MAC address.
func (n *Network) lacksMAC() bool { return n.Info().MAC == "" }

// unsettle forgets what was made up for this plan alone.
func (p *Plan) unsettle(parsed *netdef.Network) {
	if parsed.MAC == nil {
		for i := range p.Links {
			p.Links[i].MAC = ""
		}
	}
}

// planOf is the plan of a complete document with those rules. It is pure.
func planOf(def *netdef.Network, rules []firewall.Rule) Plan {
	p := Plan{
		Name: def.Name, Mode: string(def.Mode()), Action: "create", Conflicts: []string{},
		Links:     []PlannedLink{plannedLink(def)},
		Addresses: []PlannedAddress{}, Routes: []PlannedRoute{}, Sysctls: []PlannedSysctl{}, Rules: []PlannedRule{},
		Pools: []Pool{}, Services: []PlannedService{}, NotUnderstood: append([]string{}, notUnderstood(def)...),
	}
	if !def.Mode().OwnsBridge() {
		return p
	}
	cfg := bridgeConfig(def)
	for _, a := range cfg.Addrs {
		p.Addresses = append(p.Addresses, PlannedAddress{cfg.Name, a})
	}
	for _, r := range cfg.Routes {
		p.Routes = append(p.Routes, PlannedRoute{r.Prefix.Masked(), r.Gateway, cfg.Name, max(int(r.Metric), 1)})
	}
	v4, v6 := forwards(def)
	for _, s := range bridge.Sysctls(cfg, v4, v6) {
		p.Sysctls = append(p.Sysctls, PlannedSysctl(s))
	}
	for _, r := range rules {
		p.Rules = append(p.Rules, PlannedRule{strings.ToLower(r.Family.String()), r.Table, r.Chain, r.Args})
	}
	p.serve(def)
	return p
}

// plannedLink is the bridge of def.
func plannedLink(def *netdef.Network) PlannedLink {
	return PlannedLink{
		Name: def.Bridge.Name, Made: def.OwnsBridge() || def.Uplink != "", MAC: def.MAC.String(), MTU: def.MTU,
		STP: def.Bridge.STP, ForwardDelay: int(def.Bridge.Delay), Uplink: def.Uplink, Zone: def.Bridge.Zone,
	}
}

// serve adds what def serves.
func (p *Plan) serve(def *netdef.Network) {
	for _, s := range []struct {
		name string
		ip   *netdef.IP
		pool bool
	}{
		{partDHCP, dhcpIP(def), true},
		{partDHCP6, dhcp6IP(def), true},
		{partTFTP, tftpIP(def), false},
	} {
		if s.ip == nil {
			continue
		}
		p.Services = append(p.Services, PlannedService{s.name, []netip.Addr{s.ip.Address}})
		if s.pool {
			p.Pools = append(p.Pools, newPool(s.ip, nil))
		}
	}
	if hasIPv6(def) {
		p.Services = append(p.Services, PlannedService{partRA, []netip.Addr{}})
	}
	if servesDNS(def) {
		p.Services = append(p.Services, PlannedService{partDNS, gateways(def)})
	}
}
