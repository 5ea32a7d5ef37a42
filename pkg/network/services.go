package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/ra"
	"github.com/vnetd/vnetd/pkg/dhcpd/tftp"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
	"github.com/vnetd/vnetd/pkg/dhcpd/v6"
	"github.com/vnetd/vnetd/pkg/dnsd"
	"github.com/vnetd/vnetd/pkg/dnsd/resolved"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/store"
)

// How long a service that failed waits before it is opened again: doubled from
// the first to the last.
const (
	reopenFirst = 100 * time.Millisecond
	reopenLast  = 10 * time.Second
)

// services are what one active network serves: DHCP for either family, router
// advertisements and DNS, each opened, supervised and re-opened on its own, so
// that none takes another down. The methods of a nil *services find nothing to
// do.
type services struct {
	n *Network

	ctx    context.Context
	cancel context.CancelFunc
	done   sync.WaitGroup
	lines  pace // of the log about leases

	departed []store.Port // that ended unseen, and whose guests are to be forgotten

	mu   sync.Mutex // guards what follows, and orders what DNS is told
	live *netdef.Network
	open map[string]server // by the part's name; one that failed stays until it is opened again
}

// server is what all servers have in common.
type server interface {
	Run(ctx context.Context) error
	Close() error
}

// lessor is a server that gives addresses.
type lessor interface{ Leases() []dhcpd.Lease }

// part is one service: its name among the network's faults, whether a network
// can start without it, which networks have it, and how it is opened and told of
// a change. What a former vnetd has left to a service is the hub's to close.
type part struct {
	name        string
	spared      bool
	wanted      func(live *netdef.Network) bool
	open        func(live *netdef.Network, left []*os.File) (server, error)
	reconfigure func(srv server, live *netdef.Network) error
}

// table lists the services. Those that give addresses come first: DNS is told
// their leases.
func (s *services) table() []part {
	return []part{
		{
			partDHCP, false, func(n *netdef.Network) bool { return dhcpIP(n) != nil },
			func(n *netdef.Network, left []*os.File) (server, error) {
				cfg := s.dhcp(n)
				cfg.Left = left
				return v4.Open(cfg)
			},
			func(srv server, n *netdef.Network) error { return srv.(*v4.Server).Reconfigure(s.dhcp(n)) },
		},
		{
			partDHCP6, false, func(n *netdef.Network) bool { return dhcp6IP(n) != nil },
			func(n *netdef.Network, left []*os.File) (server, error) {
				cfg := s.dhcp6(n)
				cfg.Left = left
				return v6.Open(cfg)
			},
			func(srv server, n *netdef.Network) error { return srv.(*v6.Server).Reconfigure(s.dhcp6(n)) },
		},
		{
			partRA, false, hasIPv6,
			func(n *netdef.Network, _ []*os.File) (server, error) { return ra.Open(s.ra(n)) },
			func(srv server, n *netdef.Network) error { return srv.(*ra.Server).Reconfigure(s.ra(n)) },
		},
		{
			partDNS, true, servesDNS,
			s.openDNS,
			func(srv server, n *netdef.Network) error { return srv.(*dnsd.Server).Reconfigure(s.dns(n)) },
		},
		{
			partTFTP, false, func(n *netdef.Network) bool { return tftpIP(n) != nil },
			func(n *netdef.Network, _ []*os.File) (server, error) { return tftp.Open(s.tftp(n)) },
			func(_ server, n *netdef.Network) error { return unchanged(s.tftp(s.network()), s.tftp(n)) },
		},
		{
			partResolved, true, hasDomain,
			func(n *netdef.Network, _ []*os.File) (server, error) { return s.register(n) },
			func(srv server, n *netdef.Network) error {
				return unchanged(srv.(registrar).cfg.Domain+fmt.Sprint(gateways(s.network())), domainOf(n)+fmt.Sprint(gateways(n)))
			},
		},
	}
}

// errChanged says that a service must be opened anew.
var errChanged = errors.New("its settings have changed")

// unchanged is the reconfigure of a service that can only stay as it is.
func unchanged[T comparable](is, want T) error {
	if is != want {
		return errChanged
	}
	return nil
}

// registrar tells the host's resolver of the network's names for as long as it
// runs.
type registrar struct {
	resolved *resolved.Client
	cfg      resolved.Config
}

func (r registrar) Run(ctx context.Context) error { return r.resolved.Register(ctx, r.cfg) }
func (r registrar) Close() error                  { return nil }

