package network

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge/neighbour"
	"github.com/vnetd/vnetd/pkg/bridge/path"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/attach"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/live"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/translate"
	"github.com/vnetd/vnetd/pkg/store"
)

// What networks and ports are, and what they work with, under the hub's own name.
type (
	Network      = live.Network
	Stats        = live.Stats
	PortName     = live.PortName
	Target       = live.Target
	Ports        = attach.Ports
	PortOptions  = port.Spec
	PortSettings = port.Settings
	Limits       = port.Limits
	Config       = env.Config
	Links        = env.Links
	Rules        = env.Rules
	Event        = env.Event
	EventKind    = env.EventKind
	Lease        = env.Lease
)

// The targets of updates.
const (
	TargetCurrent = live.TargetCurrent
	TargetLive    = live.TargetLive
	TargetConfig  = live.TargetConfig
)

// What happens to networks, ports and leases.
const (
	NetworkDefined    = env.NetworkDefined
	NetworkChanged    = env.NetworkChanged
	NetworkUndefined  = env.NetworkUndefined
	PortAdded         = env.PortAdded
	PortChanged       = env.PortChanged
	PortRemoved       = env.PortRemoved
	LeaseChanged      = env.LeaseChanged
	ConditionsChanged = env.ConditionsChanged
)

// OwnBandwidth is the bandwidth with those limits, as port.OwnBandwidth makes it.
func OwnBandwidth(limits map[string]uint64) (*netdef.Bandwidth, error) {
	return port.OwnBandwidth(limits)
}

// ErrFloor is in the error of a port with a guarantee that nothing on its network can
// keep.
var ErrFloor = translate.ErrFloor

// Manager knows every network and port. Its methods may be called concurrently.
type Manager struct {
	catalog *catalog
	env     *env.Environment
	stock   *stock
	audit   *audit
	ways    path.Asker

	neighbours neighbour.Table
	asked      chan struct{} // capacity 1: questions of Reach, each with all rules of the host, stand in line
}

// New makes a manager that knows no network yet: Load follows. Close ends it.
func New(cfg Config) *Manager {
	e := env.New(cfg)
	c := newCatalog(e)
	return &Manager{catalog: c, env: e, stock: &stock{catalog: c}, audit: &audit{catalog: c}, asked: make(chan struct{}, 1)}
}

// Close stops serving and leaves every active network up, for the next vnetd to
// adopt, and its services' sockets to Config.Sockets. The store is still open
// afterwards.
func (m *Manager) Close() {
	m.leave()
	m.env.Tasks.Close()
	m.ways.Close()
	m.neighbours.Close()
}

// leaveLimit is how long services may take, at their end, to answer what they have
// been asked.
const leaveLimit = time.Second

// leave leaves the sockets of all services to the next vnetd.
func (m *Manager) leave() {
	if m.env.Sockets == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveLimit)
	defer cancel()
	var all sync.WaitGroup
	for _, n := range m.catalog.all() {
		all.Go(func() { n.Services().LeaveToNext(ctx) })
	}
	all.Wait()
}

// Subscribe calls f with every event from now on, in order and from one
// goroutine, until cancel is called. f must not call cancel.
func (m *Manager) Subscribe(f func(Event)) (cancel func()) { return m.env.Events.Subscribe(f) }

// Load reads the definitions, adopts what a former vnetd left active, clears
// away what it left half made, and starts the networks marked for autostart that
// nobody has stopped since the host booted.
// Failures of single networks are logged and shown as their state; an error
// means that the store could not be read.
func (m *Manager) Load(ctx context.Context) error {
	if err := m.env.UplinkKeeper.Load(); err != nil {
		m.env.Logger.Error("some of what is owed to uplinks is not known", env.KeyError, err)
	}
	faults := m.stock.take(ctx)
	if faults != nil {
		m.env.Logger.Error("some definitions or run-state can't be used", env.KeyError, faults)
	}
	stopped, err := m.env.Store.Stops().All()
	if err != nil {
		m.env.Logger.Error("some networks may start although they were stopped", env.KeyError, err)
	}
	m.catalog.defining.Lock()
	m.catalog.sweepLeases()
	m.catalog.defining.Unlock()
	m.Forwards().sweep()
	m.catalog.autostart(ctx, stopped)
	m.Ports().Guards().Release()
	if err := m.env.Rules.Settle(); err != nil {
		m.env.Logger.Error("rules of networks of a former vnetd may be left", env.KeyError, err)
	}
	if store.Passing(faults) {
		m.env.Tasks.Repeat(func() bool {
			again := m.stock.take(m.env.Tasks.Context())
			m.catalog.autostart(m.env.Tasks.Context(), stopped)
			return !store.Passing(again)
		})
	}
	return ctx.Err()
}

