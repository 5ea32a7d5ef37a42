package v4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// request is a client's message, understood.
type request struct {
	dhcpd.Client
	msg *dhcpv4.DHCPv4
	// typ is MessageTypeNone for BOOTP.
	typ dhcpv4.MessageType
	// src is where the datagram came from; unicast whether it was sent to us alone.
	src     netip.Addr
	unicast bool
	// Addresses that the client sent; the zero Addr where absent or 0.0.0.0.
	ciaddr, giaddr, serverID netip.Addr
	// asked is option 51, 0 when absent.
	asked time.Duration
	// fqdn is option 81, nil when absent or malformed.
	fqdn *fqdn
	// rapid: the client takes an address at once (option 80).
	rapid bool
}

// fqdn is the Client FQDN option (RFC 4702, section 2).
type fqdn struct {
	flags byte
	name  dhcpd.Name
}

// parse understands d, or says why it is no message of a client on this link.
func parse(d dhcpd.Datagram, p *plan, now time.Time) (*request, error) {
	m, err := dhcpv4.FromBytes(ended(d.Payload))
	if err != nil {
		return nil, err
	}
	overload(m, d.Payload)
	c := &request{
		Client: dhcpd.Client{Now: now, Via: d.From, Requested: addrOf(fixed(m, dhcpv4.OptionRequestedIPAddress, net.IPv4len))},
		msg:    m, src: d.Src.Addr(), unicast: d.Dst == p.cfg.Server,
		ciaddr: addrOf(m.ClientIPAddr), giaddr: addrOf(m.GatewayIPAddr),
		serverID: addrOf(fixed(m, dhcpv4.OptionServerIdentifier, net.IPv4len)),
	}
	if t := fixed(m, dhcpv4.OptionDHCPMessageType, 1); t != nil {
		c.typ = dhcpv4.MessageType(t[0])
	}
	if err := c.checkHeader(p); err != nil {
		return nil, err
	}
	c.MAC = dhcpd.HWAddr(m.ClientHWAddr)
	if err := c.parseOptions(); err != nil {
		return nil, err
	}
	c.Seed = c.MAC[:]
	return c, nil
}

// checkHeader says why the fixed part of the message is no client's.
func (c *request) checkHeader(p *plan) error {
	m := c.msg
	switch {
	case m.OpCode != dhcpv4.OpcodeBootRequest:
		return fmt.Errorf("op is %d", m.OpCode)
	case m.HWType != iana.HWTypeEthernet || len(m.ClientHWAddr) != dhcpd.HWAddrLen:
		return errors.New("hardware type is not Ethernet")
	case m.ClientHWAddr[0]&1 != 0:
		return errors.New("hardware address is a group")
	case dhcpd.HWAddr(m.ClientHWAddr) == dhcpd.HWAddr{}:
		return errors.New("hardware address is zero")
	case c.giaddr.IsValid() && (c.giaddr != c.src || !p.Usable(c.giaddr)):
		// A relay's reply goes where the message says. On one link that is nobody
		// but its sender.
		return fmt.Errorf("relay %v is not the sender", c.giaddr)
	default:
		return nil
	}
}

// ended returns a message whose options have an end. RFC 2131, section 4.1: "The last
// option must always be the 'end' option"; small clients leave it out, or cut off the
// last option at the size that they have room for. What is whole counts.
func ended(payload []byte) []byte {
	at := header
	for at < len(payload) {
		switch code := payload[at]; {
		case code == dhcpv4.OptionEnd.Code():
			return payload
		case code == dhcpv4.OptionPad.Code():
			at++
			continue
		}
		if at+1 == len(payload) || at+2+int(payload[at+1]) > len(payload) {
			payload = payload[:at]
			break
		}
		at += 2 + int(payload[at+1])
	}
	if len(payload) < header {
		return payload
	}
	return append(payload[:at:at], dhcpv4.OptionEnd.Code())
}

// fixed returns the value of an option that has always that size, nil when it is absent
// or shorter. What is more of it is another of its kind: RFC 3396 has them joined.
func fixed(m *dhcpv4.DHCPv4, code dhcpv4.OptionCode, size int) []byte {
	if v := m.Options.Get(code); len(v) >= size {
		return v[:size]
	}
	return nil
}

// overload adds the options that stand in the fields "file" and "sname".
//
// RFC 2131, section 4.1: "If the options in the 'options' field include the 'option
// overload' option, the client MUST use the 'file' field [...] next, followed by
// the 'sname' field." What is malformed there is left out.
func overload(m *dhcpv4.DHCPv4, payload []byte) {
	v := fixed(m, dhcpv4.OptionOptionOverload, 1)
	if v == nil {
		return
	}
	// RFC 2132, section 9.3: 1 is the file field, 2 the sname field, 3 both.
	if v[0]&1 != 0 {
		_ = m.Options.FromBytes(payload[bootFileAt : bootFileAt+bootFileField])
	}
	if v[0]&2 != 0 {
		_ = m.Options.FromBytes(payload[serverFieldAt : serverFieldAt+serverField])
	}
}

// parseOptions understands the options that say who asks for what.
func (c *request) parseOptions() error {
	o := c.msg.Options
	// RFC 2132, section 9.14: the identifier has two bytes at least.
	if id := o.Get(dhcpv4.OptionClientIdentifier); len(id) > dhcpd.MaxClientID {
		return errors.New("client identifier is too long")
	} else if len(id) >= 2 {
		c.ID = id
	}
	if t := fixed(c.msg, dhcpv4.OptionIPAddressLeaseTime, 4); t != nil {
		c.asked = time.Duration(binary.BigEndian.Uint32(t)) * time.Second
	}
	c.rapid = c.typ == dhcpv4.MessageTypeDiscover && o.Has(dhcpv4.OptionRapidCommit)
	if raw := o.Get(dhcpv4.OptionHostName); raw != nil {
		c.Name, c.Named = dhcpd.ParseName(raw), true
	}
	// RFC 4702, section 3.1: where a client sends both, the FQDN counts.
	if raw := o.Get(dhcpv4.OptionFQDN); len(raw) >= 3 {
		c.fqdn = parseFQDN(raw)
		if c.fqdn.name.Label != "" {
			c.Name, c.Named = c.fqdn.name, true
		}
	}
	return nil
}

// parseFQDN understands the value of option 81, at least three bytes.
func parseFQDN(raw []byte) *fqdn {
	f := &fqdn{flags: raw[0]}
	// RFC 4702, section 2.2: the two RCODE bytes are obsolete and ignored.
	name := raw[3:]
	if f.flags&dhcpd.FQDNEncoded != 0 {
		name = dhcpd.FromLabels(name)
	}
	f.name = dhcpd.ParseName(name)
	return f
}

// addrOf returns the IPv4 address in b. It is the zero Addr when there is none or it
// is 0.0.0.0.
func addrOf(b net.IP) netip.Addr {
	if len(b) != net.IPv4len {
		return netip.Addr{}
	}
	a := netip.AddrFrom4([4]byte(b))
	if a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}
