package bridge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// ErrExists says that a link has the name that a new one shall have.
var ErrExists = errors.New("link exists")

// ErrNoAnswer says that a gateway which answered before the uplink became a
// bridge's port didn't afterwards.
var ErrNoAnswer = errors.New("gateway doesn't answer any more")

const (
	// askLimit is how long a gateway may take to answer before anything is
	// changed; one that doesn't isn't waited for afterwards either. The
	// kernel asks three times, a second apart.
	askLimit = 3500 * time.Millisecond

	// DefaultCheckTimeout is how long gateways may take to answer over the
	// bridge. With it a failed AttachUplink is undone within 10 s.
	DefaultCheckTimeout = 8 * time.Second
)

// UplinkConfig says which link becomes a port of which new bridge.
type UplinkConfig struct {
	// Bridge is the name of the bridge to make.
	Bridge string
	// Uplink is the name of the Ethernet device or bond that leads to the
	// LAN.
	Uplink string
	// CheckTimeout is how long the gateways may take to answer over the
	// bridge, 0 for DefaultCheckTimeout.
	CheckTimeout time.Duration
	// Save stores the state where DetachUplink will find it, also after this
	// process or the machine's power died. It is called once, before the first
	// change; its error ends AttachUplink with nothing changed. nil: nothing
	// is stored.
	Save func(UplinkState) error
}

// UplinkState is how an uplink was before AttachUplink: all that DetachUplink
// needs. It is for encoding/json; it is of no use after a reboot.
type UplinkState struct {
	Bridge string           `json:"bridge"`
	Uplink string           `json:"uplink"`
	Index  int              `json:"index"` // of the uplink
	MAC    net.HardwareAddr `json:"mac"`
	MTU    int              `json:"mtu"`
	Up     bool             `json:"up"`
	// Taken is when the state was read, since the machine was booted.
	Taken time.Duration `json:"taken"`
	// Addresses, Routes and Neighbours are those of the uplink, in the
	// kernel's order and its own form (rtnetlink(7)): bodies of RTM_NEWADDR,
	// RTM_NEWROUTE and RTM_NEWNEIGH messages.
	Addresses  [][]byte      `json:"addresses"`
	Routes     []UplinkRoute `json:"routes"`
	Neighbours [][]byte      `json:"neighbours"`
}

// UplinkRoute is a route of an uplink.
type UplinkRoute struct {
	// First says that the kernel preferred it to all others to the same
	// destination with the same metric.
	First bool `json:"first"`
	// Advertised says that the kernel made it of a router advertisement, and
	// shall renew it with the next ones.
	Advertised bool   `json:"advertised"`
	Message    []byte `json:"message"`
}

// AttachUplink makes a bridge with the uplink's MAC address and MTU, makes the
// uplink a port of it, and moves the uplink's addresses and routes to the bridge:
// of both families and all tables, with their metrics, lifetimes and flags. IPv6
// link-local addresses are copied. The bridge's sysctls are those of the uplink.
// STP is off. Attach works for its ports as for other bridges; Ensure and Remove
// are not for such a bridge.
//
// Established connections go on. An address is on the bridge before it leaves the
// uplink, the bridge knows the neighbours that the uplink knew, and port, routes
// and addresses change in one datagram, which the kernel carries out even if this
// process dies.
//
// Gateways of the uplink's default routes that answer ARP or neighbour discovery
// before must do so over the bridge too. When one doesn't, the error is
// ErrNoAnswer. On any error everything is as before, unless the error says
// otherwise; on success the state is what DetachUplink takes.
//
// What stays with the uplink by its name or index: policy rules and firewall
// rules (iif, oif, -i, -o), sockets bound to it, multicast memberships, DHCP
// clients. Routes by nexthop objects are refused.
func (b *Bridges) AttachUplink(ctx context.Context, cfg UplinkConfig) (*UplinkState, error) {
	b.uplinks.Lock()
	defer b.uplinks.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("uplink %q: %w", cfg.Uplink, err)
	}
	s, err := b.uplinkState(cfg)
	if err != nil {
		return nil, fmt.Errorf("uplink %q: %w", cfg.Uplink, err)
	}
	answered, err := b.answers(ctx, s.Index, s.gateways(), askLimit)
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
	err = b.bridgeUplink(ctx, s, answered, limit)
	switch {
	case errors.Is(err, ErrExists):
		return nil, err // made by somebody else meanwhile
	case err != nil:
		err = fmt.Errorf("bridging uplink %q by %q, undone: %w", s.Uplink, s.Bridge, err)
		if undo := b.putBack(s); undo != nil {
			err = errors.Join(err, fmt.Errorf("undoing that: %w", undo))
		}
		return nil, err
	}
	return s, nil
}

// bridgeUplink moves the uplink and sees whether the gateways answer still.
func (b *Bridges) bridgeUplink(ctx context.Context, s *UplinkState, gateways []netip.Addr, limit time.Duration) error {
	index, err := b.moveToBridge(s)
	if err != nil {
		return err
	}
	answered, err := b.answers(ctx, index, gateways, limit)
	if err != nil {
		return err
	}
	for _, gw := range gateways {
		if !slices.Contains(answered, gw) {
			return fmt.Errorf("%w: %v, within %v", ErrNoAnswer, gw, limit)
		}
	}
	return nil
}

// DetachUplink puts back what AttachUplink changed and removes the bridge, from
// wherever AttachUplink or a DetachUplink stopped: it looks at what is there. It
// may be called again, and for a state of which nothing was carried out. Ports of
// the bridge stay as links of their own.
//
// Addresses and routes of the bridge that the state doesn't name go with the
// bridge, those that the uplink got meanwhile stay. Addresses and routes whose
// lifetime is over don't come back. Without the uplink, only the bridge is
// removed.
func (b *Bridges) DetachUplink(ctx context.Context, s UplinkState) error {
	b.uplinks.Lock()
	defer b.uplinks.Unlock()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("putting back uplink %q: %w", s.Uplink, err)
	}
	if err := b.putBack(&s); err != nil {
		return fmt.Errorf("putting back uplink %q: %w", s.Uplink, err)
	}
	return nil
}

// UplinkAttached tells whether the bridge is there and the uplink its port.
func (b *Bridges) UplinkAttached(s UplinkState) (bool, error) {
	br, err := b.uplinkBridge(&s)
	if err != nil || br.Index == 0 {
		return false, err
	}
	l, err := b.byName(s.Uplink)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil && l.Master == br.Index, err
}

// Temporary are the addresses that have a limited lifetime: unless the program
// that renewed them on the uplink (a DHCP client) does so on the bridge, the
// bridge loses them.
func (s *UplinkState) Temporary() []netip.Prefix {
	var all []netip.Prefix
	for _, data := range s.Addresses {
		a, err := parseUplinkAddress(data)
		if err == nil && a.valid() != forever {
			all = append(all, a.prefix)
		}
	}
	return all
}

// uplinkBridge is the bridge that AttachUplink made; its index is 0 if there is
// none.
func (b *Bridges) uplinkBridge(s *UplinkState) (link, error) {
	br, err := b.byName(s.Bridge)
	switch {
	case errors.Is(err, ErrNotFound):
		return link{}, nil
	case err != nil:
		return link{}, err
	case br.Name != s.Bridge || br.Kind != kindBridge || !bytes.Equal(br.MAC, s.MAC):
		return link{}, nil // somebody else's
	}
	return br, nil
}

// sinceBoot is the time since the machine was booted, with that asleep.
func sinceBoot() (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0, fmt.Errorf("reading the clock: %w", err)
	}
	return time.Duration(now.Nano()), nil
}
