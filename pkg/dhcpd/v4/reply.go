package v4

import (
	"encoding/binary"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// minReply is the size of BOOTP's replies, with which some relays are content alone.
const minReply = 300

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
			option{code(dhcpv4.OptionDHCPMessageType), append(p.small[:0:1], byte(typ)), always},
			option{code(dhcpv4.OptionServerIdentifier), p.serverID, always})
	}
	// RFC 3046, section 2.2: the relay finds its own option in every reply.
	if info := c.msg.get(code(dhcpv4.OptionRelayAgentInformation)); info != nil && c.giaddr.IsValid() {
		opts = append(opts, option{code(dhcpv4.OptionRelayAgentInformation), info, always})
	}
	return opts
}

// message is r as c gets it (RFC 2131, section 2, figure 1), without a receiver.
func (p *plan) message(c *request, typ dhcpv4.MessageType, r reply) *dhcpd.Reply {
	out := dhcpd.NewReply()
	out.Type = uint8(typ)
	b := append(out.Payload, noHeader[:]...)
	b[0], b[1], b[2] = byte(dhcpv4.OpcodeBootReply), c.msg.fixed[hwTypeAt], dhcpd.HWAddrLen
	copy(b[transactionAt:], c.msg.fixed[transactionAt:][:4])
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
	b = append(appendOptions(b, inOrder(fit(r.opts, c.room()))), byte(end))
	p.scratch = r.opts[:0]
	out.Payload = append(b, noHeader[:max(0, minReply-len(b))]...)
	return out
}

// noHeader is zeros.
var noHeader [header]byte

// leaseReply returns an OFFER, an ACK, or with MessageTypeNone a BOOTP reply, that
// gives l to c.
func (p *plan) leaseReply(c *request, typ dhcpv4.MessageType, l given) *dhcpd.Reply {
	boot := p.bootOf(c)
	r := reply{flags: c.msg.flags(), yiaddr: l.addr, siaddr: boot.server, sname: boot.Name, file: boot.field, opts: p.head(c, typ)}
	link := p.linkOptions(c, boot)
	if typ != dhcpv4.MessageTypeNone {
		r.opts = p.appendLease(r.opts, c, &link, l)
	}
	r.opts = c.wanted(p.appendLink(r.opts, c, link.opts, l.hostname))
	out := p.message(c, typ, r)
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
	case c.msg.flags() != 0:
		broadcast(out)
	// "If the broadcast bit is not set [...], then the server unicasts DHCPOFFER
	// and DHCPACK messages to the client's hardware address and 'yiaddr' address."
	default:
		out.Dst = netip.AddrPortFrom(l.addr, clientPort)
		out.Framed, out.HW = true, c.MAC
	}
	return out
}

// again acknowledges to a client that has no address yet the lease that it has by what is on
// disk, where its REQUEST waited while nobody served, see dhcpd.Pool.Again: some clients ask three
// times and give up. It goes to the card that has the lease, or to all. Nil where it may not be.
func (p *plan) again(c *request, pl *dhcpd.Pool) *dhcpd.Reply {
	if c.typ != dhcpv4.MessageTypeRequest || c.ciaddr.IsValid() || c.giaddr.IsValid() || c.serverID.IsValid() && c.serverID != p.cfg.Server {
		return nil
	}
	l, ok := pl.Again(&c.Client, c.Requested)
	if !ok {
		return nil
	}
	return p.leaseReply(c, dhcpv4.MessageTypeAck, given{addr: l.Addr, time: l.Left(c.Now), hostname: l.Hostname})
}

// nak refuses what c asks for. text says why.
func (p *plan) nak(c *request, text string) *dhcpd.Reply {
	// RFC 2131, section 4.3.2: "If 'giaddr' is set in the DHCPREQUEST message, [...]
	// the server MUST set the broadcast bit in the DHCPNAK".
	r := reply{flags: broadcastFlag, opts: p.head(c, dhcpv4.MessageTypeNak)}
	r.opts = append(r.opts, option{code(dhcpv4.OptionMessage), []byte(text), always})
	out := p.message(c, dhcpv4.MessageTypeNak, r)
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
	r := reply{flags: c.msg.flags(), ciaddr: a, siaddr: boot.server, sname: boot.Name, file: boot.field}
	r.opts = c.wanted(p.appendLink(p.head(c, dhcpv4.MessageTypeAck), c, p.linkOptions(c, boot).opts, ""))
	out := p.message(c, dhcpv4.MessageTypeAck, r)
	out.Dst = netip.AddrPortFrom(a, clientPort)
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
