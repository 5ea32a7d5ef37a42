package live

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dnsd"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/attach"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/guard"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/service"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// serviceSpec is what the network serves as live.
func (n turn) serviceSpec(live *netdef.Network) *service.Spec {
	spec := n.env.Serving.Services(live, func(ctx context.Context, redirected bool) error { return n.rules.redirect(ctx, live, redirected) })
	if spec.DHCP != nil {
		spec.DHCP.Lender = n.env.Clusters.Lender(live, true)
	}
	if spec.DHCP6 != nil {
		spec.DHCP6.Lender = n.env.Clusters.Lender(live, false)
	}
	if spec.DNS != nil {
		spec.DNS.Gate = gate{n.Network}
		spec.DNS.Peers = func() []dnsd.Peer {
			if named := n.named.Load(); named != nil {
				return *named
			}
			return nil
		}
	}
	return spec
}

// leaveLimit is how long services may take, when others take their place, to answer what
// they have been asked.
const leaveLimit = time.Second

// openServices binds the sockets of all that live serves, so that a failure
// reaches the caller, unless the network can do without. left is what the services
// have left that were there before; nil: none were. Run must follow, or Close.
func (n turn) openServices(live *netdef.Network, left *service.Left) (*service.Set, error) {
	if lines := live.Dnsmasq.Unknown; len(lines) > 0 {
		n.env.Logger.Warn("lines of <dnsmasq:options> are not understood and have no effect", env.KeyNetwork, n.name, "lines", lines)
	}
	s := n.newServices(live, left)
	return s, s.Open()
}

// newServices are services with nothing open yet: Run opens them, and tries
// again what fails.
func (n turn) newServices(live *netdef.Network, left *service.Left) *service.Set {
	cfg := service.Config{
		Owner: owner{n.Network}, Log: n.env.Logger.With(env.KeyNetwork, n.name), Sockets: n.env.Sockets, Left: left, Resolver: &n.env.Resolved,
		OtherDNSPort: translate.OtherDNSPort,
		Ifindex: func(bridge string) (int, error) {
			l, err := n.env.Links.Lookup(bridge)
			return l.Index, err
		},
	}
	for _, p := range n.departed {
		cfg.Departed = append(cfg.Departed, attach.GuestOf(p))
	}
	return service.New(n.env.Tasks.Context(), cfg, n.serviceSpec(live))
}

// serve sets the services of the network going, in the place of those that it has.
func (n turn) serve(s *service.Set) {
	n.change(func(a *active) { a.services = s })
	s.Run()
	n.env.Tasks.Go(s.Wait)
}

// owner is the network as its services see it.
type owner struct{ n *Network }

func (o owner) Fault(part string, err error) {
	o.n.fault(part, err)
	o.n.PortsChanged() // where it works again, leases may be known now
}

func (o owner) LeaseChanged(e dhcpd.Event) {
	n := o.n
	n.ports.Lease(n, e.Lease.MAC, e.Lease.Addr, e.Kind == dhcpd.Bound || e.Kind == dhcpd.Renewed)
	n.PortsChanged()
	n.env.Events.PublishLease(n, newLease(n.Document(), e.Lease), e.Kind.String())
}

func (o owner) MostAddresses(ifindex int) int {
	p, live := o.n.ports.Registry().Index(ifindex), o.n.Live()
	if p == nil || live == nil {
		return -1
	}
	return guard.MostAddresses(live, p)
}

func (o owner) Guests() []service.Guest {
	var all []service.Guest
	for _, p := range o.n.ports.Registry().On(o.n.name, port.Own) {
		all = append(all, attach.GuestOf(p.Record()))
	}
	return all
}

func (o owner) Elsewhere() []dnsd.Host { return o.n.env.Clusters.Elsewhere(o.n.Document()) }

func (o owner) Guest(mac net.HardwareAddr) (service.Guest, bool) {
	p := o.n.ports.Registry().Guest(o.n.name, mac)
	if p == nil {
		return service.Guest{}, false
	}
	return attach.GuestOf(p.Record()), true
}

func (o owner) Leased(mac net.HardwareAddr, a netip.Addr) {
	o.n.ports.Leased(o.n, mac, a)
}

func (o owner) Seen(mac net.HardwareAddr) (former []netip.Addr) { return o.n.ports.Learn(o.n, mac) }

// openLimit is how long clients wait for an answer at most until rules are made of it.
const openLimit = 2 * time.Second

// gate is a network as its name server tells it what names have.
type gate struct{ n *Network }

func (g gate) Watches(name string) bool { return g.n.rules.names.Watches(name) }

func (g gate) Open(name string, addrs []dnsd.Lifetime) {
	news, now := false, time.Now()
	for _, a := range addrs {
		news = g.n.rules.names.Learn(name, a.Addr, a.TTL, now) || news
	}
	letGoLater(g.n)
	ctx, cancel := context.WithTimeout(g.n.env.Tasks.Context(), openLimit)
	defer cancel()
	if err := g.n.rules.open(ctx); err != nil { // also of what another answer has just told
		g.n.env.Logger.Error("guests may not reach what a name has", env.KeyNetwork, g.n.name, "name", name, env.KeyError, err)
	}
	if news {
		Follow(g.n) // which writes it down
	}
}
