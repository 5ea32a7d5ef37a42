package dhcpd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
)

// maxIAs is how many identity associations of a message count, and how many
// addresses of each.
const maxIAs = 8

// request6 is a DHCPv6 client's message, understood. Its client has no key: each
// IA makes one.
type request6 struct {
	client
	typ         dhcpv6.MessageType
	transaction [3]byte
	options     options6
	relays      []relay6
	src         netip.AddrPort
	// unicast: the datagram was sent to us alone, by no relay.
	unicast bool
	ias     []ia6
	fqdn    *fqdn4 // option 39, nil when absent
	oro     []byte // option 6, nil when absent
}

// rule6 is what a message type asks of a message (RFC 8415, section 16).
type rule6 struct {
	anonymous bool // the client identifier may be absent
	ours      bool // our server identifier must be there
	any       bool // a server identifier may be there
	unicast   bool // unicast gets an answer
}

// ruleOf is the rule of the messages that a server receives.
func ruleOf(typ dhcpv6.MessageType) (rule6, bool) {
	switch typ {
	case dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeConfirm, dhcpv6.MessageTypeRebind:
		return rule6{}, true
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeDecline, dhcpv6.MessageTypeRelease:
		return rule6{ours: true, unicast: true}, true
	case dhcpv6.MessageTypeInformationRequest:
		return rule6{anonymous: true, any: true}, true
	default:
		return rule6{}, false
	}
}

// errOtherServer says that a message is meant for another server.
var errOtherServer = errors.New("for another server")

// parse6 understands d, or says why it is no message of a client on this link.
func parse6(d datagram, p *plan6, now time.Time) (*request6, error) {
	b, relays, err := unwrap(d.payload)
	if err != nil {
		return nil, err
	}
	if len(b) < header6 {
		return nil, errors.New("the message is cut off")
	}
	c := &request6{
		client: client{now: now}, typ: dhcpv6.MessageType(b[0]), transaction: [3]byte(b[1:4]),
		relays: relays, src: d.src, unicast: !d.dst.IsMulticast() && len(relays) == 0,
	}
	if c.options, err = parseOptions6(b[header6:]); err != nil {
		return nil, err
	}
	if err := c.checkSource(p); err != nil {
		return nil, err
	}
	if err := c.parseOptions(p); err != nil {
		return nil, err
	}
	c.reserved = p.reservation(&c.client)
	return c, nil
}

// checkSource says why the message can't come from this link. Replies go to the
// source and must not leave the link.
func (c *request6) checkSource(p *plan6) error {
	if src := c.src.Addr(); !src.IsLinkLocalUnicast() && !p.prefix.Contains(src) {
		return fmt.Errorf("source %v is not on the link", src)
	}
	for _, r := range c.relays {
		if !r.link.IsUnspecified() && !r.link.IsLinkLocalUnicast() && !p.prefix.Contains(r.link) {
			return fmt.Errorf("relay's link %v is not this one", r.link)
		}
	}
	return nil
}

// parseOptions understands the options and checks them by the rule of the type.
func (c *request6) parseOptions(p *plan6) error {
	rule, known := ruleOf(c.typ)
	if !known {
		return fmt.Errorf("message type is %v", c.typ)
	}
	// RFC 8415, section 16: "A server MUST discard any Solicit, Confirm, Rebind, or
	// Information-request messages it receives with a Layer 3 unicast destination
	// address."
	if c.unicast && !rule.unicast {
		return errors.New("unicast")
	}
	if err := c.checkIdentifiers(rule, p.duid); err != nil {
		return err
	}
	c.mac = c.hardware(c.duid)
	c.oro, _ = c.options.get(dhcpv6.OptionORO)
	c.parseName()
	return c.parseIAs()
}

