package dhcpd

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Sizes of messages. RFC 2131, section 2: a client "must be prepared to receive
// DHCP messages with an 'options' field of at least length 312 octets", a
// datagram of 576 bytes in all.
const (
	minDatagram  = 576
	maxDatagram  = 1500
	ipUDPHeaders = 28
	header4      = 240 // fixed part of a message, with the cookie
	bootpVendor  = 64  // RFC 951's vendor area
)

// option4 is one option of a reply.
type option4 struct {
	code  dhcpv4.OptionCode
	value []byte
	// always: sent even to a client whose parameter request list omits it.
	always bool
}

// lease4 is what a reply says of an address.
type lease4 struct {
	addr     netip.Addr
	time     time.Duration
	hostname string // empty: not sent
}

// leaseOptions are those of an OFFER or ACK, in the order of their importance.
// They are what dnsmasq, set up by libvirt, sends.
func (p *plan) leaseOptions(c *request, l lease4) []option4 {
	opts := []option4{{dhcpv4.OptionIPAddressLeaseTime, seconds(l.time), true}}
	if l.time < Infinite {
		// RFC 2131, section 4.4.5: "T1 defaults to (0.5 * duration_of_lease). T2
		// defaults to (0.875 * duration_of_lease)."
		opts = append(opts,
			option4{dhcpv4.OptionRenewTimeValue, seconds(l.time / 2), true},
			option4{dhcpv4.OptionRebindingTimeValue, seconds(l.time * 7 / 8), true})
	}
	return append(opts, p.linkOptions(c, l.hostname)...)
}

// linkOptions are those that tell a client of the link. Absent ones are left
// out.
func (p *plan) linkOptions(c *request, hostname string) []option4 {
	opts := []option4{
		{dhcpv4.OptionSubnetMask, net.CIDRMask(p.cfg.Prefix.Bits(), 32), true},
		{dhcpv4.OptionBroadcastAddress, broadcastOf(p.cfg.Prefix).AsSlice(), true},
		{dhcpv4.OptionRouter, p.cfg.Router.AsSlice(), false},
		{dhcpv4.OptionDomainNameServer, addrs(p.cfg.DNS), false},
		{dhcpv4.OptionDomainName, []byte(p.cfg.Domain), false},
		{dhcpv4.OptionHostName, []byte(hostname), false},
	}
	if p.cfg.MTU != 0 {
		opts = append(opts, option4{dhcpv4.OptionInterfaceMTU, binary.BigEndian.AppendUint16(nil, uint16(p.cfg.MTU)), false})
	}
	// RFC 4702, section 4: a client that sent the option gets it back, whether its
	// parameter request list names it or not.
	if c.fqdn != nil && hostname != "" {
		opts = append(opts, option4{dhcpv4.OptionFQDN, c.fqdn.reply(hostname, p.cfg.Domain), true})
	}
	return slices.DeleteFunc(opts, func(o option4) bool { return len(o.value) == 0 })
}

// reply is the value of the Client FQDN option that answers f.
func (f *fqdn4) reply(hostname, domain string) []byte {
	// RFC 4702, section 4: the RCODE bytes are 255.
	value := []byte{f.flags&fqdnEncoded | fqdnAnswer(f.flags), 255, 255}
	name := qualified(hostname, domain)
	if f.flags&fqdnEncoded == 0 {
		return append(value, name...)
	}
	return append(value, toLabels(name)...)
}

// fqdnAnswer are the flags S and O that answer a client's Client FQDN option.
//
// RFC 4702, section 4, and RFC 4704, section 6: S says that we publish the
// address, O that the client wanted otherwise.
func fqdnAnswer(asked byte) byte {
	if asked&fqdnServerUpdates == 0 {
		return fqdnServerUpdates | fqdnOverride
	}
	return fqdnServerUpdates
}

// wanted leaves out the options that the client does not ask for.
//
// RFC 2131, section 4.3.1 has the server send the parameters of the list where
// it has a value. Without a list everything is sent.
func (c *request) wanted(opts []option4) []option4 {
	list := c.msg.Options.Get(dhcpv4.OptionParameterRequestList)
	if list == nil {
		return opts
	}
	return slices.DeleteFunc(opts, func(o option4) bool {
		return !o.always && !slices.Contains(list, o.code.Code())
	})
}

// room is how many bytes of options the client can receive.
//
// RFC 2132, section 9.10: the option "specifies the maximum length DHCP message
// that it is willing to accept. [...] The minimum legal value is 576 octets."
func (c *request) room() int {
	if c.typ == dhcpv4.MessageTypeNone {
		return bootpVendor - 4 - 1
	}
	size := minDatagram
	if v := c.msg.Options.Get(dhcpv4.OptionMaximumDHCPMessageSize); len(v) == 2 {
		size = min(max(size, int(binary.BigEndian.Uint16(v))), maxDatagram)
	}
	return size - ipUDPHeaders - header4 - 1 // the end option
}

// encode makes the option field of a reply from opts: as many as fit into room,
// the first ones first.
func encode(opts []option4, room int) dhcpv4.Options {
	field := make(dhcpv4.Options, len(opts))
	for _, o := range opts {
		size := len(o.value) + 2*((len(o.value)+254)/255)
		if size > room {
			continue
		}
		room -= size
		field[o.code.Code()] = o.value
	}
	return field
}

// seconds is d as option 51, 58 or 59. Infinite is 0xffffffff.
func seconds(d time.Duration) []byte {
	return binary.BigEndian.AppendUint32(nil, uint32(d/time.Second))
}

// addrs is a list of addresses as an option.
func addrs(list []netip.Addr) []byte {
	var b []byte
	for _, a := range list {
		b = append(b, a.AsSlice()...)
	}
	return b
}
