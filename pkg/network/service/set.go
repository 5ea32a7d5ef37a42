package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
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
)

// How long a service that failed waits before it is opened again: doubled from
// the first to the last.
const (
	reopenFirst = 100 * time.Millisecond
	reopenLast  = 10 * time.Second
)

// Owner is the network that a set serves.
type Owner interface {
	// Fault records that a service fails, or, with a nil err, that it works.
	Fault(service string, err error)
	// LeaseChanged follows one change of a lease, which DNS knows already. It
	// returns quickly: clients' replies wait for it.
	LeaseChanged(e dhcpd.Event)
	// MostAddresses is how many addresses those behind the port with an ifindex may have by
	// DHCP, 0 for any number; negative: as many as the network says. It returns quickly.
	MostAddresses(ifindex int) int
	Guests
}

// Config is what a set works with. All is needed but what is said to be optional.
type Config struct {
	Owner   Owner
	Log     *slog.Logger // with the network's name
	Sockets Sockets      // optional
	// Left is what the set has left whose place this one takes; nil: there was none. The
	// caller closes it once the set is open.
	Left     *Left
	Resolver *resolved.Client
	// Ifindex finds a bridge.
	Ifindex func(bridge string) (int, error)
	// OtherDNSPort is where names are served when another program has port 53.
	OtherDNSPort uint16
	// Departed are guests that ended while no vnetd was running: they are to be
	// forgotten.
	Departed []Guest
}

// Set is the services of one active network. The methods of a nil *Set find
// nothing to do.
type Set struct {
	cfg      Config
	log      *slog.Logger
	ctx      context.Context
	cancel   context.CancelFunc
	done     sync.WaitGroup
	leaseLog *leaseLog
	held     held

	mu   sync.Mutex // guards what follows, and orders what DNS is told
	spec *Spec
	// elsewhere are the names of guests on other hosts that DNS has been told.
	elsewhere map[netip.Addr]string

	dhcp     unit[v4.Config, *v4.Server]
	dhcp6    unit[v6.Config, *v6.Server]
	ra       unit[ra.Config, *ra.Server]
	dns      unit[dnsd.Config, *dnsd.Server]
	tftp     unit[tftp.Config, *tftp.Server]
	resolved unit[resolved.Config, *registration]
}

// New makes the services of spec with nothing open yet: Open opens what can be
// opened, Run the rest. They end with ctx at the latest.
func New(ctx context.Context, cfg Config, spec *Spec) *Set {
	s := &Set{cfg: cfg, log: cfg.Log, spec: spec, leaseLog: newLeaseLog(cfg.Log)}
	s.ctx, s.cancel = context.WithCancel(ctx)
	s.dhcp = unit[v4.Config, *v4.Server]{
		label: DHCP, config: func(p *Spec) *v4.Config { return p.DHCP },
		open: func(c v4.Config, left []*os.File) (*v4.Server, error) {
			c.Left, c.OnLease, c.OnStore, c.OfPort = left, s.onLease, unstored(cfg.Owner, DHCP), cfg.Owner.MostAddresses
			return v4.Open(c)
		},
		change: func(srv *v4.Server, _, want v4.Config) error { return srv.Reconfigure(want) },
	}
	s.dhcp6 = unit[v6.Config, *v6.Server]{
		label: DHCP6, config: func(p *Spec) *v6.Config { return p.DHCP6 },
		open: func(c v6.Config, left []*os.File) (*v6.Server, error) {
			c.Left, c.OnLease, c.OnStore, c.OfPort = left, s.onLease, unstored(cfg.Owner, DHCP6), cfg.Owner.MostAddresses
			return v6.Open(c)
		},
		change: func(srv *v6.Server, _, want v6.Config) error { return srv.Reconfigure(want) },
	}
	s.ra = unit[ra.Config, *ra.Server]{
		label: RA, config: func(p *Spec) *ra.Config { return p.RA },
		open: func(c ra.Config, left []*os.File) (*ra.Server, error) {
			c.Left = left
			return ra.Open(c)
		},
		change: func(srv *ra.Server, _, want ra.Config) error { return srv.Reconfigure(want) },
	}
	s.dns = unit[dnsd.Config, *dnsd.Server]{
		label: DNS, spared: true, config: func(p *Spec) *dnsd.Config { return p.DNS }, open: s.openDNS,
		change: func(srv *dnsd.Server, _, want dnsd.Config) error { return srv.Reconfigure(want) },
	}
	s.tftp = unit[tftp.Config, *tftp.Server]{
		label: TFTP, spared: true, config: func(p *Spec) *tftp.Config { return p.TFTP },
		open: func(c tftp.Config, left []*os.File) (*tftp.Server, error) {
			c.Left = left
			return tftp.Open(c)
		},
		change: func(srv *tftp.Server, _, want tftp.Config) error { return srv.Reconfigure(want) },
	}
	s.resolved = unit[resolved.Config, *registration]{
		label: Resolved, spared: true, config: func(p *Spec) *resolved.Config { return p.Resolved }, open: s.openRegistration,
		change: func(_ *registration, is, want resolved.Config) error {
			if is.Domain != want.Domain || !slices.Equal(is.Addrs, want.Addrs) {
				return errChanged
			}
			return nil
		},
	}
	return s
}

// parts lists the services. Those that give addresses come first: DNS is told
// their leases.
func (s *Set) parts() []part {
	return []part{&s.dhcp, &s.dhcp6, &s.ra, &s.dns, &s.tftp, &s.resolved}
}

