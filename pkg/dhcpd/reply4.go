package dhcpd

import (
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// UDP ports (RFC 2131, section 4.1).
const (
	serverPort = 67
	clientPort = 68
)

// broadcastFlag is the only flag of a message (RFC 2131, section 2, figure 2).
const broadcastFlag = 0x8000

// message is the common part of replies to c: those fields of RFC 2131, section
// 4.3.1, table 3 that are the same for all.
func (p *plan) message(c *request, typ dhcpv4.MessageType, opts []option4) *dhcpv4.DHCPv4 {
	var head []option4
	if typ != dhcpv4.MessageTypeNone {
		head = []option4{
			{dhcpv4.OptionDHCPMessageType, typ.ToBytes(), always},
			{dhcpv4.OptionServerIdentifier, p.cfg.Server.AsSlice(), always},
		}
	}
	// RFC 3046, section 2.2: the relay finds its own option in every reply.
	if info := c.msg.Options.Get(dhcpv4.OptionRelayAgentInformation); info != nil && c.giaddr.IsValid() {
		head = append(head, option4{dhcpv4.OptionRelayAgentInformation, info, always})
	}
	return &dhcpv4.DHCPv4{
		OpCode:        dhcpv4.OpcodeBootReply,
		HWType:        c.msg.HWType,
		TransactionID: c.msg.TransactionID,
		Flags:         c.msg.Flags & broadcastFlag,
		GatewayIPAddr: c.msg.GatewayIPAddr,
		ClientHWAddr:  c.msg.ClientHWAddr,
		Options:       encode(append(head, opts...), c.room()),
	}
}

// leaseReply is an OFFER, an ACK, or with MessageTypeNone a BOOTP reply, that
// gives l to c.
func (p *plan) leaseReply(c *request, typ dhcpv4.MessageType, l lease4) *outgoing {
	opts := p.linkOptions(c, l.hostname)
	if typ != dhcpv4.MessageTypeNone {
		opts = p.leaseOptions(c, l)
	}
	m := p.message(c, typ, c.wanted(opts))
	m.YourIPAddr = l.addr.AsSlice()
	m.ServerIPAddr = p.bootServer().AsSlice()
	if len(p.cfg.BootFile) < bootFileField {
		m.BootFileName = p.cfg.BootFile
	}
	out := &outgoing{typ: uint8(typ), payload: m.ToBytes()}
	switch {
	// RFC 2131, section 4.1: "If the 'giaddr' field in a DHCP message from a client
	// is non-zero, the server sends any return messages to the 'DHCP server' port
	// on the BOOTP relay agent whose address appears in 'giaddr'."
	case c.giaddr.IsValid():
		out.dst = netip.AddrPortFrom(c.giaddr, serverPort)
	// "If the 'giaddr' field is zero and the 'ciaddr' field is nonzero, then the
	// server unicasts DHCPOFFER and DHCPACK messages to the address in 'ciaddr'."
	case c.ciaddr == l.addr:
		out.dst = netip.AddrPortFrom(c.ciaddr, clientPort)
	// "If 'giaddr' is zero and 'ciaddr' is zero, and the broadcast bit is set, then
	// the server broadcasts DHCPOFFER and DHCPACK messages to 0xffffffff."
	case c.msg.IsBroadcast():
		out.broadcast()
	// "If the broadcast bit is not set [...], then the server unicasts DHCPOFFER
	// and DHCPACK messages to the client's hardware address and 'yiaddr' address."
	default:
		out.dst = netip.AddrPortFrom(l.addr, clientPort)
		out.framed, out.hw = true, c.mac
	}
	return out
}

// nak refuses what c asks for. text says why.
func (p *plan) nak(c *request, text string) *outgoing {
	m := p.message(c, dhcpv4.MessageTypeNak, []option4{{dhcpv4.OptionMessage, []byte(text), always}})
	// RFC 2131, section 4.3.2: "If 'giaddr' is set in the DHCPREQUEST message, [...]
	// the server MUST set the broadcast bit in the DHCPNAK".
	m.Flags = broadcastFlag
	out := &outgoing{typ: uint8(dhcpv4.MessageTypeNak), payload: m.ToBytes()}
	// Section 4.1: "In all cases, when 'giaddr' is zero, the server broadcasts any
	// DHCPNAK messages to 0xffffffff."
	out.broadcast()
	if c.giaddr.IsValid() {
		out.dst, out.framed = netip.AddrPortFrom(c.giaddr, serverPort), false
	}
	return out
}

// informReply tells c, which has the address a already, of the link.
//
// RFC 2131, section 4.3.5: "The server responds to a DHCPINFORM message by
// sending a DHCPACK message directly to the address given in the 'ciaddr' field
// [...]. The server MUST NOT send a lease expiration time to the client and
// SHOULD NOT fill in 'yiaddr'."
func (p *plan) informReply(c *request, a netip.Addr) *outgoing {
	m := p.message(c, dhcpv4.MessageTypeAck, c.wanted(p.linkOptions(c, "")))
	m.ClientIPAddr = net.IP(a.AsSlice())
	m.ServerIPAddr = p.bootServer().AsSlice()
	if len(p.cfg.BootFile) < bootFileField {
		m.BootFileName = p.cfg.BootFile
	}
	out := &outgoing{typ: uint8(dhcpv4.MessageTypeAck), payload: m.ToBytes(), dst: netip.AddrPortFrom(a, clientPort)}
	if c.giaddr.IsValid() {
		out.dst = netip.AddrPortFrom(c.giaddr, serverPort)
	}
	return out
}

// broadcast addresses the reply to everybody on the link.
func (o *outgoing) broadcast() {
	o.dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), clientPort)
	o.framed, o.hw = true, hwAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
}