// register makes the registrar of the bridge as it is now.
func (s *services) register(live *netdef.Network) (server, error) {
	l, err := s.n.m.cfg.Links.Lookup(live.Bridge.Name)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	dns, ok := s.open[partDNS].(*dnsd.Server)
	s.mu.Unlock()
	if !ok {
		return nil, errors.New("dns is not served yet")
	}
	cfg := registerConfig(live, l.Index)
	cfg.Port, cfg.Logger = dns.Port(), s.n.m.log
	return registrar{&s.n.m.resolved, cfg}, nil
}

// openDNS opens DNS and has the rules lead to where it serves.
func (s *services) openDNS(live *netdef.Network, left []*os.File) (server, error) {
	cfg := s.dns(live)
	cfg.Left = left
	srv, err := dnsd.Open(cfg)
	if err != nil {
		return nil, err
	}
	if err := s.n.redirectDNS(s.ctx, live, srv.Port() == otherDNSPort); err != nil {
		return nil, errors.Join(err, srv.Close())
	}
	return srv, nil
}

// wanted lists the services that live has.
func (s *services) wanted(live *netdef.Network) []part {
	return slices.DeleteFunc(s.table(), func(p part) bool { return !p.wanted(live) })
}

// The settings of each service, complete.

func (s *services) dhcp(live *netdef.Network) v4.Config {
	cfg := dhcpConfig(live, dhcpIP(live))
	cfg.Store, cfg.OnLease, cfg.Logger = s.n.m.cfg.Store.Leases(live.UUID), s.onLease, s.n.m.log
	cfg.OnStore = s.onStore(partDHCP)
	cfg.Identity = cmp.Or(cfg.Identity, s.n.m.cfg.DHCPIdentity)
	cfg.Probe = live.DHCPPolicy.Probe == netdef.Yes || live.DHCPPolicy.Probe == netdef.Unset && s.n.m.cfg.DHCPProbe
	return cfg
}

func (s *services) dhcp6(live *netdef.Network) v6.Config {
	cfg := dhcp6Config(live, dhcp6IP(live))
	cfg.Store, cfg.OnLease, cfg.Logger = s.n.m.cfg.Store.Leases(live.UUID), s.onLease, s.n.m.log
	cfg.OnStore = s.onStore(partDHCP6)
	return cfg
}

func (s *services) ra(live *netdef.Network) ra.Config {
	cfg := raConfig(live)
	cfg.Logger = s.n.m.log
	return cfg
}

func (s *services) dns(live *netdef.Network) dnsd.Config {
	cfg := dnsConfig(live)
	cfg.ResolvConf, cfg.Logger = s.n.m.cfg.ResolvConf, s.n.m.log
	cfg.StopRebind = cfg.StopRebind || s.n.m.cfg.StopRebind
	if redirectable(live) {
		cfg.OtherPort = otherDNSPort
	}
	return cfg
}

func (s *services) tftp(live *netdef.Network) tftp.Config {
	cfg := tftpConfig(live)
	cfg.Logger = s.n.m.log
	return cfg
}

// server is the open server of a part; nil while there is none.
func (n *Network) server(part string) server {
	n.mu.Lock()
	sv := n.services
	n.mu.Unlock()
	if sv == nil {
		return nil
	}
	sv.mu.Lock()
	defer sv.mu.Unlock()
	return sv.open[part]
}

// openServices binds the sockets of all that live serves, so that a failure
// reaches the caller, unless the network can do without: run tries that again.
// run must follow, or close.
func (n *Network) openServices(live *netdef.Network) (*services, error) {
	if lines := notUnderstood(live); len(lines) > 0 {
		n.m.log.Warn("lines of <dnsmasq:options> are not understood and have no effect", keyNetwork, n.name, "lines", lines)
	}
	s := n.pendingServices(live)
	for _, p := range s.wanted(live) {
		if _, err := s.openPart(p); err != nil && !p.spared {
			return nil, errors.Join(err, s.close())
		}
	}
	return s, nil
}

// pendingServices are services with nothing open yet: run opens them, and tries
// again what fails.
func (n *Network) pendingServices(live *netdef.Network) *services {
	ctx, cancel := context.WithCancel(n.m.services)
	return &services{n: n, live: live, departed: n.departed, ctx: ctx, cancel: cancel, open: make(map[string]server)}
}

