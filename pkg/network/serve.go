package network

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/service"
	"github.com/vnetd/vnetd/pkg/network/translate"
	"github.com/vnetd/vnetd/pkg/store"
)

// serviceSpec is what the network serves as live.
func (n turn) serviceSpec(live *netdef.Network) *service.Spec {
	return n.m.serving.Services(live, func(ctx context.Context, redirected bool) error { return n.rules.redirect(ctx, live, redirected) })
}

// openServices binds the sockets of all that live serves, so that a failure
// reaches the caller, unless the network can do without. Run must follow, or
// Close.
func (n turn) openServices(live *netdef.Network) (*service.Set, error) {
	if lines := live.Dnsmasq.Unknown; len(lines) > 0 {
		n.m.log.Warn("lines of <dnsmasq:options> are not understood and have no effect", keyNetwork, n.name, "lines", lines)
	}
	s := n.newServices(live)
	return s, s.Open()
}

// newServices are services with nothing open yet: Run opens them, and tries
// again what fails.
func (n turn) newServices(live *netdef.Network) *service.Set {
	cfg := service.Config{
		Owner: owner{n.Network}, Log: n.m.log.With(keyNetwork, n.name), Sockets: n.m.cfg.Sockets, Resolver: &n.m.resolved,
		OtherDNSPort: translate.OtherDNSPort,
		Ifindex: func(bridge string) (int, error) {
			l, err := n.m.cfg.Links.Lookup(bridge)
			return l.Index, err
		},
	}
	for _, p := range n.departed {
		cfg.Departed = append(cfg.Departed, guestOf(p))
	}
	return service.New(n.m.services, cfg, n.serviceSpec(live))
}

// serve sets the services of the network going, in the place of those that it has.
func (n turn) serve(s *service.Set) {
	n.change(func(a *active) { a.services = s })
	s.Run()
	n.m.running.Go(s.Wait)
}

// guestOf is the guest on a port.
func guestOf(p store.Port) service.Guest {
	return service.Guest{MAC: p.MAC, Card: p.Guest, Name: p.Name, Addrs: p.Addrs}
}

// owner is the network as its services see it.
type owner struct{ n *Network }

func (o owner) Fault(part string, err error) {
	o.n.fault(part, err)
}

func (o owner) LeaseChanged(e dhcpd.Event) {
	n := o.n
	n.m.ports.lease(n, e.Lease.MAC, e.Lease.Addr, e.Kind == dhcpd.Bound || e.Kind == dhcpd.Renewed)
	lease := newLease(n.describes(), e.Lease)
	n.m.events.publish(Event{Kind: LeaseChanged, Network: n.Info(), Lease: &lease, Change: e.Kind.String()})
}

func (o owner) Guests() []service.Guest {
	var all []service.Guest
	for _, p := range o.n.m.ports.reg.On(o.n.name, port.Own) {
		all = append(all, guestOf(p.Record()))
	}
	return all
}

func (o owner) Guest(mac net.HardwareAddr) (service.Guest, bool) {
	p := o.n.m.ports.reg.Guest(o.n.name, mac)
	if p == nil {
		return service.Guest{}, false
	}
	return guestOf(p.Record()), true
}

func (o owner) Leased(mac net.HardwareAddr, a netip.Addr) {
	o.n.m.ports.reg.Lease(o.n.name, mac, a, true)
}

func (o owner) Seen(mac net.HardwareAddr) (former []netip.Addr) { return o.n.m.ports.learn(o.n, mac) }

// leaveLimit is how long services may take, at their end, to answer what they have
// been asked.
const leaveLimit = time.Second

// leave leaves the sockets of all services to the next vnetd.
func (m *Manager) leave() {
	if m.cfg.Sockets == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveLimit)
	defer cancel()
	var all sync.WaitGroup
	for _, n := range m.all() {
		all.Go(func() { n.runningServices().Leave(ctx) })
	}
	all.Wait()
}
