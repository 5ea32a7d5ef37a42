// Package env is the environment in which networks and their ports live: the leaves
// that they stand on, as the hub asks for them, and what all of them share: events, the
// admin's hook, and tasks that go on when an operation has ended. It knows no network.
package env

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/vnetd/vnetd/internal/histogram"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/bridge/hostlink"
	"github.com/vnetd/vnetd/pkg/bridge/vlan"
	"github.com/vnetd/vnetd/pkg/bridge/vxlan"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dnsd/resolved"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose/ruleset"
	"github.com/vnetd/vnetd/pkg/network/announce"
	"github.com/vnetd/vnetd/pkg/network/drift"
	"github.com/vnetd/vnetd/pkg/network/guard"
	"github.com/vnetd/vnetd/pkg/network/health"
	"github.com/vnetd/vnetd/pkg/network/host"
	"github.com/vnetd/vnetd/pkg/network/limit"
	"github.com/vnetd/vnetd/pkg/network/member"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/service"
	"github.com/vnetd/vnetd/pkg/network/translate"
	"github.com/vnetd/vnetd/pkg/store"
)

// Keys of log attributes.
const (
	KeyNetwork = "network"
	KeyBridge  = "bridge"
	KeyPort    = "port"
	KeyIfName  = "ifname"
	KeyMAC     = "mac"
	KeyError   = "error"
)

// Links is what the hub asks of pkg/bridge; *bridge.Bridges is the real one,
// whose contracts hold.
type Links interface {
	Ensure(ctx context.Context, cfg bridge.Config) (ifindex int, err error)
	Remove(name string, ifindex int) error
	Lookup(name string) (bridge.Link, error)
	LookupIndex(index int) (bridge.Link, error)
	Attach(ctx context.Context, bridge, port int, cfg bridge.PortConfig) error
	Pin(bridge, port int, mac net.HardwareAddr, amend bridge.Amend) error
	Learn(bridge, port int, mac net.HardwareAddr, on bool) error
	Detach(port int) error
	Adjust(ctx context.Context, index int, cfg bridge.Config) error
	VLANs(index int) (vlan.Table, error)
	SetVLANs(port int, t vlan.Table, more bool, amend bridge.Amend) error
	SetMTU(index, mtu int) error
	SetAlias(index int, text string) error
	Aliased(prefix string) ([]bridge.Link, error)
	DeleteLink(index int) error
	FDBPort(bridge int, mac net.HardwareAddr) (port int, err error)
	Forward(v4, v6 bool) (bridge.Forwarding, error)
	RestoreAcceptRA(raised []bridge.AcceptRA) error
	AddressOwner(p netip.Prefix, except string) (owner string, err error)
	HostNets() ([]bridge.HostNet, error)
	NetsOf(index int) ([]netip.Prefix, error)
	Members(bridge int) ([]bridge.Link, error)
	Counters() (map[string]bridge.Counters, error)
	Watch(ctx context.Context, f func(bridge.LinkEvent)) error
	Changes(ctx context.Context, f func(bridge.Change)) error
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
	Settle() error
	Purge(ctx context.Context) error
	Conditions(ctx context.Context, others ...firewall.Network) ([]firewall.Condition, error)
	Rules(n firewall.Network) []firewall.Line
	Stats() firewall.Stats
	Connections(groups [][]firewall.Forward) ([]firewall.Tally, error)
	Counts(ctx context.Context, n firewall.Network) (rules, peers []firewall.Count, err error)
	Offloaded() (int, error)
}

// Tunnels is what the hub asks of pkg/bridge/vxlan; *vxlan.Tunnels is the real one, whose
// contracts hold.
type Tunnels interface {
	Ensure(ctx context.Context, cfg vxlan.Config) (ifindex int, plugged bool, err error)
	Remove(name, alias string) error
	RouteMulticast(port int) error
	Shares(port uint16) (bool, error)
	Underlay(addrs, question []netip.Addr) (vxlan.Underlay, error)
}

