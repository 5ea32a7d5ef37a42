package v4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// Where the fields of a message stand (RFC 2131, section 2, figure 1).
const (
	opAt          = 0
	hwTypeAt      = 1
	hwLenAt       = 2
	transactionAt = 4
	flagsAt       = 10
	ciaddrAt      = 12
	giaddrAt      = 24
	chaddrAt      = 28
)

// usualOptions is how many options nearly all messages have room for without an allocation.
const usualOptions = 24

// message is a message as it came: fields and options are parts of the datagram. It is read here
// and not by the library since it is on the way of every client: the library copies what it
// reads into two dozen pieces of memory, here it is none. FuzzMessage holds that both
// understand the same.
type message struct {
	fixed   []byte // the part ahead of the options, header bytes
	rest    []byte // what is behind it
	options []received
	room    [usualOptions]received // of options
}

// received is an option of a message.
type received struct {
	code  code
	value []byte
}

// code is the number of an option.
type code uint8

// The codes with a meaning of their own (RFC 2132, section 3).
const (
	pad = code(0)
	end = code(255)
)

// read makes m the message in payload, of which it keeps parts.
func (m *message) read(payload []byte) error {
	if len(payload) < header {
		return errors.New("the message is cut off")
	}
	if cookie := binary.BigEndian.Uint32(payload[header-4:]); cookie != magicCookie {
		return errors.New("it does not have the magic cookie of DHCP")
	}
	m.fixed, m.rest, m.options = payload[:header:header], payload[header:], m.room[:0]
	m.add(m.rest)
	m.overload()
	return nil
}

// add adds the options that b begins with, up to the end option. RFC 2131, section 4.1: "The
// last option must always be the 'end' option"; small clients leave it out, or cut off the
// last option at the size that they have room for. What is whole counts.
//
// The same section: "The client concatenates the values of multiple instances of the same
// option into a single parameter list", as RFC 3396 has it.
func (m *message) add(b []byte) {
	for len(b) > 0 && code(b[0]) != end {
		if code(b[0]) == pad {
			b = b[1:]
			continue
		}
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return
		}
		size := 2 + int(b[1])
		if of, value := m.option(code(b[0])), b[2:size:size]; of != nil {
			of.value = append(of.value[:len(of.value):len(of.value)], value...)
		} else {
			m.options = append(m.options, received{code(b[0]), value})
		}
		b = b[size:]
	}
}

// overload adds the options that stand in the fields "file" and "sname".
//
// RFC 2131, section 4.1: "If the options in the 'options' field include the 'option
// overload' option, the client MUST use the 'file' field [...] next, followed by
// the 'sname' field." What is malformed there is left out.
func (m *message) overload() {
	v := m.value(code(dhcpv4.OptionOptionOverload), 1)
	if v == nil {
		return
	}
	// RFC 2132, section 9.3: 1 is the file field, 2 the sname field, 3 both.
	in := v[0]
	if in&1 != 0 {
		m.add(m.fixed[bootFileAt : bootFileAt+bootFileField])
	}
	if in&2 != 0 {
		m.add(m.fixed[serverFieldAt : serverFieldAt+serverField])
	}
}

// option returns the option of a code, nil when there is none.
func (m *message) option(c code) *received {
	for i := range m.options {
		if m.options[i].code == c {
			return &m.options[i]
		}
	}
	return nil
}

// has reports whether there is an option of a code, be it empty.
func (m *message) has(c code) bool { return m.option(c) != nil }

// get returns the value of an option, nil when it is absent or empty.
func (m *message) get(c code) []byte {
	if o := m.option(c); o != nil && len(o.value) > 0 {
		return o.value
	}
	return nil
}

// value returns that of an option that has always that size, nil when it is absent or
// shorter. What is more of it is another of its kind: RFC 3396 has them joined.
func (m *message) value(c code, size int) []byte {
	if v := m.get(c); len(v) >= size {
		return v[:size]
	}
	return nil
}

// addr returns the address in a field. It is the zero Addr when it is 0.0.0.0.
func (m *message) addr(at int) netip.Addr { return addrOf(m.fixed[at : at+4]) }

// flags returns the flags of which there is one, broadcastFlag.
func (m *message) flags() uint16 { return binary.BigEndian.Uint16(m.fixed[flagsAt:]) & broadcastFlag }

// card returns the hardware address.
func (m *message) card() dhcpd.HWAddr { return dhcpd.HWAddr(m.fixed[chaddrAt:]) }

