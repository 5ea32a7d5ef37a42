// Package bridge owns the bridge devices of the daemon's network namespace and
// what is plugged into them: attributes, MAC address, MTU, addresses, routes, IPv6
// sysctls, the ports and their forwarding entries, and the host's forwarding.
//
// Bridges.Ensure brings a device to what its Config asks and is silent when
// nothing differs. Bridges.Attach plugs a port in so that it forwards at once,
// with spanning tree left on. Bridges.Watch tells about links that came, changed or
// went. Package uplink moves the link that leads to the LAN onto a bridge, and back.
//
// Everything goes over rtnetlink, but for the switches of IPv6 and of forwarding,
// which are sysctls.
// The package keeps no copy of kernel state but the networks that the host is in,
// for as long as the kernel tells of no change (Bridges.AddressOwner, HostNets).
package bridge

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/pkg/bridge/removal"
)

// Kind is the kernel's name of the device type.
const Kind = "bridge"

// ErrExists says that a link has the name that a new one shall have.
var ErrExists = errors.New("link exists")

// ErrNotBridge says that the name belongs to a link of another kind.
var ErrNotBridge = errors.New("not a bridge")

// Config is what a bridge shall be.
type Config struct {
	// Name is the device's name, 1 to 15 bytes.
	Name string
	// MAC is required. A bridge without an explicit one takes that of a port,
	// changes it with the ports, and has none when the last port went.
	MAC net.HardwareAddr
	// STP switches the spanning tree protocol on.
	STP bool
	// ForwardDelay is how long a port listens and how long it learns before
	// it forwards; it counts in hundredths of a second. While STP is on the
	// kernel uses 2 s for less and 30 s for more. Ports that Attach plugs in
	// don't wait.
	ForwardDelay time.Duration
	// MTU is the device's and, unless PortConfig says otherwise, its ports';
	// a port with a smaller one doesn't change it. 0 leaves it to the kernel:
	// 1500, or the smallest of the ports'.
	MTU int
	// Addrs are the addresses of the bridge, with the length of their
	// network's prefix. Others that Ensure once added to it are removed; what an
	// admin added stays. Without an IPv6 address, IPv6 is off on the bridge.
	Addrs []netip.Prefix
	// Former are addresses that Ensure may have added where the kernel does not tell
	// whose an address is (before Linux 5.18): those not in Addrs are removed.
	Former []netip.Prefix
	// Routes are the static routes through the bridge. Others that Ensure once
	// added to it are removed.
	Routes []Route
	// Alias is what the link says of itself (ifalias), at most 255 bytes, empty for
	// nothing. A link that has one keeps it.
	Alias string
	// MACTable prepares the bridge for ports without learning and flooding,
	// whose guests' addresses PortConfig.FDB tells it: VLAN filtering is switched on,
	// as libvirt does for macTableManager='libvirt', so that the kernel can
	// take such ports out of promiscuous mode. A kernel without VLAN filtering
	// goes without. It is never switched off.
	MACTable bool
	// MaxLearned is how many addresses the bridge learns at most, 0 for any number; of those
	// beyond it frames are flooded. A kernel that counts none (before Linux 6.7) learns any
	// number.
	MaxLearned int
	// FilterVLANs has the bridge look at VLAN tags, as the VLANs of its ports say
	// (PortConfig.VLANs); the error is ErrCantFilter where the kernel can't. It is never
	// switched off.
	FilterVLANs bool
	// Snooping has the bridge send multicast to those ports alone behind which somebody
	// listens, as it hears of IGMP and MLD; Querier has it ask them. What is to be on and the
	// kernel has not gives ErrCantSnoop.
	Snooping, Querier Switch
	// Forward4 and Forward6 say that the host forwards packets of the bridge: it does so
	// on this link wherever it forwards any of that family.
	Forward4, Forward6 bool
	// Loopback4 and Loopback6 say that what this host sends from 127.0.0.0/8 and ::1 may
	// leave by the bridge and be answered; the caller keeps guests from 127.0.0.0/8.
	// FormerLoopback4 and 6 say that Ensure was asked for that, and is to take it back
	// where it is not asked any more.
	Loopback4, Loopback6             bool
	FormerLoopback4, FormerLoopback6 bool
	// Index is that of the bridge as it was seen last, 0 for none: where no link has the
	// name, and that one is a bridge with Alias, it was renamed and gets its name back.
	Index int
	// Amend is asked of what differs on a bridge that is there, and of its absence.
	Amend Amend
}

// Bridges speaks with the kernel about the links of one network namespace, that
// of the thread that called New. All methods are safe for concurrent use.
type Bridges struct {
	conn    *conn
	removal *removal.Queue
	seed    maphash.Seed
	// names serialises Ensure per name. A name's lock is taken before a
	// bridge's.
	names shards

	stp stpStates

	subnets  subnets
	hostNets hostNets

	// sysctlDir is where forwarding is persisted, empty for nowhere;
	// forwarding serialises changes of it.
	sysctlDir  string
	forwarding sync.Mutex
}

