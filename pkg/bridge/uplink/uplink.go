package uplink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/pkg/bridge"
)

// ErrNoAnswer says that a gateway which answered before the uplink became a
// bridge's port didn't afterwards.
var ErrNoAnswer = errors.New("gateway doesn't answer any more")

const (
	// askLimit is how long a gateway may take to answer before anything is
	// changed; one that doesn't isn't waited for afterwards either. The
	// kernel asks three times, a second apart.
	askLimit = 3500 * time.Millisecond

	// DefaultCheckTimeout is how long gateways may take to answer over the
	// bridge. With it a failed Attach is undone within 10 s.
	DefaultCheckTimeout = 8 * time.Second
)

// Config says which link becomes a port of which new bridge.
type Config struct {
	// Bridge is the name of the bridge to make.
	Bridge string
	// Uplink is the name of the Ethernet device or bond that leads to the
	// LAN.
	Uplink string
	// CheckTimeout is how long the gateways may take to answer over the
	// bridge, 0 for DefaultCheckTimeout.
	CheckTimeout time.Duration
	// Save stores the state where Detach will find it, also after this
	// process or the machine's power died. It is called once, before the first
	// change; its error ends Attach with nothing changed. nil: nothing
	// is stored.
	Save func(State) error
}

// State is how an uplink was before Attach, with what Ensure found since: all that Detach
// and Ensure need. It is for encoding/json; it is of no use after a reboot.
type State struct {
	Bridge string           `json:"bridge"`
	Uplink string           `json:"uplink"`
	Index  int              `json:"index"` // of the uplink, as it is in Routes
	MAC    net.HardwareAddr `json:"mac"`   // of the bridge
	MTU    int              `json:"mtu"`
	Up     bool             `json:"up"`
	// BridgeIndex is that of the bridge once it is known, 0 before.
	BridgeIndex int `json:"bridge_index,omitempty"`
	// Device is what the uplink is known by.
	Device Device `json:"device"`
	// Taken is when the state was read, since the machine was booted.
	Taken time.Duration `json:"taken"`
	// Addresses, Routes and Neighbours are those of the uplink, in the
	// kernel's order and its own form (rtnetlink(7)): bodies of RTM_NEWADDR,
	// RTM_NEWROUTE and RTM_NEWNEIGH messages.
	Addresses  [][]byte `json:"addresses"`
	Routes     []Route  `json:"routes"`
	Neighbours [][]byte `json:"neighbours"`
}

// Route is a route of an uplink.
type Route struct {
	// First says that the kernel preferred it to all others to the same
	// destination with the same metric.
	First bool `json:"first"`
	// Advertised says that the kernel made it of a router advertisement, and
	// shall renew it with the next ones.
	Advertised bool   `json:"advertised"`
	Message    []byte `json:"message"`
}

// Uplinks moves uplinks in one network namespace, that of the thread that called
// New. All methods are safe for concurrent use.
type Uplinks struct {
	links  *bridge.Bridges
	kernel kernel
	mu     sync.Mutex // serialises Attach and Detach
	// hook is called after each change that these two made, for tests that stop
	// them half-way; nil otherwise.
	hook func() error
}

// New opens the netlink socket for requests. Bridges are made and removed by links,
// which stays the caller's to close.
func New(links *bridge.Bridges) (*Uplinks, error) {
	socket, err := netlink.Open(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	return &Uplinks{links: links, kernel: kernel{socket}}, nil
}

// Close closes the netlink socket. No uplink changes. No method may be called any
// more.
func (u *Uplinks) Close() { _ = u.kernel.Close() }

// Attach makes a bridge with the uplink's MAC address and MTU, makes the
// uplink a port of it, and moves the uplink's addresses and routes to the bridge:
// of both families and all tables, with their metrics, lifetimes and flags. IPv6
// link-local addresses are copied. The bridge's sysctls are those of the uplink.
// STP is off. Bridges.Attach works for its ports as for other bridges;
// Bridges.Ensure and Remove are not for such a bridge.
//
// Established connections go on. An address is on the bridge before it leaves the
// uplink, the bridge knows the neighbours that the uplink knew, and port, routes
// and addresses change in one datagram, which the kernel carries out even if this
// process dies.
//
// Gateways of the uplink's default routes that answer ARP or neighbour discovery
// before must do so over the bridge too. When one doesn't, the error is
// ErrNoAnswer, unless the uplink went away meanwhile. On any error everything is as before, unless the error says
// otherwise; on success the state is what Detach takes.
//
// What stays with the uplink by its name or index: policy rules and firewall
// rules (iif, oif, -i, -o), sockets bound to it, multicast memberships, DHCP
// clients. Routes by nexthop objects are refused.
func (u *Uplinks) Attach(ctx context.Context, cfg Config) (*State, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("uplink %q: %w", cfg.Uplink, err)
	}
	s, err := u.state(cfg)
	if err != nil {
		return nil, fmt.Errorf("uplink %q: %w", cfg.Uplink, err)
	}
	answered, err := u.kernel.answers(ctx, s.Index, s.gateways(), askLimit)
	if err != nil {
		return nil, fmt.Errorf("uplink %q: %w", cfg.Uplink, err)
	}
	if cfg.Save != nil {
		if err := cfg.Save(*s); err != nil {
			return nil, fmt.Errorf("uplink %q: saving its state: %w", cfg.Uplink, err)
		}
	}
	limit := cfg.CheckTimeout
	if limit == 0 {
		limit = DefaultCheckTimeout
	}
	err = u.moveAndCheck(ctx, s, answered, limit)
	switch {
	case errors.Is(err, bridge.ErrExists):
		return nil, err // made by somebody else meanwhile
	case err != nil:
		err = fmt.Errorf("bridging uplink %q by %q, undone: %w", s.Uplink, s.Bridge, err)
		if undo := u.putBack(s); undo != nil {
			err = errors.Join(err, fmt.Errorf("undoing that: %w", undo))
		}
		return nil, err
	}
	return s, nil
}