// checkIdentifiers checks the client's identifier and the server's, which is to be
// ours.
func (c *request6) checkIdentifiers(rule rule6, duid []byte) error {
	id, identified := c.options.get(dhcpv6.OptionClientID)
	server, addressed := c.options.get(dhcpv6.OptionServerID)
	c.duid = id
	switch {
	case identified && (len(id) < 3 || len(id) > maxDUID):
		return fmt.Errorf("DUID is %d bytes long", len(id))
	case !identified && !rule.anonymous:
		return errors.New("client identifier is missing")
	case !addressed && rule.ours:
		return errors.New("server identifier is missing")
	case addressed && !rule.ours && !rule.any:
		return errors.New("server identifier in a message to all")
	case addressed && !bytes.Equal(server, duid):
		return errOtherServer
	default:
		return nil
	}
}

// parseName understands the Client FQDN option (RFC 4704, section 4).
func (c *request6) parseName() {
	raw, ok := c.options.get(dhcpv6.OptionFQDN)
	if !ok || len(raw) == 0 {
		return
	}
	c.fqdn = &fqdn4{flags: raw[0], name: parseName(fromLabels(raw[1:]))}
	c.name, c.named = c.fqdn.name, true
}

// parseIAs collects the identity associations.
func (c *request6) parseIAs() error {
	for _, o := range c.options {
		switch o.code {
		case dhcpv6.OptionIANA, dhcpv6.OptionIATA, dhcpv6.OptionIAPD:
		default:
			continue
		}
		ia, err := parseIA(o.code, o.value)
		if err != nil {
			return err
		}
		if len(c.ias) < maxIAs {
			c.ias = append(c.ias, ia)
		}
	}
	// RFC 8415, section 16.12: an Information-request "includes an IA option" is
	// discarded.
	if c.typ == dhcpv6.MessageTypeInformationRequest && len(c.ias) > 0 {
		return errors.New("an IA in an Information-request")
	}
	return nil
}

// hardware is the client's hardware address as far as the message tells it: the
// relay's word (RFC 6939), the client's link-local address if made of it (RFC
// 4291, appendix A), or else the DUID, which names some interface of the client.
// All zero when it can't be known.
func (c *request6) hardware(duid []byte) hwAddr {
	peer := c.src.Addr()
	if n := len(c.relays); n > 0 {
		peer = c.relays[n-1].peer
		lla, _ := c.relays[n-1].options.get(dhcpv6.OptionClientLinkLayerAddr)
		if len(lla) == 2+hwAddrLen && binary.BigEndian.Uint16(lla) == etherType {
			return hwAddr(lla[2:])
		}
	}
	if a := peer.As16(); peer.IsLinkLocalUnicast() && a[11] == 0xff && a[12] == 0xfe {
		return hwAddr{a[8] ^ 2, a[9], a[10], a[13], a[14], a[15]}
	}
	at := 0
	switch {
	case len(duid) == 8+hwAddrLen && binary.BigEndian.Uint16(duid) == duidLLT:
		at = 8
	case len(duid) == 4+hwAddrLen && binary.BigEndian.Uint16(duid) == duidLL:
		at = 4
	}
	if at == 0 || binary.BigEndian.Uint16(duid[2:]) != etherType {
		return hwAddr{}
	}
	return hwAddr(duid[at:])
}

// who is the client as far as its share of our time goes: its hardware address if
// known.
func (c *request6) who() string {
	if c.mac != (hwAddr{}) {
		return string(c.mac[:])
	}
	return string(c.duid)
}

// identity is the client as far as one IA goes.
func (c *request6) identity(ia *ia6) *client {
	id := c.client
	id.key = key6(c.duid, ia.iaid)
	id.seed = []byte(id.key)
	if len(ia.addrs) > 0 {
		id.requested = ia.addrs[0].addr
	}
	return &id
}

// has reports whether the client sent an option.
func (c *request6) has(code dhcpv6.OptionCode) bool {
	_, ok := c.options.get(code)
	return ok
}

// wants reports whether the client asks for an option. One that asks for none in
// particular gets all.
func (c *request6) wants(code dhcpv6.OptionCode) bool {
	if c.oro == nil {
		return true
	}
	for b := c.oro; len(b) >= 2; b = b[2:] {
		if dhcpv6.OptionCode(binary.BigEndian.Uint16(b)) == code {
			return true
		}
	}
	return false
}
