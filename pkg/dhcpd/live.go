package dhcpd

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// ErrTaken says that an address is somebody else's.
var ErrTaken = errors.New("address is taken")

// Live is what one guest has for as long as it is there: an address, a name, or
// both. Unlike Reservations, which Config lists, it comes and goes alone.
type Live struct {
	// MAC is the guest.
	MAC net.HardwareAddr
	// Addr is set aside for it. Zero: it gets any.
	Addr netip.Addr
	// Name overrides what the guest calls itself, and is no other guest's. Empty:
	// it may call itself as it likes. A name that Config reserves for another
	// client stays that client's.
	Name string
}

// SetLive gives a guest what l says in the place of what it had. It outlives
// Reconfigure. The error is ErrTaken when Config reserves the address for
// another client, another guest has it, or it is leased to somebody else; it says
// so when no client of the link could have it. What Config reserves for the
// guest's MAC address stands before l.
func (s *engine) SetLive(l Live) error {
	if len(l.MAC) != hwAddrLen {
		return fmt.Errorf("%d bytes are not a MAC address, want %d", len(l.MAC), hwAddrLen)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	mac := hwAddr(l.MAC)
	had, known := s.live[mac]
	if known {
		s.dropLive(mac)
	}
	r := &Reservation{MAC: slices.Clone(l.MAC), Name: l.Name, Addr: l.Addr}
	if err := s.pool.admits(r, now); err != nil {
		if known {
			s.addLive(had)
		}
		return err
	}
	s.addLive(r)
	return nil
}

// DropLive takes back what SetLive gave to the guest, and ends its leases: it is
// gone. Their records stay, so that it gets the same addresses should it come
// back.
func (s *engine) DropLive(guest net.HardwareAddr) {
	if len(guest) != hwAddrLen {
		return
	}
	mac := hwAddr(guest)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	leases := s.pool.leasesOf(mac)
	var ch change
	for _, b := range leases {
		if b.lease.BoundAt(now) {
			s.end(&ch, b, now)
		}
	}
	if len(ch.writes) > 0 {
		s.enqueue(ch)
	}
	if _, known := s.live[mac]; known {
		s.dropLive(mac)
	}
	for _, b := range leases {
		s.forget(b)
	}
}

// addLive and dropLive change who has what, here and in the space. s.mu must be
// locked.
func (s *engine) addLive(r *Reservation) {
	if s.live == nil {
		s.live = make(map[hwAddr]*Reservation)
	}
	s.live[hwAddr(r.MAC)] = r
	s.pool.space.addLive(r)
	s.pool.reidentify(r)
}

func (s *engine) dropLive(mac hwAddr) {
	r := s.live[mac]
	delete(s.live, mac)
	s.pool.space.dropLive(r)
	s.pool.reidentify(r)
}

// reserveLive adds to a new space what guests have now; those who would take
// what the space gives to others go without. s.mu must be locked.
func (s *engine) reserveLive(sp *space) {
	for _, r := range s.live {
		if r.Addr.IsValid() && sp.byAddr[r.Addr] != nil {
			s.log.Warn("the address of a port is now reserved for another client", "ip", r.Addr, "mac", r.MAC.String())
			continue
		}
		sp.addLive(r)
	}
}

// admits returns why r can't be given to its client now.
func (pl *pool) admits(r *Reservation, now time.Time) error {
	a := r.Addr
	if !a.IsValid() {
		return nil
	}
	sp := pl.space
	if !sp.usable(a) {
		return fmt.Errorf("%v is no address for a guest of %v", a, sp.prefix)
	}
	if owner := sp.byAddr[a]; owner != nil && (owner.MAC == nil || hwAddr(owner.MAC) != hwAddr(r.MAC)) {
		return fmt.Errorf("%w: %v is reserved for %s", ErrTaken, a, owner.client())
	}
	if own := sp.byMAC[hwAddr(r.MAC)]; own != nil && own.Addr != a {
		return fmt.Errorf("%w: the network reserves %v for %v", ErrTaken, own.Addr, r.MAC)
	}
	b := pl.bindings[a]
	if b == nil || !b.lease.live(now) || string(b.lease.MAC) == string(r.MAC) {
		return nil
	}
	if b.lease.State == StateDeclined {
		return fmt.Errorf("%w: %v was found in use on the link", ErrTaken, a)
	}
	return fmt.Errorf("%w: %v is leased to %v", ErrTaken, a, b.lease.MAC)
}

// client tells for whom the reservation is.
func (r *Reservation) client() string {
	switch {
	case r.MAC != nil:
		return r.MAC.String()
	case len(r.DUID) > 0:
		return fmt.Sprintf("DUID %x", r.DUID)
	default:
		return r.Name
	}
}

// addLive makes r known, except where the network itself says something else.
func (p *space) addLive(r *Reservation) {
	mac := hwAddr(r.MAC)
	p.lives[mac] = r
	if r.Addr.IsValid() && p.byMAC[mac] == nil && p.byAddr[r.Addr] == nil {
		p.byMAC[mac], p.byAddr[r.Addr] = r, r
	}
	if label := strings.ToLower(r.Name); label != "" && p.byName[label] == nil {
		p.byName[label] = r
	}
}

// dropLive undoes addLive.
func (p *space) dropLive(r *Reservation) {
	mac := hwAddr(r.MAC)
	delete(p.lives, mac)
	if p.byMAC[mac] == r {
		delete(p.byMAC, mac)
	}
	if p.byAddr[r.Addr] == r {
		delete(p.byAddr, r.Addr)
	}
	if label := strings.ToLower(r.Name); p.byName[label] == r {
		delete(p.byName, label)
	}
}

// reidentify follows a change of what is reserved for the client of r: who it is
// (see space.key), and whether its address may be given to others.
func (pl *pool) reidentify(r *Reservation) {
	if !r.Addr.IsValid() {
		return
	}
	for _, b := range pl.leasesOf(hwAddr(r.MAC)) {
		pl.setLease(b, b.lease)
	}
	pl.mark(r.Addr)
}

// leasesOf lists the bindings whose leases are, or were, that machine's.
func (pl *pool) leasesOf(mac hwAddr) []*binding {
	var all []*binding
	for _, b := range pl.bindings {
		if string(b.lease.MAC) == string(mac[:]) {
			all = append(all, b)
		}
	}
	return all
}
