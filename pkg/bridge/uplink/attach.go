package uplink

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

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
	s, err := prepared(u, cfg)
	if err != nil {
		return nil, fmt.Errorf("uplink %q: %w", cfg.Uplink, err)
	}
	answered, err := u.kernel.answers(ctx, s.Index, s.gateways(), askLimit)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("uplink %q: %w", cfg.Uplink, err), forget(u, s))
	}
	if cfg.Save != nil {
		if err := cfg.Save(*s); err != nil {
			return nil, errors.Join(fmt.Errorf("uplink %q: saving its state: %w", cfg.Uplink, err), forget(u, s))
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

// prepared is the state of the uplink, which is made first where it is a VLAN that has no
// device.
func prepared(u *Uplinks, cfg Config) (s *State, err error) {
	made, d := false, devices{u.kernel, u.afterChange}
	if cfg.Parent != "" {
		if made, err = d.make(cfg.Uplink, cfg.Parent, cfg.VLAN); err != nil {
			return nil, err
		}
	}
	if s, err = u.state(cfg); err != nil {
		if l, lookup := u.links.Lookup(cfg.Uplink); made && lookup == nil {
			err = errors.Join(err, d.unmake(l.Index))
		}
		return nil, err
	}
	s.Made = made
	return s, nil
}

// forget takes back what was made before the state was stored.
func forget(u *Uplinks, s *State) error {
	if !s.Made {
		return nil
	}
	return devices{u.kernel, u.afterChange}.unmake(s.Index)
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
