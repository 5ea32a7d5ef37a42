package dhcpd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Range is a part of the pool, both ends included. The network's, broadcast's
// and our own address in it are never given away.
type Range struct {
	Start, End netip.Addr
	// LeaseTime is the lease time of addresses in the range. 0: that of Config.
	LeaseTime time.Duration
}

// Reservation is what one client is given: an address that is set aside for it, in a
// range or not, a name, a lease time, tags; or nothing at all.
type Reservation struct {
	// MAC is the client. Nil: unknown.
	MAC net.HardwareAddr
	// Mask has a zero for each byte of MAC that may be any, which makes it several
	// clients: an address is for the one that comes first. Nil: none may.
	Mask []byte
	// Cards are the other hardware addresses of the client, one of which is used at a
	// time: the address goes over to the one that asks.
	Cards []Card
	// DUID is the client's DHCP unique identifier (RFC 8415, section 11), in DHCPv4
	// its client identifier (option 61). Empty: unknown. Without MAC and DUID, the
	// client that sends Name has the reservation.
	DUID []byte
	// Name is the client's host name: with a MAC or DUID it overrides what the
	// client says and may be empty; without them it is compared, ignoring case, with the
	// name in options 12 and 81, plain or with the network's domain.
	Name string
	// Addr is what the client gets. Zero: any.
	Addr netip.Addr
	// LeaseTime is the lease time. 0: that of the range or of Config.
	LeaseTime time.Duration
	// Tags are those that the client must have: else the reservation is none of its own.
	Tags []string
	// Set are the tags that the client gets.
	Set []string
	// Ignore has the client get no answers.
	Ignore bool
	// NoID has the client known by its hardware address alone, as with ByMAC.
	NoID bool
}

// Card is a hardware address, with a zero in Mask for each byte that may be any, if that
// is not nil.
type Card struct {
	MAC  net.HardwareAddr
	Mask []byte
}

// fits reports whether a client has that hardware address.
func (c *Card) fits(mac HWAddr) bool {
	for i, b := range c.MAC {
		if (c.Mask == nil || c.Mask[i] != 0) && b != mac[i] {
			return false
		}
	}
	return c.MAC != nil
}

// cards are all hardware addresses of the client.
func (r *Reservation) cards() []Card {
	if r.MAC == nil {
		return nil
	}
	return append([]Card{{r.MAC, r.Mask}}, r.Cards...)
}

// has reports whether that hardware address is the client's, named as a whole.
func (r *Reservation) has(mac []byte) bool {
	return slices.ContainsFunc(r.cards(), func(c Card) bool { return c.Mask == nil && bytes.Equal(c.MAC, mac) })
}

// fits reports whether c is the client of r, whatever tags it has.
func (r *Reservation) fits(c *Client, domain string) bool {
	if r.ByName() {
		return r.Name != "" && strings.EqualFold(ParseName([]byte(r.Name)).Label, c.Name.Label) && c.Name.inDomain(domain)
	}
	return len(r.DUID) > 0 && c.identifies(r.DUID) || slices.ContainsFunc(r.cards(), func(card Card) bool { return card.fits(c.MAC) })
}

// validate returns the first fault of r as a part of p.
func (r *Range) validate(p netip.Prefix) error {
	switch {
	case !p.Contains(r.Start) || !p.Contains(r.End):
		return fmt.Errorf("%v-%v is not in %v", r.Start, r.End, p)
	case r.End.Less(r.Start):
		return fmt.Errorf("%v-%v ends before it starts", r.Start, r.End)
	case r.LeaseTime < 0:
		return errors.New("lease time: negative")
	default:
		return nil
	}
}

// Validate returns the first fault of r as the reservation of an IPv6 address, or else
// of an IPv4 address.
func (r *Reservation) Validate(v6 bool) error {
	switch {
	case r.ByName() && r.Name == "":
		return errors.New("neither identifier nor mac nor name")
	case r.MAC == nil && len(r.Cards) > 0:
		return errors.New("mac: missing, want the first of several")
	case slices.ContainsFunc(r.cards(), func(c Card) bool { return len(c.MAC) != HWAddrLen || c.Mask != nil && len(c.Mask) != HWAddrLen }):
		return fmt.Errorf("mac: want %d bytes, and as many of its mask", HWAddrLen)
	case len(r.DUID) > MaxClientID:
		return fmt.Errorf("identifier: longer than %d bytes", MaxClientID)
	case r.LeaseTime < 0:
		return errors.New("lease time: negative")
	case !r.Addr.IsValid():
		return nil
	case v6 && !Is6(r.Addr):
		return fmt.Errorf("address: %v is not an IPv6 address", r.Addr)
	case !v6 && !r.Addr.Is4():
		return fmt.Errorf("address: %v is not an IPv4 address", r.Addr)
	default:
		return nil
	}
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

// Is6 reports whether a is an IPv6 address and no IPv4 address in disguise.
func Is6(a netip.Addr) bool { return a.Is6() && !a.Is4In6() }

// searched is how many addresses of one range are searched for a free one: more
// than can ever be leased. A client that asks gets those beyond, too.
const searched = 1 << 40

// len returns the number of addresses in r, at most searched.
func (r *Range) len() uint64 { return min(distance(r.Start, r.End), searched-1) + 1 }

func (r *Range) contains(a netip.Addr) bool { return !a.Less(r.Start) && !r.End.Less(a) }

// ByName reports whether the client of r is whoever has its name.
func (r *Reservation) ByName() bool { return r.MAC == nil && len(r.DUID) == 0 }

// distance returns how many addresses b lies behind a, of the same family and not
// less; the largest uint64 when it is more.
func distance(a, b netip.Addr) uint64 {
	x, y := a.As16(), b.As16()
	be := binary.BigEndian
	hi, lo := be.Uint64(y[:])-be.Uint64(x[:]), be.Uint64(y[8:])-be.Uint64(x[8:])
	if be.Uint64(y[8:]) < be.Uint64(x[8:]) {
		hi--
	}
	if hi != 0 {
		return ^uint64(0)
	}
	return lo
}

// advance returns the address n behind a.
func advance(a netip.Addr, n uint64) netip.Addr {
	b := a.As16()
	be := binary.BigEndian
	lo := be.Uint64(b[8:])
	if lo+n < lo {
		be.PutUint64(b[:], be.Uint64(b[:])+1)
	}
	be.PutUint64(b[8:], lo+n)
	if a.Is4() {
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return netip.AddrFrom16(b)
}