// shards are locks for many keys; a few keys share one.
type shards [64]sync.Mutex

// lock locks the key and returns how to unlock it.
func (s *shards) lock(key uint64) (unlock func()) {
	mu := &s[key%uint64(len(s))]
	mu.Lock()
	return mu.Unlock
}

// New opens the netlink socket for requests.
func New() (*Bridges, error) {
	// The library finds it out on first use, unguarded: before anything is
	// concurrent here.
	nl.NativeEndian()
	c, err := dial()
	if err != nil {
		return nil, err
	}
	deletions, err := removal.New()
	if err != nil {
		c.close()
		return nil, err
	}
	return &Bridges{conn: c, removal: deletions, seed: maphash.MakeSeed(), stp: stpStates{all: make(map[int]*stpState)}, sysctlDir: DefaultSysctlDir}, nil
}

// Close closes the netlink sockets. No bridge changes. No method may be called
// any more.
func (b *Bridges) Close() {
	b.subnets.close()
	b.hostNets.close()
	b.removal.Close()
	b.conn.close()
}

// Ensure makes the bridge that cfg asks for, or brings the one that has the
// name to it, sets it up, and returns its index. What is right already is not
// touched: a second call with the same cfg sends no change to the kernel.
//
// A link of another kind with that name gives ErrNotBridge. When a bridge that
// didn't exist can't be configured, it is deleted again.
func (b *Bridges) Ensure(ctx context.Context, cfg Config) (ifindex int, err error) {
	if err := cfg.validate(); err != nil {
		return 0, fmt.Errorf("bridge %q: %w", cfg.Name, err)
	}
	defer b.names.lock(maphash.String(b.seed, cfg.Name))()
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("bridge %q: %w", cfg.Name, err)
	}
	l, created, err := b.conn.findOrCreate(&cfg)
	if err != nil || l.Index == 0 {
		return 0, err
	}
	if created {
		cfg.Amend = nil
	}
	if err := converge(b, &l, &cfg, created); err != nil {
		err = fmt.Errorf("configuring bridge %q: %w", cfg.Name, err)
		if created {
			err = errors.Join(err, b.removal.Delete(l.Index, removal.Bridge))
		}
		return 0, err
	}
	return l.Index, nil
}

// Create makes a bridge with MAC address, MTU and spanning tree of cfg, down and
// without addresses. The error is ErrExists when a link has the name. After an error
// nothing is left.
func (b *Bridges) Create(cfg Config) (Link, error) {
	l, created, err := b.conn.findOrCreate(&cfg)
	if err == nil && !created {
		err = fmt.Errorf("bridge %q: %w", cfg.Name, ErrExists)
	}
	if err != nil {
		return Link{}, err
	}
	if err := b.setAttributes(&l, &cfg); err != nil {
		return Link{}, errors.Join(fmt.Errorf("configuring bridge %q: %w", cfg.Name, err), b.removal.Delete(l.Index, removal.Bridge))
	}
	return l.Link, nil
}

// validate refuses what the kernel would misunderstand or refuse late.
func (c *Config) validate() error {
	switch {
	case !ether.ValidName(c.Name):
		return errors.New("invalid name for a link")
	case !ether.IsCard(c.MAC):
		return fmt.Errorf("MAC address %q is not one of a single Ethernet device", c.MAC)
	case c.ForwardDelay < 0:
		return fmt.Errorf("negative forward delay %v", c.ForwardDelay)
	case c.MTU < 0:
		return fmt.Errorf("negative MTU %d", c.MTU)
	}
	return c.validateNetworks()
}

// validateNetworks is validate for addresses and routes.
func (c *Config) validateNetworks() error {
	for _, p := range c.Addrs {
		if !p.IsValid() || p.Addr().Is4In6() {
			return fmt.Errorf("invalid address %v", p)
		}
	}
	for _, r := range c.Routes {
		if err := r.validate(); err != nil {
			return err
		}
	}
	return nil
}

// hasIPv6 reports whether the bridge is to have an IPv6 address.
func (c *Config) hasIPv6() bool {
	for _, p := range c.Addrs {
		if p.Addr().Is6() {
			return true
		}
	}
	return false
}

// findOrCreate finds the bridge or makes it, with nothing but its MAC address; l is the
// zero link where cfg.Amend leaves that.
func (c *conn) findOrCreate(cfg *Config) (l link, created bool, err error) {
	l, err = c.byName(cfg.Name)
	if errors.Is(err, ErrNotFound) {
		if renamed, ok := renamed(c, cfg); ok {
			return c.rename(renamed, cfg)
		}
		if cfg.Amend != nil && !cfg.Amend(Difference{Link: cfg.Name, Aspect: AspectBridge, Want: cfg.Name}) {
			return link{}, false, nil
		}
		err = c.do(createBridge(cfg))
		// EEXIST: another program was faster; its bridge does as well.
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return link{}, false, fmt.Errorf("creating bridge %q: %w", cfg.Name, err)
		}
		created = err == nil
		l, err = c.byName(cfg.Name)
	}
	if err == nil {
		err = l.mustBeBridge(cfg.Name)
	}
	return l, created, err
}

