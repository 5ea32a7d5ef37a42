package network

import (
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/dhcpd/ra"
	"github.com/vnetd/vnetd/pkg/dhcpd/tftp"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
	"github.com/vnetd/vnetd/pkg/dhcpd/v6"
	"github.com/vnetd/vnetd/pkg/dnsd"
)

// Measure is what is counted of one network. What it does not serve is nil.
type Measure struct {
	Info      api.Network
	Ports     []PortName
	Repairs   uint64
	Failures  uint64 // of parts: of a service, of links and rules
	DHCP      *v4.Stats
	DHCP6     *v6.Stats
	RA        *ra.Stats
	TFTP      *tftp.Stats
	DNS       *dnsd.Stats
	Upstreams []api.DNSUpstream
	Asked     []dnsd.Asked // of the upstreams
}

// PortName is what tells one port from others; IfName is empty while another program
// has not made the port's device yet.
type PortName struct{ UUID, Name, MAC, IfName string }

// Measures are the counts of all networks, in order of name. Those of a service
// begin anew when it is opened anew.
func (m *Manager) Measures() []Measure {
	var all []Measure
	for _, n := range m.all() {
		all = append(all, n.measure())
	}
	return all
}

// measure is the Measure of the network. It asks the kernel nothing.
func (n *Network) measure() Measure {
	r := Measure{Info: n.Info()}
	for _, p := range n.m.ports.of(n) {
		r.Ports = append(r.Ports, PortName{p.UUID, p.Name, n.m.ports.card(p).String(), p.IfName})
	}
	for _, x := range n.m.external.list(n) {
		r.Ports = append(r.Ports, n.m.external.portName(x))
	}
	n.mu.Lock()
	r.Repairs, r.Failures = n.repairs, n.failures
	n.mu.Unlock()
	sv := n.runningServices()
	r.DHCP = statsOf(sv.DHCP(), (*v4.Server).Stats)
	r.DHCP6 = statsOf(sv.DHCP6(), (*v6.Server).Stats)
	r.RA = statsOf(sv.RA(), (*ra.Server).Stats)
	r.TFTP = statsOf(sv.TFTP(), (*tftp.Server).Stats)
	r.DNS = statsOf(sv.DNS(), (*dnsd.Server).Stats)
	if srv := sv.DNS(); srv != nil {
		r.Upstreams, r.Asked = n.upstreams(), srv.Asked()
	}
	return r
}

// statsOf are the counts of a server, nil where there is none.
func statsOf[S, T any](srv *S, stats func(*S) T) *T {
	if srv == nil {
		return nil
	}
	counts := stats(srv)
	return &counts
}
