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

// reply returns a reply to c with opts behind the identifiers. The engine must be locked.
//
// RFC 8415, section 18.3.10: "The server MUST send the Advertise and Reply
// messages to the source address of the client's datagram, or back through the
// relays."
func (p *plan) reply(c *request, typ dhcpv6.MessageType, opts options) *dhcpd.Reply {
	ids := options{{dhcpv6.OptionClientID, c.DUID}, {dhcpv6.OptionServerID, p.duid}}
	if len(c.DUID) == 0 {
		ids = ids[1:]
	}
	out := dhcpd.NewReply()
	out.Type, out.Dst = uint8(typ), netip.AddrPortFrom(c.src.Addr(), clientPort)
	message := func(b []byte) []byte {
		return opts.appendTo(ids.appendTo(append(append(b, byte(typ)), c.transaction[:]...)))
	}
	if len(c.relays) == 0 {
		out.Payload = message(out.Payload)
		return out
	}
	p.scratch = message(p.scratch[:0])
	out.Payload = wrap(out.Payload, p.scratch, c.relays)
	out.Dst = netip.AddrPortFrom(c.src.Addr(), serverPort)
	return out
}
