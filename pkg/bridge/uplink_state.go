package bridge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// uplinkState reads how the uplink is. It refuses what can't be moved.
func (b *Bridges) uplinkState(cfg UplinkConfig) (*UplinkState, error) {
	l, err := b.byName(cfg.Uplink)
	if err != nil {
		return nil, err
	}
	if err := l.mustBeUplink(); err != nil {
		return nil, err
	}
	if !validName(cfg.Bridge) {
		return nil, fmt.Errorf("invalid name for a link: %q", cfg.Bridge)
	}
	if _, err := b.byName(cfg.Bridge); !errors.Is(err, ErrNotFound) {
		return nil, errors.Join(err, fmt.Errorf("bridge %q: %w", cfg.Bridge, ErrExists))
	}
	s := &UplinkState{Bridge: cfg.Bridge, Uplink: l.Name, Index: l.Index, MAC: l.MAC, MTU: l.MTU, Up: l.Up}
	if s.Taken, err = sinceBoot(); err != nil {
		return nil, err
	}
	return s, errors.Join(b.saveAddresses(s), b.saveRoutes(s, &l), b.saveNeighbours(s))
}

func (b *Bridges) saveAddresses(s *UplinkState) error {
	addrs, err := b.uplinkAddresses(s.Index)
	for _, a := range addrs {
		s.Addresses = append(s.Addresses, a.bytes())
	}
	return err
}

func (b *Bridges) saveRoutes(s *UplinkState, l *link) error {
	routes, err := b.uplinkRoutes(l)
	for _, r := range routes {
		if r.get(rtaNHID) != nil {
			return fmt.Errorf("route %v uses nexthop object %d, which can't be moved", r.dst(), r.u32(rtaNHID))
		}
		s.Routes = append(s.Routes, UplinkRoute{First: r.first, Advertised: r.advertised, Message: r.bytes()})
	}
	return err
}

func (b *Bridges) saveNeighbours(s *UplinkState) error {
	neighbours, err := b.neighbours(s.Index)
	for _, n := range neighbours {
		s.Neighbours = append(s.Neighbours, n.bytes())
	}
	return err
}

// mustBeUplink refuses links that can't become ports, or are ports already.
func (l *link) mustBeUplink() error {
	switch {
	case l.Master != 0:
		return fmt.Errorf("it is a port of link %d already", l.Master)
	case l.Kind == kindBridge:
		return errors.New("it is a bridge itself")
	case len(l.MAC) != 6 || l.loopback:
		return errors.New("not an Ethernet device")
	}
	return nil
}

// forever is the lifetime of an address that doesn't end
// (INFINITY_LIFE_TIME of net/addrconf.h).
const forever = 1<<32 - 1

// uplinkAddress is an address of an uplink or its bridge.
type uplinkAddress struct {
	message
	address
}

func parseUplinkAddress(data []byte) (uplinkAddress, error) {
	m, err := parseMessage(data, unix.SizeofIfAddrmsg)
	if err != nil {
		return uplinkAddress{}, err
	}
	if v := m.get(unix.IFA_FLAGS); v != nil && len(v) != 4 {
		return uplinkAddress{}, fmt.Errorf("address flags of %d bytes", len(v))
	}
	a, err := parseAddress(m.bytes())
	if err == nil && (!a.prefix.IsValid() || !a.peer.IsValid()) {
		err = errors.New("address message without address")
	}
	return uplinkAddress{m, a}, err
}

// same tells whether both are the same address to the kernel.
func (a uplinkAddress) same(other uplinkAddress) bool {
	return a.prefix == other.prefix && a.peer == other.peer
}

// linkLocal tells whether the address is an IPv6 link-local one: it stays on the
// uplink.
func (a uplinkAddress) linkLocal() bool {
	return a.prefix.Addr().Is6() && a.prefix.Addr().IsLinkLocalUnicast()
}

// valid is the rest of the address's lifetime in seconds (ifa_valid of struct
// ifa_cacheinfo, after ifa_prefered), or forever.
func (a uplinkAddress) valid() uint32 {
	if c := a.get(unix.IFA_CACHEINFO); len(c) >= 8 {
		return binary.NativeEndian.Uint32(c[4:])
	}
	return forever
}

// aged is the address after that time.
func (a uplinkAddress) aged(by time.Duration) uplinkAddress {
	c := a.get(unix.IFA_CACHEINFO)
	if len(c) < 8 {
		return a
	}
	lifetimes := binary.NativeEndian.AppendUint32(nil, aged(binary.NativeEndian.Uint32(c), by))
	lifetimes = binary.NativeEndian.AppendUint32(lifetimes, aged(a.valid(), by))
	a.message = a.with(unix.IFA_CACHEINFO, append(lifetimes, c[8:]...))
	return a
}

// aged is a lifetime in seconds after that time.
func aged(lifetime uint32, by time.Duration) uint32 {
	if lifetime == forever {
		return forever
	}
	return uint32(max(int64(lifetime)-int64(max(by, 0)/time.Second), 0))
}

// withLifetimesOf is the address with the lifetimes of another.
func (a uplinkAddress) withLifetimesOf(other uplinkAddress) uplinkAddress {
	if c := other.get(unix.IFA_CACHEINFO); c != nil {
		a.message = a.with(unix.IFA_CACHEINFO, c)
	}
	return a
}

// uplinkAddresses lists the addresses of a link in the order in which they must be
// added to stand in the kernel's order again: the kernel puts new IPv6 addresses
// first. Those that lost duplicate address detection are left out.
func (b *Bridges) uplinkAddresses(index int) ([]uplinkAddress, error) {
	var all []uplinkAddress
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		msg := nl.NewIfAddrmsg(family)
		msg.Index = uint32(index)
		msgs, err := b.conn.dump(unix.RTM_GETADDR, unix.RTM_NEWADDR, msg)
		if err != nil {
			return nil, fmt.Errorf("listing addresses of link %d: %w", index, err)
		}
		if family == unix.AF_INET6 {
			slices.Reverse(msgs)
		}
		for _, m := range msgs {
			a, err := parseUplinkAddress(m)
			if err != nil {
				return nil, err
			}
			if int(a.head[0]) == family && a.index == index && a.flags&unix.IFA_F_DADFAILED == 0 {
				all = append(all, a)
			}
		}
	}
	return all, nil
}

// gateways are those of the uplink's default routes.
func (s *UplinkState) gateways() []netip.Addr {
	var all []netip.Addr
	for _, saved := range s.Routes {
		r, err := parseUplinkRoute(saved)
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
