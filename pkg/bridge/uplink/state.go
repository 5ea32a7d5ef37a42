package uplink

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/pkg/bridge"
)

// uplinkState reads how the uplink is. It refuses what can't be moved.
func (u *Uplinks) state(cfg Config) (*State, error) {
	l, err := u.links.Lookup(cfg.Uplink)
	if err != nil {
		return nil, err
	}
	if err := mustBeUplink(&l); err != nil {
		return nil, err
	}
	if !ether.ValidName(cfg.Bridge) {
		return nil, fmt.Errorf("invalid name for a link: %q", cfg.Bridge)
	}
	if _, err := u.links.Lookup(cfg.Bridge); !errors.Is(err, bridge.ErrNotFound) {
		return nil, errors.Join(err, fmt.Errorf("bridge %q: %w", cfg.Bridge, bridge.ErrExists))
	}
	s := &State{Bridge: cfg.Bridge, Uplink: l.Name, Index: l.Index, MAC: l.MAC, MTU: l.MTU, Up: l.Up, AskedMTU: cfg.MTU, Parent: cfg.Parent, VLAN: cfg.VLAN}
	if l.MTU < cfg.MTU {
		s.OwnMTU = l.MTU
	}
	links, err := u.kernel.nics()
	if err != nil {
		return nil, err
	}
	if n := slices.IndexFunc(links, func(is nic) bool { return is.Index == l.Index }); n >= 0 {
		s.Device = links[n].device()
	}
	if s.Taken, err = sinceBoot(); err != nil {
		return nil, err
	}
	return s, s.read(u.kernel, &l)
}

// read sets what the kernel knows of the uplink l.
func (s *State) read(k kernel, l *bridge.Link) error {
	addrs, addrsErr := k.addresses(s.Index)
	for _, a := range addrs {
		s.Addresses = append(s.Addresses, a.bytes())
	}
	routes, routesErr := k.routes(l)
	for _, r := range routes {
		if r.get(rtaNHID) != nil {
			return fmt.Errorf("route %v uses nexthop object %d, which can't be moved", r.dst(), r.u32(rtaNHID))
		}
		s.Routes = append(s.Routes, Route{First: r.first, Advertised: r.advertised, Message: r.bytes()})
	}
	neighbours, neighboursErr := k.neighbours(s.Index)
	for _, n := range neighbours {
		s.Neighbours = append(s.Neighbours, n.bytes())
	}
	return errors.Join(addrsErr, routesErr, neighboursErr)
}

// mustBeUplink refuses links that can't become ports, or are ports already.
func mustBeUplink(l *bridge.Link) error {
	switch {
	case l.Master != 0:
		return fmt.Errorf("it is a port of link %d already", l.Master)
	case l.Kind == bridge.Kind:
		return errors.New("it is a bridge itself")
	case len(l.MAC) != 6 || l.Loopback:
		return errors.New("not an Ethernet device")
	}
	return nil
}

// gateways are those of the uplink's default routes.
func (s *State) gateways() []netip.Addr {
	var all []netip.Addr
	for _, saved := range s.Routes {
		r, err := parseRoute(saved)
		if err != nil || r.head[1] != 0 { // rtm_dst_len
			continue
		}
		for _, gw := range r.gateways(s.Index) {
			if !slices.Contains(all, gw) {
				all = append(all, gw)
			}
		}
	}
	return all
}
