package dhcpd

import (
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
)

// UDP ports (RFC 8415, section 7.2).
const (
	serverPort6 = 547
	clientPort6 = 546
)

// refreshTime is how long a client that asked for options alone may keep them.
const refreshTime = 24 * time.Hour

// lifetimes are those of an address that an IA is given. A client may ask for
// less than what is configured.
//
// RFC 8415, section 21.6: the preferred lifetime is not longer than the valid one.
func (p *plan6) lifetimes(ia *ia6, a netip.Addr) iaAddr {
	var asked iaAddr
	for _, o := range ia.addrs {
		if o.addr == a || o.addr.IsUnspecified() {
			asked = o
			break
		}
	}
	l := iaAddr{addr: a, valid: p.leaseTime(a, asked.valid)}
	l.preferred = l.valid
	if asked.preferred != 0 {
		l.preferred = min(l.valid, max(asked.preferred, minLeaseTime))
	}
	return l
}

// linkOptions are those that tell a client of the link.
func (p *plan6) linkOptions(c *request6, hostname string) options6 {
	var opts options6
	if len(p.cfg.DNS) > 0 && c.wants(dhcpv6.OptionDNSRecursiveNameServer) {
		opts = append(opts, option6{dhcpv6.OptionDNSRecursiveNameServer, addrs(p.cfg.DNS)})
	}
	if domain := strings.Trim(p.cfg.Domain, "."); validDomain(domain) && c.wants(dhcpv6.OptionDomainSearchList) {
		opts = append(opts, option6{dhcpv6.OptionDomainSearchList, toLabels(domain)})
	}
	if c.typ == dhcpv6.MessageTypeInformationRequest {
		opts = append(opts, option6{dhcpv6.OptionInformationRefreshTime, seconds(refreshTime)})
	}
	// RFC 4704, section 6: a client that sent the option gets it back.
	if c.fqdn != nil && hostname != "" {
		value := append([]byte{fqdnAnswer(c.fqdn.flags)}, toLabels(qualified(hostname, p.cfg.Domain))...)
		opts = append(opts, option6{dhcpv6.OptionFQDN, value})
	}
	return opts
}

// reply is a reply to c with opts behind the identifiers.
//
// RFC 8415, section 18.3.10: "The server MUST send the Advertise and Reply
// messages to the source address of the client's datagram, or back through the
// relays."
func (p *plan6) reply(c *request6, typ dhcpv6.MessageType, opts options6) *outgoing {
	head := options6{{dhcpv6.OptionServerID, p.duid}}
	if len(c.duid) > 0 {
		head = append(options6{{dhcpv6.OptionClientID, c.duid}}, head...)
	}
	payload := append([]byte{byte(typ)}, c.transaction[:]...)
	payload = append(payload, append(head, opts...).bytes()...)
	out := &outgoing{typ: uint8(typ), payload: payload, dst: netip.AddrPortFrom(c.src.Addr(), clientPort6)}
	if len(c.relays) > 0 {
		out.payload = wrap(payload, c.relays)
		out.dst = netip.AddrPortFrom(c.src.Addr(), serverPort6)
	}
	return out
}
