package network

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// What the guests of ports that other programs registered have in common with those
// of vnetd's own: an address that is theirs alone, a name, and leases.

// mac finds a port on n, on any network for nil, whose guest has the address.
func (s *externalSet) mac(n *Network, mac net.HardwareAddr) *external {
	return s.find(n, func(x *external) bool { return mac != nil && bytes.Equal(x.doc.MAC, mac) })
}

// named finds a port of somebody else on n that has a name.
func (s *externalSet) named(n *Network, name string, owner uint32) *external {
	return s.find(n, func(x *external) bool { return x.owner != owner && strings.EqualFold(x.doc.Owner.Name, name) })
}

// find is a port on n, on any network for nil, that is right; nil for none.
func (s *externalSet) find(n *Network, right func(*external) bool) *external {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.byUUID {
		if (n == nil || x.network == n) && right(x) {
			return x
		}
	}
	return nil
}

// addresses lists what the guest of the port with that UUID has leased, and what is
// closed when that changes, or when the port ends; nil where there is no such port.
func (s *externalSet) addresses(uuid string) ([]netip.Addr, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.byUUID[uuid]
	if x == nil {
		return nil, nil
	}
	return slices.Clone(x.held), x.news
}

// lease records that the guests on n with that address of a card have an address, or
// have it no more, and lists the ports for which that is new.
func (s *externalSet) lease(n *Network, mac net.HardwareAddr, a netip.Addr, has bool) (changed []*external) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.byUUID {
		at, had := slices.BinarySearchFunc(x.held, a, netip.Addr.Compare)
		switch {
		case x.network != n || !bytes.Equal(x.doc.MAC, mac) || has == had:
			continue
		case has:
			x.held = slices.Insert(x.held, at, a)
		default:
			x.held = slices.Delete(x.held, at, at+1)
		}
		x.tell()
		changed = append(changed, x)
	}
	return changed
}

// tell wakes who waits for news of x. The set's lock is held.
func (x *external) tell() {
	close(x.news)
	x.news = make(chan struct{})
}