// moveAndCheck moves the uplink and sees whether the gateways answer still.
func (u *Uplinks) moveAndCheck(ctx context.Context, s *State, gateways []netip.Addr, limit time.Duration) error {
	index, err := u.moveToBridge(s)
	if err != nil {
		return err
	}
	s.BridgeIndex = index
	answered, err := u.kernel.answers(ctx, index, gateways, limit)
	if err != nil {
		return err
	}
	if _, err := u.links.LookupIndex(s.Index); errors.Is(err, bridge.ErrNotFound) {
		return nil // the uplink went meanwhile, it wasn't the bridge that broke the way
	}
	for _, gw := range gateways {
		if !slices.Contains(answered, gw) {
			return fmt.Errorf("%w: %v, within %v", ErrNoAnswer, gw, limit)
		}
	}
	return nil
}

// Detach puts back what Attach changed and removes the bridge, from
// wherever Attach or a Detach stopped: it looks at what is there. It
// may be called again, and for a state of which nothing was carried out. Ports of
// the bridge stay as links of their own.
//
// Addresses and routes of the bridge that the state doesn't name go with the
// bridge, those that the uplink got meanwhile stay. Addresses and routes whose
// lifetime is over don't come back. While the uplink is away, the bridge stays with
// them, and the error is ErrAway; where there is nothing to give back, the bridge goes.
func (u *Uplinks) Detach(ctx context.Context, s State) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("putting back uplink %q: %w", s.Uplink, err)
	}
	if err := u.putBack(&s); err != nil {
		return fmt.Errorf("putting back uplink %q: %w", s.Uplink, err)
	}
	return nil
}

// Attached reports whether the bridge is there and the uplink its port.
func (u *Uplinks) Attached(s State) (bool, error) {
	br, err := u.bridge(&s)
	if err != nil || br.Index == 0 {
		return false, err
	}
	l, err := u.find(&s, br.Index)
	if errors.Is(err, ErrAway) {
		return false, nil
	}
	return err == nil && l.Master == br.Index, err
}

// Temporary are the addresses that have a limited lifetime: unless the program
// that renewed them on the uplink (a DHCP client) does so on the bridge, the
// bridge loses them.
func (s *State) Temporary() []netip.Prefix {
	var all []netip.Prefix
	for _, data := range s.Addresses {
		a, err := parseAddress(data)
		if err == nil && a.valid() != forever {
			all = append(all, a.prefix)
		}
	}
	return all
}

// bridge is the bridge that Attach made, also under another name or with another MAC
// address; its index is 0 if there is none.
func (u *Uplinks) bridge(s *State) (bridge.Link, error) {
	links, err := u.kernel.nics()
	if err != nil {
		return bridge.Link{}, err
	}
	var found bridge.Link
	for _, l := range links {
		sameMAC, same := bytes.Equal(l.MAC, s.MAC), l.Index == s.BridgeIndex
		switch {
		case l.Kind != bridge.Kind:
		case l.Name == s.Bridge && (sameMAC || same):
			return l.Link, nil
		case sameMAC && same:
			found = l.Link
		}
	}
	return found, nil
}

// sinceBoot is the time since the machine was booted, with that asleep.
func sinceBoot() (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0, fmt.Errorf("reading the clock: %w", err)
	}
	return time.Duration(now.Nano()), nil
}