// openPart opens a service, on the sockets that a former vnetd has left where
// there are some, and lets DNS know all leases, whichever of the two is new.
func (s *services) openPart(p part) (server, error) {
	live := s.network()
	left := s.n.m.inherit(live.Bridge.Name, p.name)
	defer closeFiles(left)
	srv, err := p.open(live, left)
	if err != nil {
		return nil, fmt.Errorf("opening %s on %q: %w", p.name, live.Bridge.Name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[p.name] = srv
	s.expectAll(srv)
	if dns, ok := s.open[partDNS].(*dnsd.Server); ok {
		for _, l := range s.held() {
			dns.SetHost(s.host(l))
		}
		for _, port := range s.n.m.ports.of(s.n) {
			s.announce(dns, port.Port)
		}
	}
	return srv, nil
}

// network is what is served.
func (s *services) network() *netdef.Network {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live
}

// reconfigure serves next from now on, with the sockets that are open. It
// returns false where next needs others: then the services must be opened anew.
func (s *services) reconfigure(next *netdef.Network) bool {
	s.mu.Lock()
	open := maps.Clone(s.open)
	s.mu.Unlock()
	wanted := s.wanted(next)
	if len(wanted) != len(open) {
		return false
	}
	for _, p := range wanted {
		srv, ok := open[p.name]
		if !ok || p.reconfigure(srv, next) != nil {
			return false
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live = next
	return true
}

// held lists the leases of all servers, in order of address. The caller holds
// s.mu.
func (s *services) held() []dhcpd.Lease {
	var held []dhcpd.Lease
	for _, name := range []string{partDHCP, partDHCP6} {
		if srv, ok := s.open[name].(lessor); ok {
			held = append(held, srv.Leases()...)
		}
	}
	return held
}

// host is what DNS is told of a lease: the name of the port that the guest is
// on, or, where that has none, the name that the guest goes by.
func (s *services) host(l dhcpd.Lease) dnsd.Host {
	name := l.Hostname
	if p := s.n.m.ports.guest(s.n, l.MAC); p != nil && p.Name != "" {
		name = p.Name
	}
	return dnsd.Host{Name: name, Addr: l.Addr, Expiry: l.Expiry}
}

// onLease follows one change of a lease: in DNS at once, for subscribers after
// that.
func (s *services) onLease(e dhcpd.Event) {
	has := e.Kind == dhcpd.Bound || e.Kind == dhcpd.Renewed
	if has {
		s.learn(e.Lease.MAC)
	}
	s.mu.Lock()
	if dns, ok := s.open[partDNS].(*dnsd.Server); ok {
		switch {
		case has:
			dns.SetHost(s.host(e.Lease))
		case !s.reserved(e.Lease):
			dns.DeleteAddr(e.Lease.Addr)
		}
	}
	live := s.live
	s.mu.Unlock()
	s.logLease(e)
	s.n.m.onLease(s.n, e.Lease.MAC, e.Lease.Addr, has)
	lease := newLease(live, e.Lease)
	s.n.m.events.publish(Event{
		Kind: LeaseChanged, Network: s.n.Info(), Lease: &lease, Change: e.Kind.String(),
	})
}

// onStore shows the network degraded while the leases of a part can't be stored.
func (s *services) onStore(part string) func(error) {
	return func(err error) {
		if err != nil {
			err = fmt.Errorf("%s gives no leases: %w", part, err)
		}
		s.n.fault(part, err)
	}
}

// leases lists the leases held; served tells whether all that give addresses are
// there to know.
func (s *services) leases() (held []dhcpd.Lease, served bool) {
	if s == nil {
		return nil, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.wanted(s.live) {
		if s.open[p.name] == nil {
			return nil, false
		}
	}
	return s.held(), true
}

// run sets everything going until stop, or until the manager is closed.
func (s *services) run() {
	if s == nil {
		return
	}
	for _, p := range s.wanted(s.network()) {
		s.done.Go(func() { s.keep(p) })
	}
	s.n.m.running.Go(s.done.Wait)
}

// keep runs one service and opens it again, with back-off, whenever it fails.
// Meanwhile the network is degraded.
func (s *services) keep(p part) {
	log := s.n.m.log.With(keyNetwork, s.n.name, "service", p.name)
	wait := reopenFirst
	s.mu.Lock()
	first := s.open[p.name]
	s.mu.Unlock()
	for srv := first; ; srv = nil {
		err := error(nil)
		if srv == nil {
			srv, err = s.openPart(p)
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
func (s *services) stop() { s.end()() }

// end has the services end and returns what waits until they have. What they
// miss from then on is no failure of theirs.
func (s *services) end() (wait func()) {
	if s == nil {
		return func() {}
	}
	s.cancel()
	return s.done.Wait
}

// retire tells guests that the network is about to end.
func (s *services) retire() {
	if s == nil {
		return
	}
	s.mu.Lock()
	ra, ok := s.open[partRA].(*ra.Server)
	s.mu.Unlock()
	if !ok {
		return
	}
	if err := ra.Retire(); err != nil {
		s.n.m.log.Debug("telling guests that their router goes", keyNetwork, s.n.name, keyError, err)
	}
}

// close gives up services that never ran.
func (s *services) close() error {
	s.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, srv := range s.open {
		errs = append(errs, srv.Close())
	}
	return errors.Join(errs...)
}