// HostLinks is what the hub asks of pkg/bridge/hostlink; *hostlink.Links is the real one, whose contracts
// hold.
type HostLinks interface {
	Ensure(ctx context.Context, cfg hostlink.Config) (host, port int, err error)
	Settle(ctx context.Context, index int, cfg hostlink.Config) error
	Remove(name, alias string, table uint32) error
}

// Config is what the hub works with. Store, Links, Uplinks, Rules and Logger must
// be set.
type Config struct {
	Store   *store.Store
	Links   Links
	Uplinks host.Uplinks
	Rules   Rules
	Tunnels Tunnels      // nil: no network spans hosts
	Guards  guard.Kernel // nil: ports have no guards
	// HostLinks are those by which this host itself is in networks that span hosts.
	HostLinks HostLinks
	// Clusters are those that this host is in; nil: none.
	Clusters *member.Clusters
	// Announcements are what routers are told of networks; nil: none is told.
	Announcements *announce.Keeper
	// Neighbours is the host's own table; nil: it believes what guests say.
	Neighbours guard.Neighbours
	Shaper     limit.Kernel // nil: nothing is held to a bandwidth
	// Ruleset lists all rules of the host, whoever's; nil: nobody asks who reaches whom.
	// ChainPrefix is how our chains of iptables begin.
	Ruleset     func(ctx context.Context) (*ruleset.Ruleset, error)
	ChainPrefix string
	SysFS       string // where virtual functions are found; empty: /sys
	Logger      *slog.Logger

	ResolvConf    string // the host's resolvers; empty for /etc/resolv.conf
	StopRebind    bool   // upstreams' answers with private addresses are kept from guests, see dnsd.Config
	Hook          string // a program that is told when networks start and stop; empty for none
	StartOnDemand bool   // a port requested on an inactive network starts it

	// How clients of DHCP are dealt with where a network does not say: see
	// v4.Config.
	DHCPIdentity dhcpd.Identity
	DHCPProbe    bool
	Limits       port.Limits // of one user

	Sockets service.Sockets // nil: none are passed on
}

// Environment is what networks and ports work with. Nothing of it is changed once New
// has made it.
type Environment struct {
	Config
	Events    Broker
	Unusable  health.Unusable // files of the store
	Hooks     health.Hooks    // calls of the admin's hook that failed
	Tasks     *Tasks
	Serving   translate.Settings // what the daemon adds to services
	Resolved  resolved.Client
	Keeper    *drift.Keeper
	Bandwidth *limit.Keeper

	UplinkKeeper *host.Keeper

	// Activity counts whenever a network becomes active, another than it was, on another
	// bridge, or inactive.
	Activity atomic.Uint64

	PortRequests *histogram.Histogram // how long they took that got a port
}

// New makes the environment of cfg. Its Tasks are to be closed.
func New(cfg Config) *Environment {
	return &Environment{
		Config: cfg, Tasks: newTasks(), Keeper: drift.NewKeeper(cfg.Logger), Bandwidth: limit.NewKeeper(cfg.Shaper), PortRequests: histogram.New(requestBounds()),
		UplinkKeeper: host.NewKeeper(cfg.Uplinks, cfg.Store, cfg.Logger),
		Serving: translate.Settings{
			Leases: cfg.Store.Leases, Logger: cfg.Logger, Identity: cfg.DHCPIdentity, Probe: cfg.DHCPProbe,
			ResolvConf: cfg.ResolvConf, StopRebind: cfg.StopRebind,
		},
	}
}

// requestBounds returns the bounds of the histogram of port requests.
func requestBounds() []time.Duration {
	const ms = time.Millisecond
	return []time.Duration{ms, 2 * ms, 5 * ms, 10 * ms, 20 * ms, 50 * ms, 100 * ms, 200 * ms, 500 * ms, 1000 * ms, 5000 * ms, 30000 * ms}
}
