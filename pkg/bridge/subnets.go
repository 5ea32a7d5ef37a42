package bridge

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// maxSubnets is how many subnets are kept in mind; a host with more of them, a
// router with a table of the internet, is asked anew each time.
const maxSubnets = 1 << 15

// noLink stands for the links of a route that has none of its own: nobody tells
// when they change.
const noLink = 0

// subnets are the IPv4 subnets that links used at some time since they were
// listed: whether one is used can then mostly be denied without listing
// hundreds of others. The kernel tells of every subnet that comes. It doesn't tell
// of all that go (the routes of a link that is set down), so what is found here
// must be looked at.
type subnets struct {
	mu      sync.Mutex
	changes netlink.Subscription
	used    map[netip.Prefix][]int // up to date while subscribed
}

// AddressOwner names a link other than except that uses the network of p
// already: by a route of the main table to exactly that network, or by an
// address in a network of exactly that prefix. It is empty when there is none.
//
// This is the check that libvirt makes before it starts a network: a network
// that contains p or lies inside it is no conflict, and IPv6 is never one.
func (b *Bridges) AddressOwner(p netip.Prefix, except string) (owner string, err error) {
	if !p.IsValid() || !p.Addr().Is4() {
		return "", nil
	}
	indexes, err := b.subnets.users(b.conn, p.Masked())
	if err != nil {
		return "", fmt.Errorf("looking for other users of %v: %w", p.Masked(), err)
	}
	for _, index := range indexes {
		l, err := b.conn.byIndex(index)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return "", err
		}
		if l.Name != except {
			return l.Name, nil
		}
	}
	return "", nil
}

// users are the indexes of the links with a route to p or an address in it.
func (s *subnets) users(c *conn, p netip.Prefix) ([]int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.catchUp() {
		free, err := s.unused(c, p)
		if err != nil || free {
			return nil, err
		}
	}
	if err := s.list(c); err != nil {
		s.forget()
		return nil, err
	}
	users := slices.DeleteFunc(slices.Clone(s.used[p]), func(index int) bool { return index == noLink })
	if len(s.used) > maxSubnets {
		s.forget()
	}
	return users, nil
}

// unused reports whether all links that once used p are gone, and with them what
// they used.
func (s *subnets) unused(c *conn, p netip.Prefix) (bool, error) {
	for _, index := range s.used[p] {
		if index == noLink {
			return false, nil
		}
		_, err := c.byIndex(index)
		if !errors.Is(err, ErrNotFound) {
			return false, err
		}
	}
	delete(s.used, p)
	return true, nil
}

// list lists what is used now. What comes while it does is queued.
func (s *subnets) list(c *conn) error {
	if err := s.changes.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE); err != nil {
		return err
	}
	s.used = make(map[netip.Prefix][]int)
	routes, err := c.routes(unix.AF_INET, 0)
	if err != nil {
		return err
	}
	for _, r := range routes {
		s.addRoute(r)
	}
	addrs, err := c.addressesOf(unix.AF_INET, 0)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		s.add(a.prefix, a.index)
	}
	return nil
}

// forget ends the subscription; the next question lists everything.
func (s *subnets) forget() {
	s.changes.Close()
	s.used = nil
}

// close is forget for everybody else.
func (s *subnets) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget()
}

func (s *subnets) add(p netip.Prefix, index int) {
	p = p.Masked()
	if !slices.Contains(s.used[p], index) {
		s.used[p] = append(s.used[p], index)
	}
}

func (s *subnets) addRoute(r route) {
	for _, index := range r.indexes {
		s.add(r.dst, index)
	}
	if r.nexthop || len(r.indexes) == 0 {
		s.add(r.dst, noLink)
	}
}

// catchUp adds what came since the last question. It is false when there was no
// such, or when something was missed.
func (s *subnets) catchUp() bool {
	return s.changes.Read(s.learn) && len(s.used) <= maxSubnets
}

// learn adds what a message of the kernel tells; ok is false if it can't be
// understood. What goes is left in, see subnets.
func (s *subnets) learn(m netlink.Message) (ok bool) {
	switch m.Type {
	case unix.RTM_NEWADDR:
		a, err := parseAddress(m.Body)
		if err != nil {
			return false
		}
		s.add(a.prefix, a.index)
	case unix.RTM_NEWROUTE:
		r, ours, err := parseMainRoute(m.Body, unix.AF_INET)
		if err != nil {
			return false
		}
		if ours {
			s.addRoute(r)
		}
	}
	return true
}
