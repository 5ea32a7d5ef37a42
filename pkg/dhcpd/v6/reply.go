package v6

import (
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// UDP ports (RFC 8415, section 7.2).
const (
	serverPort = 547
	clientPort = 546
)

// refreshTime is how long a client that asked for options alone may keep them.
const refreshTime = 24 * time.Hour

// lifetimes returns a and its lifetimes as an IA is given them. A client may ask for
// less than what is configured.
//
// RFC 8415, section 21.6: the preferred lifetime is not longer than the valid one.
func (p *plan) lifetimes(ia *identityAssoc, r *dhcpd.Reservation, a netip.Addr) iaAddr {
	var asked iaAddr
	for _, o := range ia.addrs {
		if o.addr == a || o.addr.IsUnspecified() {
			asked = o
			break
		}
	}
	l := iaAddr{addr: a, valid: p.LeaseTime(a, r, asked.valid)}
	l.preferred = l.valid
	if asked.preferred != 0 {
		l.preferred = min(l.valid, max(asked.preferred, dhcpd.MinLeaseTime))
	}
	return l
}

// reply returns a reply to c with opts behind the identifiers.
//
// RFC 8415, section 18.3.10: "The server MUST send the Advertise and Reply
// messages to the source address of the client's datagram, or back through the
// relays."
func (p *plan) reply(c *request, typ dhcpv6.MessageType, opts options) *dhcpd.Reply {
	head := options{{dhcpv6.OptionServerID, p.duid}}
	if len(c.DUID) > 0 {
		head = append(options{{dhcpv6.OptionClientID, c.DUID}}, head...)
	}
	payload := append([]byte{byte(typ)}, c.transaction[:]...)
	payload = append(payload, append(head, opts...).bytes()...)
	out := &dhcpd.Reply{Type: uint8(typ), Payload: payload, Dst: netip.AddrPortFrom(c.src.Addr(), clientPort)}
	if len(c.relays) > 0 {
		out.Payload = wrap(payload, c.relays)
		out.Dst = netip.AddrPortFrom(c.src.Addr(), serverPort)
	}
	return out
}