// renamed finds the bridge of cfg under another name.
func renamed(c *conn, cfg *Config) (link, bool) {
	if cfg.Index == 0 || cfg.Alias == "" {
		return link{}, false
	}
	l, err := c.byIndex(cfg.Index)
	return l, err == nil && l.Kind == Kind && l.Alias == cfg.Alias
}

// rename gives l the name of cfg. Before Linux 6.2 a link must be down for that; it is
// set up again with the rest.
func (c *conn) rename(l link, cfg *Config) (link, bool, error) {
	if cfg.Amend != nil && !cfg.Amend(Difference{Link: cfg.Name, Aspect: AspectName, Has: l.Name, Want: cfg.Name}) {
		return link{}, false, nil
	}
	name := setLink(l.Index, 0, 0, nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(cfg.Name)))
	err := c.do(name)
	if errors.Is(err, unix.EBUSY) {
		err = c.do(setLink(l.Index, 0, unix.IFF_UP), name, setUp(l.Index))
	}
	if err != nil {
		return link{}, false, fmt.Errorf("giving bridge %q its name %q back: %w", l.Name, cfg.Name, err)
	}
	l, err = c.byIndex(l.Index)
	return l, false, err
}

// mustBeBridge gives ErrNotBridge unless l is a bridge and name its own name:
// the kernel finds links by their alternative names too.
func (l *link) mustBeBridge(name string) error {
	if l.Name != name {
		return fmt.Errorf("%w: %q is another name of link %q", ErrNotBridge, name, l.Name)
	}
	switch l.Kind {
	case Kind:
		return nil
	case "":
		return fmt.Errorf("%w: link %q is a hardware device", ErrNotBridge, name)
	}
	return fmt.Errorf("%w: link %q is of kind %q", ErrNotBridge, name, l.Kind)
}

// createBridge is the request that makes the bridge. With its address given
// here the kernel counts the address as set, not random, and neither udev's
// MACAddressPolicy nor a port ever changes it.
//
// The MTU in this request is one off what is wanted on purpose. Only an MTU that
// is changed later counts as the user's, which no port lowers
// (BROPT_MTU_SET_BY_USER of net/bridge/br_device.c); one given here would not,
// and setting it to what it is already would do nothing.
func createBridge(cfg *Config) *nl.NetlinkRequest {
	req := setLink(0, 0, 0,
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(cfg.Name)),
		nl.NewRtAttr(unix.IFLA_ADDRESS, cfg.MAC),
		linkInfo(unix.IFLA_INFO_KIND, unix.IFLA_INFO_DATA))
	if cfg.MTU != 0 {
		req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(cfg.MTU)^1)))
	}
	req.Flags |= unix.NLM_F_CREATE | unix.NLM_F_EXCL
	return req
}

// converge brings l to cfg. IPv6 is switched before the link is up, so that no
// link-local address and no router solicitation appears on a bridge without
// IPv6. Addresses come after that: the kernel adds the route of an IPv6 address
// only while the link is up. Routes come last, as their gateways must be in the
// network of an address. A link that was just created has neither.
func converge(b *Bridges, l *link, cfg *Config, created bool) error {
	if err := b.setAttributes(l, cfg); err != nil {
		return err
	}
	if err := b.conn.setSysctls(l, cfg); err != nil {
		return err
	}
	if !l.Up {
		up := cfg.Amend.pass([]change{differs(cfg.Name, AspectUp, "down", "up", setUp(l.Index))})
		if len(up) == 0 {
			return nil // nor can it have routes
		}
		if err := b.conn.do(requests(up)...); err != nil {
			return fmt.Errorf("setting the link up: %w", err)
		}
	}
	if created {
		if err := b.conn.addAddresses(l.Index, cfg.Addrs); err != nil {
			return err
		}
		if err := b.conn.addRoutes(l.Index, cfg.Routes); err != nil {
			return err
		}
		return setLoopback(b.conn, l.Index, cfg)
	}
	if err := b.conn.setAddresses(l, cfg); err != nil {
		return err
	}
	if err := b.conn.setRoutes(l, cfg); err != nil {
		return err
	}
	return setLoopback(b.conn, l.Index, cfg)
}

// Remove deletes the bridge of that name if its index is still ifindex, or
// whatever its index is when ifindex is 0. Its ports stay as links of their own.
// It succeeds when there is no such bridge; a link of another kind with that
// name gives ErrNotBridge.
func (b *Bridges) Remove(name string, ifindex int) error {
	l, err := b.conn.byName(name)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case err != nil:
		return err
	case ifindex != 0 && l.Index != ifindex:
		return nil
	}
	if err := l.mustBeBridge(name); err != nil {
		return err
	}
	if err := b.removal.Delete(l.Index, removal.Bridge); err != nil {
		return fmt.Errorf("removing bridge %q: %w", name, err)
	}
	b.stp.forget(l.Index)
	return nil
}
