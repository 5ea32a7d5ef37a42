package dhcpd

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// DynamicReservation is what one guest has for as long as it is there: an address, a name, or
// both. Unlike Reservations, which Config lists, it comes and goes alone.
type DynamicReservation struct {
	// MAC is the guest.
	MAC net.HardwareAddr
	// Addr is set aside for it. Zero: it gets any.
	Addr netip.Addr
	// Name overrides what the guest calls itself, and is no other guest's. Empty:
	// it may call itself as it likes. A name that Config reserves for another
	// client stays that client's.
	Name string
}

// SetDynamic gives a guest what l says in the place of what it had. It outlives
// Reconfigure. The error is ErrTaken when Config reserves the address for
// another client, another guest has it, or it is leased to somebody else; it says
// so when no client of the link could have it. What Config reserves for the
// guest's MAC address stands before l.
func (s Server) SetDynamic(l DynamicReservation) error {
	if len(l.MAC) != HWAddrLen {
		return fmt.Errorf("%d bytes are not a MAC address, want %d", len(l.MAC), HWAddrLen)
	}
	e := s.engine
	e.Lock()
	defer e.Unlock()
	now := time.Now()
	mac := HWAddr(l.MAC)
	had, known := e.dynamic[mac]
	if known {
		e.dropDynamic(mac)
	}
	r := &Reservation{MAC: slices.Clone(l.MAC), Name: l.Name, Addr: l.Addr}
	if err := e.Pool.admits(r, now); err != nil {
		if known {
			e.addDynamic(had)
		}
		return err
	}
	e.addDynamic(r)
	return nil
}

// DropDynamic takes back what SetDynamic gave to the guest, and ends its leases: it is
// gone. Their records stay, so that it gets the same addresses should it come
// back.
func (s Server) DropDynamic(guest net.HardwareAddr) {
	if len(guest) != HWAddrLen {
		return
	}
	mac := HWAddr(guest)
	e := s.engine
	e.Lock()
	defer e.Unlock()
	now := time.Now()
	leases := e.Pool.leasesOf(mac)
	var ch Change
	for _, b := range leases {
		if b.BoundAt(now) {
			ch.End(e.Pool.Bindings, b, now)
		}
	}
	if !ch.Empty() {
		e.Enqueue(ch)
	}
	if _, known := e.dynamic[mac]; known {
		e.dropDynamic(mac)
	}
	for _, b := range leases {
		e.forget(b)
	}
}

// WithdrawDynamic takes back what SetDynamic gave to the guest, of which nothing else
// is known: its leases run on.
func (s Server) WithdrawDynamic(guest net.HardwareAddr) {
	if len(guest) != HWAddrLen {
		return
	}
	s.engine.Lock()
	defer s.engine.Unlock()
	if mac := HWAddr(guest); s.engine.dynamic[mac] != nil {
		s.engine.dropDynamic(mac)
	}
}