// Reload reads the definitions again, for those that an admin put there by
// hand, puts back what is missing of every active network, and starts what is
// marked for autostart and inactive.
func (m *Manager) Reload(ctx context.Context) error {
	_, err := m.env.Rules.Repair(ctx)
	errs := []error{m.stock.take(ctx), err, m.audit.keep()}
	for _, n := range m.catalog.all() {
		errs = append(errs, n.Repair(ctx))
	}
	m.catalog.autostart(ctx, nil)
	return errors.Join(errs...)
}

// Lookup finds a network by name, by bridge name or by UUID, in this order. Of several on one
// bridge it is the one that makes the bridge, or else the first one that is active.
func (m *Manager) Lookup(key string) (*Network, error) {
	if n := m.catalog.find(key); n != nil {
		return n, nil
	}
	on := m.catalog.where(func(n *Network) bool { return n.Info().Bridge == key })
	for _, first := range []func(n *Network) bool{
		func(n *Network) bool { return n.Document().OwnsBridge() },
		func(n *Network) bool { return n.Live() != nil },
		func(*Network) bool { return true },
	} {
		if i := slices.IndexFunc(on, first); i >= 0 {
			return on[i], nil
		}
	}
	if n := m.catalog.uuid(key); n != nil {
		return n, nil
	}
	return nil, api.Errorf(api.NotFound, "no network, bridge or UUID %q is known here", key)
}

// ByName finds a network by its name.
func (m *Manager) ByName(name string) (*Network, error) {
	if n := m.catalog.find(name); n != nil {
		return n, nil
	}
	return nil, m.catalog.notFound(name)
}

// ByUUID finds a network by its UUID, in any case.
func (m *Manager) ByUUID(uuid string) (*Network, error) {
	if n := m.catalog.uuid(uuid); n != nil {
		return n, nil
	}
	return nil, api.Errorf(api.NotFound, "no network has the UUID %q", uuid)
}

// Rename has an inactive network that is defined go on under another name; see live.Rename.
// Exists where a network has the name.
func (m *Manager) Rename(ctx context.Context, n *Network, name string) (*Network, error) {
	m.catalog.defining.Lock()
	defer m.catalog.defining.Unlock()
	if other := m.catalog.find(name); other != nil {
		return nil, existsAlready(other)
	}
	return live.Rename(ctx, n, name)
}

// Networks lists every network, in order of name.
func (m *Manager) Networks() []*Network { return slices.Clone(m.catalog.all()) }

// Ports are the ports of all networks.
func (m *Manager) Ports() *Ports { return m.catalog.ports }

// Conditions lists what is amiss, the worst first, as Watch found it within the
// last seconds.
func (m *Manager) Conditions() []api.Condition { return m.catalog.health.Conditions() }

// Watch follows what others do to links and rules until ctx ends: a port whose
// TAP device is gone ends, a bridge that is gone comes back with its ports, what else of
// a network was changed is put back, and so are rules that are gone; what vnetd does not
// mend becomes a condition. It returns nil when ctx ends, otherwise why it can't watch.
func (m *Manager) Watch(ctx context.Context) error {
	w := watcher{m.catalog}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		m.env.Keeper.Run(ctx, w)
		return nil
	})
	g.Go(func() error {
		m.catalog.health.Watch(ctx, conditions{m.catalog, m.stock, &m.ways}.sources())
		return nil
	})
	g.Go(func() error {
		m.audit.run(ctx)
		return nil
	})
	g.Go(func() error {
		m.Forwards().listen(ctx)
		return nil
	})
	g.Go(func() error { return m.env.UplinkKeeper.Watch(ctx, w.onUplink) })
	g.Go(func() error { return m.env.Links.Watch(ctx, w.onLink) })
	g.Go(func() error { return m.env.Links.Changes(ctx, w.onChange) })
	g.Go(func() error { return m.Ports().Devices().WatchClosings(ctx) })
	g.Go(func() error { return m.env.Rules.Watch(ctx) })
	g.Go(func() error { return m.Ports().Guards().Watch(ctx) })
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// Cleanup takes down every active network, every port and the chains, as if no
// vnetd had ever run, also those that are known by their marks alone; definitions and
// leases stay. The manager must be new: neither Load nor anything else was called on it.
func (m *Manager) Cleanup(ctx context.Context) error { return m.stock.clear(ctx) }
