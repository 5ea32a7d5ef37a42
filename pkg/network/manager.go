package network

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"

	"github.com/vnetd/vnetd/internal/histogram"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dnsd/resolved"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/health"
	"github.com/vnetd/vnetd/pkg/network/host"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/service"
	"github.com/vnetd/vnetd/pkg/network/translate"
	"github.com/vnetd/vnetd/pkg/store"
)

// Keys of log attributes.
const (
	keyNetwork = "network"
	keyBridge  = "bridge"
	keyPort    = "port"
	keyIfName  = "ifname"
	keyMAC     = "mac"
	keyError   = "error"
)

// Links is what the hub asks of pkg/bridge; *bridge.Bridges is the real one,
// whose contracts hold.
type Links interface {
	Ensure(ctx context.Context, cfg bridge.Config) (ifindex int, err error)
	Remove(name string, ifindex int) error
	Lookup(name string) (bridge.Link, error)
	LookupIndex(index int) (bridge.Link, error)
	Attach(ctx context.Context, bridge, port int, cfg bridge.PortConfig) error
	Detach(port int) error
	SetAlias(index int, text string) error
	Aliased(prefix string) ([]bridge.Link, error)
	DeleteLink(index int) error
	AddFDB(port int, mac net.HardwareAddr) error
	FDBPort(bridge int, mac net.HardwareAddr) (port int, err error)
	Forward(v4, v6 bool) (bridge.Forwarding, error)
	RestoreAcceptRA(raised []bridge.AcceptRA) error
	AddressOwner(p netip.Prefix, except string) (owner string, err error)
	HostNets() ([]bridge.HostNet, error)
	Members(bridge int) ([]bridge.Link, error)
	Watch(ctx context.Context, f func(bridge.LinkEvent)) error
}

// Rules is what the hub asks of pkg/firewall; *firewall.Firewall is the real
// one, whose contracts hold.
type Rules interface {
	Adopt(n firewall.Network)
	Set(ctx context.Context, n firewall.Network) error
	Repair(ctx context.Context) (firewall.Report, error)
	Watch(ctx context.Context) error
	RemoveLeftovers(ctx context.Context, n firewall.Network) error
	Delete(ctx context.Context, n firewall.Network) error
	Purge(ctx context.Context) error
	Conditions(ctx context.Context) ([]firewall.Condition, error)
	Rules(n firewall.Network) []firewall.Line
	Stats() firewall.Stats
}

// Config is what a Manager works with. Store, Links, Uplinks, Rules and Logger must
// be set.
type Config struct {
	Store   *store.Store
	Links   Links
	Uplinks host.Uplinks
	Rules   Rules
	Logger  *slog.Logger

	ResolvConf    string // the host's resolvers; empty for /etc/resolv.conf
	StopRebind    bool   // upstreams' answers with private addresses are kept from guests, see dnsd.Config
	Hook          string // a program that is told when networks start and stop; empty for none
	StartOnDemand bool   // a port requested on an inactive network starts it

	// How clients of DHCP are dealt with where a network does not say: see
	// v4.Config.
	DHCPIdentity dhcpd.Identity
	DHCPProbe    bool
	Limits       Limits // of one user

	Sockets service.Sockets // nil: none are passed on
}

// Manager knows every network and port. Its methods may be called concurrently.
type Manager struct {
	catalog
	cfg      Config
	log      *slog.Logger
	events   broker
	serving  translate.Settings
	ports    *Ports
	devices  devices
	orphans  orphans
	stock    *stock
	hook     hook
	audit    *audit
	resolved resolved.Client

	health       *health.Board
	portRequests *histogram.Histogram

	// services runs as long as the manager: its end stops the networks'
	// services and leaves the networks themselves up.
	services context.Context
	stop     context.CancelFunc
	running  sync.WaitGroup

	defining sync.Mutex // one definition at a time: conflicts are checked against all others
}

