package live

import (
	"context"
	"net"
	"net/netip"

	"github.com/vnetd/vnetd/pkg/dhcpd"
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
	return n.env.Serving.Services(live, func(ctx context.Context, redirected bool) error { return n.rules.redirect(ctx, live, redirected) })
}

// openServices binds the sockets of all that live serves, so that a failure
// reaches the caller, unless the network can do without. Run must follow, or
// Close.
func (n turn) openServices(live *netdef.Network) (*service.Set, error) {
	if lines := live.Dnsmasq.Unknown; len(lines) > 0 {
		n.env.Logger.Warn("lines of <dnsmasq:options> are not understood and have no effect", env.KeyNetwork, n.name, "lines", lines)
	}
	s := n.newServices(live)
	return s, s.Open()
}

// newServices are services with nothing open yet: Run opens them, and tries
// again what fails.
func (n turn) newServices(live *netdef.Network) *service.Set {
	cfg := service.Config{
		Owner: owner{n.Network}, Log: n.env.Logger.With(env.KeyNetwork, n.name), Sockets: n.env.Sockets, Resolver: &n.env.Resolved,
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
}

func (o owner) LeaseChanged(e dhcpd.Event) {
	n := o.n
	n.ports.Lease(n, e.Lease.MAC, e.Lease.Addr, e.Kind == dhcpd.Bound || e.Kind == dhcpd.Renewed)
	lease := newLease(n.Document(), e.Lease)
	n.env.Events.Publish(env.Event{Kind: env.LeaseChanged, Network: n.Info(), Lease: &lease, Change: e.Kind.String()})
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
