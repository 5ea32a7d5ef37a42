package port

import (
	"net"
	"net/netip"
	"slices"
	"strings"
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

// Guest finds the port of vnetd's own on the network whose guest has the address:
// whose own it is, or else the one that learned it.
func (r *Registry) Guest(network string, mac net.HardwareAddr) *Port {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.index.guest(network, mac)
}

// Learn makes mac the address of p's guest, and reports whether it may be, and which
// addresses a former guest of p had leased.
func (p *Port) Learn(mac net.HardwareAddr) (former []netip.Addr, ok bool) {
	r := p.reg
	r.mu.Lock()
	defer r.mu.Unlock()
	key, ok := macKey(mac)
	switch {
	case !ok, r.index.byUUID[strings.ToLower(p.UUID)] != p, !p.MadeUp, len(p.Addrs) > 0:
		return nil, false
	case !p.status.Left && (p.status.Card != nil || len(p.status.Held) > 0):
		return nil, false
	case on(r.index.byMAC[key], p.Network) != nil, on(r.index.byCard[key], p.Network) != nil:
		return nil, false
	}
	former = p.status.Held
	r.index.unlearn(p)
	p.status.Card, p.status.Left = slices.Clone(mac), false
	r.index.byCard[key] = append(r.index.byCard[key], p)
	return former, true
}

// Lease records that the guests on the network with that address of a card have an
// address, or have it no more, and lists the ports for which that is new.
func (r *Registry) Lease(network string, mac net.HardwareAddr, a netip.Addr, has bool) (changed []*Port) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key, ok := macKey(mac)
	if !ok {
		return nil
	}
	for _, p := range r.index.byMAC[key] {
		if p.Kind == External && p.Network == network && p.lease(a, has) {
			changed = append(changed, p)
		}
	}
	if p := r.index.guest(network, mac); p != nil && p.lease(a, has) {
		changed = append(changed, p)
	}
	return changed
}

// Lease records that p's guest has an address.
func (p *Port) Lease(a netip.Addr) {
	p.reg.mu.Lock()
	defer p.reg.mu.Unlock()
	p.lease(a, true)
}

// lease records that p's guest has an address, or has it no more, and reports
// whether that is new. The registry is locked.
func (p *Port) lease(a netip.Addr, has bool) bool {
	s := &p.status
	s.Left = s.Left && !has
	at, had := slices.BinarySearchFunc(s.Held, a, netip.Addr.Compare)
	switch {
	case has == had:
		return false
	case has:
		s.Held = slices.Insert(s.Held, at, a)
	default:
		s.Held = slices.Delete(s.Held, at, at+1)
	}
	p.tell()
	return true
}

// tell wakes who waits for news of p. The registry is locked.
func (p *Port) tell() {
	close(p.news)
	p.news = make(chan struct{})
}
