package v4

import (
	"encoding/binary"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// broadcastFlag is the only flag of a message (RFC 2131, section 2, figure 2).
const broadcastFlag = 0x8000

// magicCookie is in front of the options (RFC 2131, section 3).
const magicCookie = 0x63825363

// Sizes of what is sent: BOOTP's, with which some relays are content alone, and
// that of nearly all replies.
const (
	minReply   = 300
	usualReply = 384
)

// reply is a reply: those fields of RFC 2131, section 4.3.1, table 3 that are not the
// same for all, and options in the order of their importance. It is encoded here
// and not by the library since it is on the way of every client: an OFFER takes a
// fourth of the library's time and a tenth of its allocations (BenchmarkReply), and
// the library neither orders options nor leaves out those that the client has no
// room for.
type reply struct {
	flags                  uint16
	ciaddr, yiaddr, siaddr netip.Addr // the zero Addr is 0.0.0.0
	sname, file            string
	opts                   []option
}

// head begins the options of a reply to c. They are in memory that the next reply
// takes again: the engine must be locked.
func (p *plan) head(c *request, typ dhcpv4.MessageType) []option {
	opts := p.scratch[:0]
	if typ != dhcpv4.MessageTypeNone {
		opts = append(opts,
			option{dhcpv4.OptionDHCPMessageType, typ.ToBytes(), always},
			option{dhcpv4.OptionServerIdentifier, p.serverID, always})
	}
	// RFC 3046, section 2.2: the relay finds its own option in every reply.
	if info := c.msg.Options.Get(dhcpv4.OptionRelayAgentInformation); info != nil && c.giaddr.IsValid() {
		opts = append(opts, option{dhcpv4.OptionRelayAgentInformation, info, always})
	}
	return opts
}

// payload encodes r as c gets it (RFC 2131, section 2, figure 1).
func (p *plan) payload(c *request, r reply) []byte {
	b := make([]byte, header, usualReply)
	b[0], b[1], b[2] = byte(dhcpv4.OpcodeBootReply), byte(c.msg.HWType), dhcpd.HWAddrLen
	copy(b[4:], c.msg.TransactionID[:])
	binary.BigEndian.PutUint16(b[10:], r.flags)
	for i, a := range []netip.Addr{r.ciaddr, r.yiaddr, r.siaddr, c.giaddr} {
		if a.IsValid() {
			raw := a.As4()
			copy(b[12+4*i:], raw[:])
		}
	}
	copy(b[28:], c.MAC[:])
	copy(b[serverFieldAt:serverFieldAt+serverField-1], r.sname)
	copy(b[bootFileAt:bootFileAt+bootFileField-1], r.file)
	binary.BigEndian.PutUint32(b[header-4:], magicCookie)
	b = append(appendOptions(b, inOrder(fit(r.opts, c.room()))), dhcpv4.OptionEnd.Code())
	p.scratch = r.opts[:0]
	return append(b, make([]byte, max(0, minReply-len(b)))...)
}

// leaseReply returns an OFFER, an ACK, or with MessageTypeNone a BOOTP reply, that
// gives l to c.
func (p *plan) leaseReply(c *request, typ dhcpv4.MessageType, l given) *dhcpd.Reply {
	boot := p.bootOf(c)
	r := reply{flags: c.msg.Flags & broadcastFlag, yiaddr: l.addr, siaddr: boot.server, sname: boot.Name, file: boot.field, opts: p.head(c, typ)}
	link := p.linkOptions(c, boot)
	if typ != dhcpv4.MessageTypeNone {
		r.opts = appendLease(r.opts, c, &link, l)
	}
	r.opts = c.wanted(p.appendLink(r.opts, c, link.opts, l.hostname))
	out := &dhcpd.Reply{Type: uint8(typ), Payload: p.payload(c, r)}
	switch {
	// RFC 2131, section 4.1: "If the 'giaddr' field in a DHCP message from a client
	// is non-zero, the server sends any return messages to the 'DHCP server' port
	// on the BOOTP relay agent whose address appears in 'giaddr'."
	case c.giaddr.IsValid():
		out.Dst = netip.AddrPortFrom(c.giaddr, serverPort)
		out.ReturnTo(c.Via)
	// "If the 'giaddr' field is zero and the 'ciaddr' field is nonzero, then the
	// server unicasts DHCPOFFER and DHCPACK messages to the address in 'ciaddr'."
	case c.ciaddr == l.addr:
		out.Dst = netip.AddrPortFrom(c.ciaddr, clientPort)
		out.ReturnTo(c.Via)
	// "If 'giaddr' is zero and 'ciaddr' is zero, and the broadcast bit is set, then
	// the server broadcasts DHCPOFFER and DHCPACK messages to 0xffffffff."
	case c.msg.IsBroadcast():
		broadcast(out)
	// "If the broadcast bit is not set [...], then the server unicasts DHCPOFFER
	// and DHCPACK messages to the client's hardware address and 'yiaddr' address."
	default:
		out.Dst = netip.AddrPortFrom(l.addr, clientPort)
		out.Framed, out.HW = true, c.MAC
	}
	return out
}

// nak refuses what c asks for. text says why.
func (p *plan) nak(c *request, text string) *dhcpd.Reply {
	// RFC 2131, section 4.3.2: "If 'giaddr' is set in the DHCPREQUEST message, [...]
	// the server MUST set the broadcast bit in the DHCPNAK".
	r := reply{flags: broadcastFlag, opts: p.head(c, dhcpv4.MessageTypeNak)}
	r.opts = append(r.opts, option{dhcpv4.OptionMessage, []byte(text), always})
	out := &dhcpd.Reply{Type: uint8(dhcpv4.MessageTypeNak), Payload: p.payload(c, r)}
	// Section 4.1: "In all cases, when 'giaddr' is zero, the server broadcasts any
	// DHCPNAK messages to 0xffffffff."
	broadcast(out)
	if c.giaddr.IsValid() {
		out.Dst, out.Framed = netip.AddrPortFrom(c.giaddr, serverPort), false
		out.ReturnTo(c.Via)
	}
	return out
}

// informReply tells c, which has the address a already, of the link.
//
// RFC 2131, section 4.3.5: "The server responds to a DHCPINFORM message by
// sending a DHCPACK message directly to the address given in the 'ciaddr' field
// [...]. The server MUST NOT send a lease expiration time to the client and
// SHOULD NOT fill in 'yiaddr'."
func (p *plan) informReply(c *request, a netip.Addr) *dhcpd.Reply {
	boot := p.bootOf(c)
	r := reply{flags: c.msg.Flags & broadcastFlag, ciaddr: a, siaddr: boot.server, sname: boot.Name, file: boot.field}
	r.opts = c.wanted(p.appendLink(p.head(c, dhcpv4.MessageTypeAck), c, p.linkOptions(c, boot).opts, ""))
	out := &dhcpd.Reply{Type: uint8(dhcpv4.MessageTypeAck), Payload: p.payload(c, r), Dst: netip.AddrPortFrom(a, clientPort)}
	if c.giaddr.IsValid() {
		out.Dst = netip.AddrPortFrom(c.giaddr, serverPort)
	}
	out.ReturnTo(c.Via)
	return out
}

// broadcast addresses a reply to everybody on the link.
func broadcast(o *dhcpd.Reply) {
	o.Dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), clientPort)
	o.Framed, o.HW = true, dhcpd.HWAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
}
