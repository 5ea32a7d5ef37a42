package live

import (
	"net/netip"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/dhcpd/ra"
	"github.com/vnetd/vnetd/pkg/dhcpd/tftp"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
	"github.com/vnetd/vnetd/pkg/dhcpd/v6"
	"github.com/vnetd/vnetd/pkg/dnsd"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// Stats is what is counted of one network. What it does not serve is nil.
type Stats struct {
	Info      api.Network
	Ports     []PortName
	Repairs   map[string]uint64 // by what was amiss
	Failures  uint64            // of parts: of a service, of links and rules
	DHCP      *v4.Stats
	DHCP6     *v6.Stats
	RA        *ra.Stats
	TFTP      *tftp.Stats
	DNS       *dnsd.Stats
	Upstreams []api.DNSUpstream
	Asked     []dnsd.Asked // of the upstreams
}

// PortName is what tells one port from others; IfName is empty while another program
// has not made the port's device yet. Macvtap says that the device is the guest's card, and
// not the host's end of a cable to it: what it received is what the guest received.
type PortName struct {
	UUID, Name, MAC, IfName string
	Macvtap                 bool
}

// Stats is what is counted of the network. It asks the kernel nothing.
func (n *Network) Stats() Stats {
	r := Stats{Info: n.Info(), Repairs: make(map[string]uint64)}
	for _, p := range n.ports.Registry().On(n.name, port.Own, port.External) {
		r.Ports = append(r.Ports, PortName{p.UUID, p.Name, p.CardAddr().String(), p.Status().IfName, p.IsMacvtap()})
	}
	for what, count := range n.env.Keeper.Counts(n.name) {
		r.Repairs[string(what)] = count
	}
	n.mu.Lock()
	r.Failures = n.failures
	n.mu.Unlock()
	open := n.Services().Servers()
	r.DHCP = countsOf(open.DHCP, (*v4.Server).Stats)
	r.DHCP6 = countsOf(open.DHCP6, (*v6.Server).Stats)
	r.RA = countsOf(open.RA, (*ra.Server).Stats)
	r.TFTP = countsOf(open.TFTP, (*tftp.Server).Stats)
	r.DNS = countsOf(open.DNS, (*dnsd.Server).Stats)
	if srv := open.DNS; srv != nil {
		r.Upstreams, r.Asked = upstreams(srv), srv.Asked()
	}
	return r
}

// countsOf are the counts of a server, nil where there is none.
func countsOf[S, T any](srv *S, stats func(*S) T) *T {
	if srv == nil {
		return nil
	}
	counts := stats(srv)
	return &counts
}

// Detail tells more of the network, which holds these leases.
func (n *Network) Detail(leases []env.Lease) api.Detail {
	pending := append([]string{}, n.Pending()...)
	n.mu.Lock()
	is := n.documentLocked()
	d := api.Detail{Pending: pending, Pools: []api.Pool{}, NotUnderstood: []string{}, Faults: map[string]string{}}
	if now := n.activated(); now != nil {
		for part, err := range now.faults {
			d.Faults[part] = err.Error()
		}
	}
	n.mu.Unlock()
	for _, count := range n.env.Keeper.Counts(n.name) {
		d.Repairs += count
	}
	var leased []netip.Addr
	for _, l := range leases {
		leased = append(leased, l.Addr)
	}
	d.Span, d.Announced = spanOf(n, is), n.env.Announcements.Of(n.name)
	d.Pools = translate.Pools(is, leased)
	d.NotUnderstood = append(d.NotUnderstood, is.Dnsmasq.Unknown...)
	if translate.ServesDNS(is) {
		d.DNS = &api.DNS{Domain: translate.Domain(is), Upstreams: upstreams(n.Services().Servers().DNS)}
	}
	return d
}

// upstreams lists the servers that a name service, nil for none, asks.
func upstreams(srv *dnsd.Server) []api.DNSUpstream {
	all := []api.DNSUpstream{}
	if srv == nil {
		return all
	}
	for _, u := range srv.Upstreams() {
		all = append(all, api.DNSUpstream{
			Addr: u.Addr, Domain: u.Domain, Failing: u.Failing,
			Case: string(u.Case), EDNS: string(u.EDNS), TCP: string(u.TCP), RTT: u.RTT,
		})
	}
	return all
}
