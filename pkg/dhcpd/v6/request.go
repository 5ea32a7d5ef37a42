package v6

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// maxIAs is how many identity associations of a message count, and how many
// addresses of each.
const maxIAs = 8

// request is a DHCPv6 client's message, understood. Its client has no key: each
// IA makes one.
type request struct {
	dhcpd.Client
	typ         dhcpv6.MessageType
	transaction [3]byte
	options     options
	relays      []relay
	src         netip.AddrPort
	// unicast: the datagram was sent to us alone, by no relay.
	unicast bool
	ias     []identityAssoc
	fqdn    []byte // option 39, nil when absent or empty
	oro     []byte // option 6, nil when absent
}

// rule is what a message type asks of a message (RFC 8415, section 16).
type rule struct {
	anonymous bool // the client identifier may be absent
	ours      bool // our server identifier must be there
	any       bool // a server identifier may be there
	unicast   bool // unicast gets an answer
}

// ruleOf returns the rule of a message type, false when a server receives none such.
func ruleOf(typ dhcpv6.MessageType) (rule, bool) {
	switch typ {
	case dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeConfirm, dhcpv6.MessageTypeRebind:
		return rule{}, true
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeDecline, dhcpv6.MessageTypeRelease:
		return rule{ours: true, unicast: true}, true
	case dhcpv6.MessageTypeInformationRequest:
		return rule{anonymous: true, any: true}, true
	default:
		return rule{}, false
	}
}

// errOtherServer says that a message is meant for another server.
var errOtherServer = errors.New("for another server")

// read makes c what d asks for, or says why d is no message of a client on this link. It keeps
// parts of d, and takes the memory that c has.
func (c *request) read(d dhcpd.Datagram, p *plan, now time.Time) error {
	b, relays, err := unwrap(d.Payload, c.relays)
	if err != nil {
		return err
	}
	if len(b) < header {
		return errors.New("the message is cut off")
	}
	*c = request{
		Client: dhcpd.Client{Now: now, Via: d.From}, typ: dhcpv6.MessageType(b[0]), transaction: [3]byte(b[1:4]),
		relays: relays, src: d.Src, unicast: !d.Dst.IsMulticast() && len(relays) == 0,
		options: c.options[:0], ias: c.ias[:0],
	}
	if c.options, err = c.options.parse(b[header:]); err != nil {
		return err
	}
	if err := c.checkSource(p); err != nil {
		return err
	}
	if err := c.parseOptions(p); err != nil {
		return err
	}
	if p.tagged {
		c.Tags = p.tags(c)
	}
	c.Reserved = p.Reservation(&c.Client)
	return nil
}

// checkSource says why the message can't come from this link. Replies go to the
// source and must not leave the link.
func (c *request) checkSource(p *plan) error {
	if src := c.src.Addr(); !src.IsLinkLocalUnicast() && !p.Prefix.Contains(src) {
		return fmt.Errorf("source %v is not on the link", src)
	}
	for _, r := range c.relays {
		if !r.link.IsUnspecified() && !r.link.IsLinkLocalUnicast() && !p.Prefix.Contains(r.link) {
			return fmt.Errorf("relay's link %v is not this one", r.link)
		}
	}
	return nil
}

// parseOptions understands the options and checks them by the rule of the type.
func (c *request) parseOptions(p *plan) error {
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
	// Of one whose frame nobody saw nothing is believed: what it says may be another's.
	if !c.Via.Hidden {
		c.MAC = c.hardware()
		if c.MAC == (dhcpd.HWAddr{}) {
			c.MAC, c.Guessed = dhcpd.DUIDAddr(c.DUID), true
		}
	}
	c.oro, _ = c.options.get(dhcpv6.OptionORO)
	c.parseName()
	return c.parseIAs()
}

