package dhcpd

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// ClientKey is who a client is, or what several have in common, see Scope.Key and
// Scope.IAKey. It can be compared; its content has no other meaning.
type ClientKey string

// Client is who asks for an address.
type Client struct {
	Now time.Time
	// Via is where its message came from.
	Via Sender
	// Key is who the client is, Group what it has in common with those that may be the
	// same machine, see Pool.Recognise. Group decides where in the pool the search for an address
	// begins.
	Key, Group ClientKey
	// MAC is the client's hardware address, all zero when DHCPv6 can't know it.
	// Guessed says that nobody was seen to have it: its DUID is made of it.
	MAC     HWAddr
	Guessed bool
	// DUID is empty in DHCPv4.
	DUID []byte
	// ID is what the client calls itself in DHCPv4 (option 61), empty when absent or
	// meaningless.
	ID []byte
	// Tags are those that the client has without its reservation, nil where none matters.
	Tags Tags
	// Requested is the address that the client would like, zero for none.
	Requested netip.Addr
	// Name is the client's own; named whether it sent one at all, usable or not.
	Name  Name
	Named bool
	// Reserved is the client's reservation, nil when it has none.
	Reserved *Reservation
}

// identifies reports whether c calls itself id: by its DUID, or in DHCPv4 by an identifier,
// before which some clients put a zero, for no type.
func (c *Client) identifies(id []byte) bool {
	if len(c.DUID) > 0 {
		return bytes.Equal(c.DUID, id)
	}
	return bytes.Equal(c.ID, id) || len(c.ID) > 0 && c.ID[0] == 0 && bytes.Equal(c.ID[1:], id)
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

// ByName reports whether the client of r is whoever has its name.
func (r *Reservation) ByName() bool { return r.MAC == nil && len(r.DUID) == 0 }

// reserve adds what a client has that is known by r, which may be nil.
func (t Tags) reserve(r *Reservation) {
	if r == nil {
		return
	}
	t["known"] = true
	for _, tag := range r.Set {
		t[tag] = true
	}
}