// New makes a manager that knows no network yet: Load follows. Close ends it.
func New(cfg Config) *Manager {
	ctx, stop := context.WithCancel(context.Background())
	m := &Manager{
		cfg: cfg, log: cfg.Logger, services: ctx, stop: stop,
		portRequests: histogram.New(requestBounds()),
	}
	m.catalog = catalog{links: cfg.Links, byName: make(map[string]*Network), claims: make(map[*Network]*netdef.Network)}
	m.serving = translate.Settings{
		Leases: cfg.Store.Leases, Logger: cfg.Logger, Identity: cfg.DHCPIdentity, Probe: cfg.DHCPProbe,
		ResolvConf: cfg.ResolvConf, StopRebind: cfg.StopRebind,
	}
	m.hook = hook(cfg.Hook)
	m.stock, m.audit = &stock{m: m}, &audit{m: m}
	m.ports = &Ports{m, port.NewRegistry()}
	m.devices, m.orphans = devices{m.ports}, orphans{m.ports}
	m.health = health.NewBoard(cfg.Logger, m.conditionsChanged)
	return m
}

// Close stops serving and leaves every active network up, for the next vnetd to
// adopt, and its services' sockets to Config.Sockets. The store is still open
// afterwards.
func (m *Manager) Close() {
	m.leave()
	m.stop()
	m.running.Wait()
}

// Subscribe calls f with every event from now on, in order and from one
// goroutine, until cancel is called. f must not call cancel.
func (m *Manager) Subscribe(f func(Event)) (cancel func()) { return m.events.subscribe(f) }

// startLimit bounds how many networks start at a time.
const startLimit = 16

// Load reads the definitions, adopts what a former vnetd left active, clears
// away what it left half made, and starts the networks marked for autostart that
// nobody has stopped since the host booted.
// Failures of single networks are logged and shown as their state; an error
// means that the store could not be read.
func (m *Manager) Load(ctx context.Context) error {
	faults := m.stock.take(ctx)
	if faults != nil {
		m.log.Error("some definitions or run-state can't be used", keyError, faults)
	}
	stopped, err := m.cfg.Store.Stopped()
	if err != nil {
		m.log.Error("some networks may start although they were stopped", keyError, err)
	}
	m.defining.Lock()
	m.sweepLeases()
	m.defining.Unlock()
	m.autostart(ctx, stopped)
	if store.Passing(faults) {
		m.repeat(func() bool {
			again := m.stock.take(m.services)
			m.autostart(m.services, stopped)
			return !store.Passing(again)
		})
	}
	return ctx.Err()
}

// Reload reads the definitions again, for those that an admin put there by
// hand, puts back what is missing of every active network, and starts what is
// marked for autostart and inactive.
func (m *Manager) Reload(ctx context.Context) error {
	_, err := m.cfg.Rules.Repair(ctx)
	errs := []error{m.stock.take(ctx), err, m.audit.keep()}
	for _, n := range m.all() {
		errs = append(errs, n.repair(ctx))
	}
	m.autostart(ctx, nil)
	return errors.Join(errs...)
}

// Lookup finds a network by name, by bridge name or by UUID, in this order.
func (m *Manager) Lookup(key string) (*Network, error) {
	if n := m.find(key); n != nil {
		return n, nil
	}
	for _, n := range m.all() {
		if info := n.Info(); info.Bridge == key || strings.EqualFold(info.UUID, key) {
			return n, nil
		}
	}
	return nil, api.Errorf(api.NotFound, "no network, bridge or UUID %q is known here", key)
}

// ByName finds a network by its name.
func (m *Manager) ByName(name string) (*Network, error) {
	if n := m.find(name); n != nil {
		return n, nil
	}
	return nil, m.notFound(name)
}

// ByUUID finds a network by its UUID, in any case.
func (m *Manager) ByUUID(uuid string) (*Network, error) {
	if n := m.uuid(uuid); n != nil {
		return n, nil
	}
	return nil, api.Errorf(api.NotFound, "no network has the UUID %q", uuid)
}

// Networks lists every network, in order of name.
func (m *Manager) Networks() []*Network { return m.all() }

// drop forgets a network that is neither defined nor active any more. The
// caller holds n.op, or m.defining where nobody else can have found n yet.
func (m *Manager) drop(n *Network) {
	n.end()
	m.remove(n)
	m.ports.reg.DropForeign(n.name, 0)
	m.events.publish(Event{Kind: NetworkUndefined, Network: n.Info()})
}