// checkIdentifiers checks the client's identifier and the server's, which is to be
// ours.
func (c *request) checkIdentifiers(rule rule, duid []byte) error {
	id, identified := c.options.get(dhcpv6.OptionClientID)
	server, addressed := c.options.get(dhcpv6.OptionServerID)
	c.DUID = id
	switch {
	case identified && (len(id) < 3 || len(id) > dhcpd.MaxDUID):
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
func (c *request) parseName() {
	raw, ok := c.options.get(dhcpv6.OptionFQDN)
	if !ok || len(raw) == 0 {
		return
	}
	c.fqdn = raw
	c.Name, c.Named = dhcpd.ParseName(dhcpd.FromLabels(raw[1:])), true
}

// parseIAs collects the identity associations.
func (c *request) parseIAs() error {
	for _, o := range c.options {
		switch o.code {
		case dhcpv6.OptionIANA, dhcpv6.OptionIATA, dhcpv6.OptionIAPD:
		default:
			continue
		}
		all, ia := extended(c.ias)
		if err := ia.parse(o.code, o.value); err != nil {
			return err
		}
		if len(all) <= maxIAs {
			c.ias = all
		}
	}
	// RFC 8415, section 16.12: an Information-request "includes an IA option" is
	// discarded.
	if c.typ == dhcpv6.MessageTypeInformationRequest && len(c.ias) > 0 {
		return errors.New("an IA in an Information-request")
	}
	return nil
}

// hardware returns the client's hardware address as far as it was seen on the link: the
// frame's source, or the relay's word (RFC 6939), or what the client's link-local address
// is made of (RFC 4291, appendix A). All zero when it was not: a relay that has the client's
// message from itself speaks for others, and its own address is none of theirs.
func (c *request) hardware() dhcpd.HWAddr {
	peer := c.src.Addr()
	if n := len(c.relays); n > 0 {
		relay := peer
		if n > 1 {
			relay = c.relays[n-2].peer
		}
		peer = c.relays[n-1].peer
		lla, _ := c.relays[n-1].options.get(dhcpv6.OptionClientLinkLayerAddr)
		if len(lla) == 2+dhcpd.HWAddrLen && binary.BigEndian.Uint16(lla) == uint16(iana.HWTypeEthernet) {
			return dhcpd.HWAddr(lla[2:])
		}
		if peer == relay {
			return dhcpd.HWAddr{}
		}
	} else if c.Via.HW != (dhcpd.HWAddr{}) {
		return c.Via.HW
	}
	if a := peer.As16(); peer.IsLinkLocalUnicast() && a[11] == 0xff && a[12] == 0xfe {
		return dhcpd.HWAddr{a[8] ^ 2, a[9], a[10], a[13], a[14], a[15]}
	}
	return dhcpd.HWAddr{}
}

// who returns what identifies the client for the rate limit: its hardware address if
// known.
func (c *request) who() []byte {
	if c.MAC != (dhcpd.HWAddr{}) {
		return c.MAC[:]
	}
	return c.DUID
}

// identity returns the client of one IA of c. the engine must be locked.
func (s *handler) identity(c *request, ia *identityAssoc) *dhcpd.Client {
	id := &ia.client
	if ia.known {
		return id
	}
	*id, ia.known = c.Client, true
	mac := c.MAC
	if c.Guessed {
		mac = dhcpd.HWAddr{}
	}
	id.Key, id.Group = s.plan.IAKey(c.DUID, ia.iaid, mac)
	if len(ia.addrs) > 0 {
		id.Requested = ia.addrs[0].addr
	}
	s.Pool.Recognise(id, id.Requested)
	return id
}

// forged reports whether c speaks for somebody else, see dhcpd.Pool.Forged. Who is hidden may be
// told what there is: what a client sent while nobody read is answered late. the engine must
// be locked.
func (s *handler) forged(c *request) bool {
	if c.Via.Hidden {
		switch c.typ {
		case dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeConfirm, dhcpv6.MessageTypeInformationRequest:
			return c.has(dhcpv6.OptionRapidCommit)
		}
	}
	if s.Pool.Forged(&c.Client) { // what it is without an IA
		return true
	}
	for i := range c.ias {
		if s.Pool.Forged(s.identity(c, &c.ias[i])) {
			return true
		}
	}
	return false
}

// has reports whether the client sent an option.
func (c *request) has(code dhcpv6.OptionCode) bool {
	_, ok := c.options.get(code)
	return ok
}

// wants reports whether the client asks for an option. One that asks for none in
// particular gets all.
func (c *request) wants(code dhcpv6.OptionCode) bool {
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
