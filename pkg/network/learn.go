package network

import (
	"bytes"
	"net"
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/store"
)

// A launcher that asks for a port as it asks QEMU's bridge helper doesn't hear of
// the MAC address that vnetd made up: its guest has another one. The port learns
// that from the guest's lease.
//
// A guest may forge what it sends, so a port learns little: one address, the first
// that is leased to a card behind its device, for as long as that is open; only
// where vnetd made the port's own address up, nothing is reserved for that, and it
// is not in use; and never an address which belongs to somebody else. With its own
// name it can be found at what it has leased, and with no other.

// learn has the port that a card is plugged into know the card's address. It
// returns what a former guest of that port had leased.
func (n *Network) learn(mac net.HardwareAddr) (former []netip.Addr) {
	ports := n.m.ports
	if len(mac) != 6 || ports.count(n) == 0 || ports.guest(n, mac) != nil || n.claimed(mac) {
		return nil
	}
	index := n.bridgeIndex()
	if index == 0 {
		return nil
	}
	at, err := n.m.cfg.Links.FDBPort(index, mac)
	if err != nil {
		n.m.log.Warn("not known which port a guest is on", keyNetwork, n.name, keyMAC, mac.String(), keyError, err)
		return nil
	}
	p := ports.index(at)
	if p == nil || p.network != n {
		return nil
	}
	former, ok := ports.learn(p, mac)
	if !ok {
		return nil
	}
	n.m.log.Info("the guest of a port has another MAC address", keyNetwork, n.name, keyPort, p.UUID, keyMAC, mac.String())
	if err := n.m.cfg.Store.SavePort(ports.record(p)); err != nil {
		n.m.log.Error("recording the guest of a port", keyPort, p.UUID, keyError, err)
	}
	return former
}

// claimed reports whether the address belongs to somebody who is no port of vnetd's
// own: to whom the network reserves something by it, or a port that another program
// registered.
func (n *Network) claimed(mac net.HardwareAddr) bool {
	if live := n.liveNetwork(); live != nil {
		for _, ip := range live.IPs {
			if ip.DHCP != nil && slices.ContainsFunc(ip.DHCP.Hosts, func(h netdef.DHCPHost) bool { return bytes.Equal(h.MAC, mac) }) {
				return true
			}
		}
	}
	return slices.ContainsFunc(n.m.external.list(n), func(x *external) bool {
		return bytes.Equal(n.m.external.document(x).MAC, mac)
	})
}

// guest finds the port on n whose guest has the address: whose own it is, or else
// the one that learned it.
func (s *portSet) guest(n *Network, mac net.HardwareAddr) *port {
	if p := s.mac(n, mac); p != nil || len(mac) != 6 {
		return p
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return onNetwork(s.byGuest[[6]byte(mac)], n)
}

// learn makes mac the address of p's guest, and tells whether it may be, and which
// addresses a former guest of p had leased.
func (s *portSet) learn(p *port, mac net.HardwareAddr) (former []netip.Addr, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := [6]byte(mac)
	switch {
	case s.byUUID[p.UUID] != p, !p.MadeUp, len(p.Addrs) > 0:
		return nil, false
	case !p.left && (p.guest != nil || len(p.held) > 0):
		return nil, false
	case onNetwork(s.byMAC[key], p.network) != nil, onNetwork(s.byGuest[key], p.network) != nil:
		return nil, false
	}
	former = p.held
	s.unlearn(p)
	p.guest, p.left = slices.Clone(mac), false
	s.byGuest[key] = append(s.byGuest[key], p)
	return former, true
}

// unlearn takes back what learn did, and what the guest had. s.mu must be locked.
func (s *portSet) unlearn(p *port) {
	if len(p.guest) == 6 {
		leave(s.byGuest, [6]byte(p.guest), p)
	}
	p.guest, p.held = nil, nil
	p.tell()
}

// vacate records that nobody has p's device open: who opens it next may be another
// guest.
func (s *portSet) vacate(p *port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.left = true
}

// card is the address of p's guest as far as it is known.
func (s *portSet) card(p *port) net.HardwareAddr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.guest != nil {
		return p.guest
	}
	return p.MAC
}

// record is p as it is stored.
func (s *portSet) record(p *port) store.Port {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := p.Port
	r.Guest = p.guest
	return r
}
