package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dnsd"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// How long a service that failed waits before it is opened again: doubled from
// the first to the last.
const (
	reopenFirst = 100 * time.Millisecond
	reopenLast  = 10 * time.Second
)

// services are what one active network serves: DHCP and DNS, each opened,
// supervised and re-opened on its own, so that neither takes the other down.
// The methods of a nil *services find nothing to do.
type services struct {
	n *Network

	ctx    context.Context
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu   sync.Mutex // guards what follows, and orders what DNS is told
	live *netdef.Network
	dhcp *dhcpd.Server
	dns  *dnsd.Server
}

// server is what is common to dhcpd.Server and dnsd.Server.
type server interface {
	Run(ctx context.Context) error
	Close() error
}

// openServices binds the sockets of all that live serves, so that a failure
// reaches the caller. run must follow, or close.
func (n *Network) openServices(live *netdef.Network) (*services, error) {
	s := n.pendingServices(live)
	for _, p := range s.parts() {
		if _, err := p.open(); err != nil {
			return nil, errors.Join(err, s.close())
		}
	}
	return s, nil
}

// pendingServices are services with nothing open yet: run opens them, and tries
// again what fails.
func (n *Network) pendingServices(live *netdef.Network) *services {
	ctx, cancel := context.WithCancel(n.m.services)
	return &services{n: n, live: live, ctx: ctx, cancel: cancel}
}

// part is one service: its name among the network's faults, the server that is
// open already, nil for none, and how to open another.
type part struct {
	name  string
	first server
	open  func() (server, error)
}

// parts lists what the network serves. DHCP comes first: DNS is told its leases.
func (s *services) parts() []part {
	s.mu.Lock()
	defer s.mu.Unlock()
	var parts []part
	if dhcpIP(s.live) != nil {
		p := part{name: partDHCP, open: s.openDHCP}
		if s.dhcp != nil {
			p.first = s.dhcp
		}
		parts = append(parts, p)
	}
	if servesDNS(s.live) {
		p := part{name: partDNS, open: s.openDNS}
		if s.dns != nil {
			p.first = s.dns
		}
		parts = append(parts, p)
	}
	return parts
}

// dhcpSettings is what live asks of DHCP, complete.
func (s *services) dhcpSettings(live *netdef.Network) dhcpd.Config {
	cfg := dhcpConfig(live, dhcpIP(live))
	cfg.Store = s.n.m.cfg.Store.Leases(live.UUID)
	cfg.OnLease = s.onLease
	cfg.Logger = s.n.m.log
	return cfg
}

// dnsSettings is what live asks of DNS, complete.
func (s *services) dnsSettings(live *netdef.Network) dnsd.Config {
	cfg := dnsConfig(live)
	cfg.ResolvConf = s.n.m.cfg.ResolvConf
	cfg.Logger = s.n.m.log
	return cfg
}

func (s *services) openDHCP() (server, error) {
	cfg := s.dhcpSettings(s.network())
	srv, err := dhcpd.Open(cfg)
	if err != nil {
		return nil, fmt.Errorf("opening dhcp on %q: %w", cfg.Interface, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dhcp = srv
	s.tellLeases()
	return srv, nil
}

func (s *services) openDNS() (server, error) {
	cfg := s.dnsSettings(s.network())
	srv, err := dnsd.Open(cfg)
	if err != nil {
		return nil, fmt.Errorf("opening dns on %q: %w", cfg.Interface, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dns = srv
	s.tellLeases()
	return srv, nil
}

// network is what is served.
func (s *services) network() *netdef.Network {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live
}

// reconfigure serves next from now on, with the sockets that are open. It
// changes nothing and returns false where next needs others, or where a service
// is down: then the services must be opened anew.
func (s *services) reconfigure(next *netdef.Network) bool {
	s.mu.Lock()
	dhcp, dns := s.dhcp, s.dns
	s.mu.Unlock()
	if (dhcp != nil) != (dhcpIP(next) != nil) || (dns != nil) != servesDNS(next) {
		return false
	}
	if dhcp != nil && dhcp.Reconfigure(s.dhcpSettings(next)) != nil {
		return false
	}
	if dns != nil && dns.Reconfigure(s.dnsSettings(next)) != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live = next
	return true
}

// tellLeases gives DNS the names of all leases. The caller holds s.mu.
func (s *services) tellLeases() {
	if s.dhcp == nil || s.dns == nil {
		return
	}
	for _, l := range s.dhcp.Leases() {
		s.dns.SetHost(s.host(l))
	}
}

// host is what DNS is told of a lease: the name of the port that the guest is
// on, or, where that has none, the name that the guest goes by.
func (s *services) host(l dhcpd.Lease) dnsd.Host {
	return dnsd.Host{Name: cmp.Or(s.n.m.nameOf(s.n, l.MAC), l.Hostname), Addr: l.Addr}
}

// onLease follows one change of a lease: in DNS at once, for subscribers after
// that.
func (s *services) onLease(e dhcpd.Event) {
	held := e.Kind == dhcpd.Bound || e.Kind == dhcpd.Renewed
	s.mu.Lock()
	switch {
	case s.dns == nil:
	case held:
		s.dns.SetHost(s.host(e.Lease))
	default:
		s.dns.DeleteAddr(e.Lease.Addr)
	}
	live := s.live
	s.mu.Unlock()
	lease := Lease{Interface: live.Bridge.Name, Lease: e.Lease}
	if ip := dhcpIP(live); ip != nil {
		lease.PrefixLen = ip.Prefix().Bits()
	}
	s.n.m.events.publish(Event{
		Kind: LeaseChanged, Network: s.n.Info(), Lease: &lease, Change: e.Kind.String(),
	})
}

// leases lists the leases held; served tells whether DHCP is there to know.
func (s *services) leases() (held []dhcpd.Lease, served bool) {
	if s == nil {
		return nil, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dhcp == nil {
		return nil, false
	}
	return s.dhcp.Leases(), true
}

// run sets everything going until stop, or until the manager is closed.
func (s *services) run() {
	if s == nil {
		return
	}
	for _, p := range s.parts() {
		s.done.Go(func() { s.keep(p) })
	}
	s.n.m.running.Go(s.done.Wait)
}

// keep runs one service and opens it again, with back-off, whenever it fails.
// Meanwhile the network is degraded.
func (s *services) keep(p part) {
	log := s.n.m.log.With(keyNetwork, s.n.name, "service", p.name)
	wait := reopenFirst
	for srv := p.first; ; srv = nil {
		err := error(nil)
		if srv == nil {
			srv, err = p.open()
		}
		if err == nil {
			s.n.recovered(p.name)
			began := time.Now()
			err = errors.Join(srv.Run(s.ctx), srv.Close())
			if time.Since(began) > reopenLast {
				wait = reopenFirst
			}
		}
		if s.ctx.Err() != nil {
			return
		}
		log.Error("service failed: opening it again", "wait", wait, keyError, err)
		s.n.fault(p.name, err)
		select {
		case <-s.ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, reopenLast)
	}
}

// stop ends the services and waits until they have.
func (s *services) stop() {
	if s == nil {
		return
	}
	s.cancel()
	s.done.Wait()
}

// close gives up services that never ran.
func (s *services) close() error {
	s.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	if s.dhcp != nil {
		errs = append(errs, s.dhcp.Close())
	}
	if s.dns != nil {
		errs = append(errs, s.dns.Close())
	}
	return errors.Join(errs...)
}