// request is a client's message, understood.
type request struct {
	dhcpd.Client
	msg message
	// typ is MessageTypeNone for BOOTP.
	typ dhcpv4.MessageType
	// src is where the datagram came from; unicast whether it was sent to us alone. Its ends
	// are from and to.
	src     netip.Addr
	unicast bool
	from    netip.AddrPort
	to      netip.Addr
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

// parse understands d, or says why it is no message of a client on this link. What it returns
// has parts of d.
func parse(d dhcpd.Datagram, p *plan, now time.Time) (*request, error) {
	c := new(request)
	return c, c.read(d, p, now)
}

// read makes c what d asks for, as parse does.
func (c *request) read(d dhcpd.Datagram, p *plan, now time.Time) error {
	*c = request{Client: dhcpd.Client{Now: now, Via: d.From}, src: d.Src.Addr(), unicast: d.Dst == p.cfg.Server, from: d.Src, to: d.Dst}
	m := &c.msg
	if err := m.read(d.Payload); err != nil {
		return err
	}
	c.ciaddr, c.giaddr = m.addr(ciaddrAt), m.addr(giaddrAt)
	c.Requested = addrOf(m.value(code(dhcpv4.OptionRequestedIPAddress), net.IPv4len))
	c.serverID = addrOf(m.value(code(dhcpv4.OptionServerIdentifier), net.IPv4len))
	if t := m.value(code(dhcpv4.OptionDHCPMessageType), 1); t != nil {
		c.typ = dhcpv4.MessageType(t[0])
	}
	if err := c.checkHeader(p); err != nil {
		return err
	}
	c.MAC = m.card()
	return c.parseOptions()
}

// kept is c with a copy of what it has of its datagram, for later.
func (c *request) kept(p *plan) *request {
	datagram := slices.Concat(c.msg.fixed, c.msg.rest)
	k := new(request)
	_ = k.read(dhcpd.Datagram{Payload: datagram, Src: netip.AddrPortFrom(c.src, 0), From: c.Via}, p, c.Now) // as c was
	k.unicast = c.unicast
	k.Key, k.Group, k.Tags, k.Reserved = c.Key, c.Group, c.Tags, c.Reserved
	return k
}

// checkHeader says why the fixed part of the message is no client's.
func (c *request) checkHeader(p *plan) error {
	f := c.msg.fixed
	switch card := c.msg.card(); {
	case f[opAt] != byte(dhcpv4.OpcodeBootRequest):
		return fmt.Errorf("op is %d", f[opAt])
	case f[hwTypeAt] != byte(iana.HWTypeEthernet) || f[hwLenAt] != dhcpd.HWAddrLen:
		return errors.New("hardware type is not Ethernet")
	case card[0]&1 != 0:
		return errors.New("hardware address is a group")
	case card == dhcpd.HWAddr{}:
		return errors.New("hardware address is zero")
	case c.giaddr.IsValid() && (c.giaddr != c.src || !p.Usable(c.giaddr)):
		// A relay's reply goes where the message says. On one link that is nobody
		// but its sender.
		return fmt.Errorf("relay %v is not the sender", c.giaddr)
	default:
		return nil
	}
}

// parseOptions understands the options that say who asks for what.
func (c *request) parseOptions() error {
	m := &c.msg
	// RFC 2132, section 9.14: the identifier has two bytes at least.
	if id := m.get(code(dhcpv4.OptionClientIdentifier)); len(id) > dhcpd.MaxClientID {
		return errors.New("client identifier is too long")
	} else if len(id) >= 2 {
		c.ID = id
	}
	if t := m.value(code(dhcpv4.OptionIPAddressLeaseTime), 4); t != nil {
		c.asked = time.Duration(binary.BigEndian.Uint32(t)) * time.Second
	}
	c.rapid = c.typ == dhcpv4.MessageTypeDiscover && m.has(code(dhcpv4.OptionRapidCommit))
	if raw := m.get(code(dhcpv4.OptionHostName)); raw != nil {
		c.Name, c.Named = dhcpd.ParseName(raw), true
	}
	// RFC 4702, section 3.1: where a client sends both, the FQDN counts.
	if raw := m.get(code(dhcpv4.OptionFQDN)); len(raw) >= 3 {
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
func addrOf(b []byte) netip.Addr {
	if len(b) != net.IPv4len {
		return netip.Addr{}
	}
	a := netip.AddrFrom4([4]byte(b))
	if a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}