// wanted lists the services that spec has.
func (s *Set) wanted(spec *Spec) []part {
	return slices.DeleteFunc(s.parts(), func(p part) bool { return !p.wanted(spec) })
}

// openDNS opens DNS and has the rules lead to where it serves.
func (s *Set) openDNS(cfg dnsd.Config, left []*os.File) (*dnsd.Server, error) {
	cfg.Left = left
	srv, err := dnsd.Open(cfg)
	if err != nil {
		return nil, err
	}
	if err := s.serving().Redirect(s.ctx, srv.Port() == s.cfg.OtherDNSPort); err != nil {
		return nil, errors.Join(err, srv.Close())
	}
	return srv, nil
}

// registration tells the host's resolver of the network's names for as long as it
// runs.
type registration struct {
	client *resolved.Client
	cfg    resolved.Config
}

func (r *registration) Run(ctx context.Context) error { return r.client.Register(ctx, r.cfg) }
func (r *registration) Close() error                  { return nil }

// openRegistration makes the registration of the bridge as it is now.
func (s *Set) openRegistration(cfg resolved.Config, _ []*os.File) (*registration, error) {
	var err error
	if cfg.Ifindex, err = s.cfg.Ifindex(s.serving().Bridge); err != nil {
		return nil, err
	}
	dns := s.Servers().DNS
	if dns == nil {
		return nil, errors.New("dns is not served yet")
	}
	cfg.Port = dns.Port()
	return &registration{s.cfg.Resolver, cfg}, nil
}

// Open binds the sockets of all that is served, so that a failure reaches the
// caller, unless the network can do without: Run tries that again. Run must
// follow, unless there is an error.
func (s *Set) Open() error {
	for _, p := range s.wanted(s.serving()) {
		if _, err := s.begin(p); err != nil && !p.optional() {
			return errors.Join(err, s.Close())
		}
	}
	return nil
}

// begin opens a service, on the sockets that a former set or vnetd has left where there
// are some, and lets DNS know all leases, whichever of the two is new.
func (s *Set) begin(p part) (runner, error) {
	spec := s.serving()
	left := s.inherited(spec.Bridge, p.name())
	defer closeFiles(left)
	srv, keep, err := p.start(spec, left)
	if err != nil {
		s.forget(spec.Bridge, p.name())
		return nil, fmt.Errorf("opening %s on %q: %w", p.name(), spec.Bridge, err)
	}
	s.keep(spec.Bridge, p.name(), srv)
	s.mu.Lock()
	defer s.mu.Unlock()
	keep()
	s.register(p.name())
	return srv, nil
}

// serving is what is served.
func (s *Set) serving() *Spec {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.spec
}

// Reconfigure serves next from now on, with the sockets that are open. It
// returns false where next needs others: then a new set must take the place of this
// one.
func (s *Set) Reconfigure(next *Spec) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.parts() {
		if p.wanted(next) != (p.current() != nil) {
			return false
		}
	}
	for _, p := range s.wanted(next) {
		if p.reconfigure(next) != nil {
			return false
		}
	}
	s.spec = next
	return true
}

// Run sets everything going until End, or until the context of New ends. Wait
// follows.
func (s *Set) Run() {
	for _, p := range s.wanted(s.serving()) {
		s.done.Go(func() { s.supervise(p) })
	}
}

// Wait waits until all services have ended.
func (s *Set) Wait() { s.done.Wait() }

// supervise runs one service and opens it again, with back-off, whenever it fails.
func (s *Set) supervise(p part) {
	log := s.log.With("service", p.name())
	wait := reopenFirst
	s.mu.Lock()
	srv := p.current()
	s.mu.Unlock()
	for ; ; srv = nil {
		err := error(nil)
		if srv == nil {
			srv, err = s.begin(p)
		}
		if err == nil {
			s.cfg.Owner.Fault(p.name(), nil)
			began := time.Now()
			err = errors.Join(srv.Run(s.ctx), srv.Close())
			s.held.end(p.name())
			if time.Since(began) > reopenLast {
				wait = reopenFirst
			}
		}
		if s.ctx.Err() != nil {
			return
		}
		log.Error("service failed: opening it again", "wait", wait, "error", err)
		s.cfg.Owner.Fault(p.name(), err)
		select {
		case <-s.ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, reopenLast)
	}
}

// Stop ends the services and waits until they have.
func (s *Set) Stop() { s.End()() }

// End has the services end and returns what waits until they have. What they
// miss from then on is no failure of theirs.
func (s *Set) End() (wait func()) {
	if s == nil {
		return func() {}
	}
	s.cancel()
	return s.done.Wait
}

// Retire tells guests that the network is about to end.
func (s *Set) Retire() {
	advertiser := s.Servers().RA
	if advertiser == nil {
		return
	}
	if err := advertiser.Retire(); err != nil {
		s.log.Debug("telling guests that their router goes", "error", err)
	}
}

// Close gives up services that never ran.
func (s *Set) Close() error {
	s.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, p := range s.parts() {
		if srv := p.current(); srv != nil {
			errs = append(errs, srv.Close())
			s.held.end(p.name())
		}
	}
	return errors.Join(errs...)
}

// Servers are the servers of a set that are open; nil for those that are not.
type Servers struct {
	DHCP  *v4.Server
	DHCP6 *v6.Server
	RA    *ra.Server
	DNS   *dnsd.Server
	TFTP  *tftp.Server
}

// Servers are those that are open now.
func (s *Set) Servers() Servers {
	if s == nil {
		return Servers{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return Servers{s.dhcp.srv, s.dhcp6.srv, s.ra.srv, s.dns.srv, s.tftp.srv}
}
