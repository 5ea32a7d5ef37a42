// Package packets sees what passes links: packet sockets, what is in a frame, and files
// that wireshark reads.
package packets

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// The types of frames that are told apart (linux/if_ether.h).
const (
	TypeIPv4 = 0x0800
	TypeARP  = 0x0806
	TypeVLAN = 0x8100
	TypeIPv6 = 0x86dd
	typeQinQ = 0x88a8
)

// The protocols above IP that are told apart (IANA's numbers).
const (
	ICMP   = 1
	TCP    = 6
	UDP    = 17
	ICMPv6 = 58
)

// Frame is what the headers of a frame say. What a frame that is cut off does not say is
// zero.
type Frame struct {
	Source, Destination net.HardwareAddr
	VLAN                int // of the outermost tag, 0 for none
	Type                uint16
	// From and To are the addresses of IP, or of ARP and of a neighbour solicitation those
	// of the asking and the asked one.
	From, To         netip.Addr
	Protocol         byte   // above IP
	FromPort, ToPort uint16 // of TCP and UDP
	Kind, Code       byte   // of ICMP
	Flags            byte   // of TCP
	TTL              int    // also IPv6's hop limit
	Length           int    // of the IP packet in bytes
	DontFragment     bool   // routers may not; always so for IPv6
	Request          bool   // ARP's question, or a neighbour solicitation
}

// Decode reads an Ethernet frame.
func Decode(b []byte) (f Frame) {
	const header = 14
	if len(b) < header {
		return f
	}
	f.Destination, f.Source = net.HardwareAddr(b[:6]), net.HardwareAddr(b[6:12])
	f.Type, b = binary.BigEndian.Uint16(b[12:]), b[header:]
	for (f.Type == TypeVLAN || f.Type == typeQinQ) && len(b) >= 4 {
		if f.VLAN == 0 {
			f.VLAN = int(binary.BigEndian.Uint16(b) & 0xfff)
		}
		f.Type, b = binary.BigEndian.Uint16(b[2:]), b[4:]
	}
	f.decodePayload(b)
	return f
}

// DecodePayload reads what a frame of an Ethernet type carries.
func DecodePayload(kind uint16, b []byte) Frame {
	f := Frame{Type: kind}
	f.decodePayload(b)
	return f
}

func (f *Frame) decodePayload(b []byte) {
	switch {
	case f.Type == TypeARP && len(b) >= 28:
		f.Request = binary.BigEndian.Uint16(b[6:]) == 1
		f.From, _ = netip.AddrFromSlice(b[14:18])
		f.To, _ = netip.AddrFromSlice(b[24:28])
	case f.Type == TypeIPv4 && len(b) >= 20 && b[0]>>4 == 4:
		f.decodeIPv4(b)
	case f.Type == TypeIPv6 && len(b) >= 40 && b[0]>>4 == 6:
		f.From, _ = netip.AddrFromSlice(b[8:24])
		f.To, _ = netip.AddrFromSlice(b[24:40])
		f.Protocol, f.TTL, f.DontFragment = b[6], int(b[7]), true
		f.Length = 40 + int(binary.BigEndian.Uint16(b[4:]))
		f.decodeTransport(b[40:])
	}
}

// decodeIPv4 reads a packet of 20 bytes at least (RFC 791).
func (f *Frame) decodeIPv4(b []byte) {
	f.From, _ = netip.AddrFromSlice(b[12:16])
	f.To, _ = netip.AddrFromSlice(b[16:20])
	f.Protocol, f.TTL = b[9], int(b[8])
	f.Length = int(binary.BigEndian.Uint16(b[2:]))
	fragment := binary.BigEndian.Uint16(b[6:])
	f.DontFragment = fragment&0x4000 != 0
	if size := int(b[0]&15) * 4; size >= 20 && size <= len(b) && fragment&0x1fff == 0 {
		f.decodeTransport(b[size:])
	}
}

func (f *Frame) decodeTransport(b []byte) {
	switch f.Protocol {
	case TCP, UDP:
		if len(b) < 4 {
			return
		}
		f.FromPort, f.ToPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		if f.Protocol == TCP && len(b) >= 14 {
			f.Flags = b[13]
		}
	case ICMP, ICMPv6:
		if len(b) < 2 {
			return
		}
		f.Kind, f.Code = b[0], b[1]
		const solicitation = 135
		if f.Protocol == ICMPv6 && f.Kind == solicitation && len(b) >= 24 {
			f.Request = true
			f.To, _ = netip.AddrFromSlice(b[8:24])
		}
	}
}

// IsNeighbour reports whether the frame asks for the card that has an address.
func (f Frame) IsNeighbour() bool { return f.Type == TypeARP || f.Request }

// String says on one line what the frame is, in the manner of tcpdump -n.
func (f Frame) String() string {
	tag := ""
	if f.VLAN != 0 {
		tag = fmt.Sprintf("vlan %d, ", f.VLAN)
	}
	switch {
	case !f.From.IsValid():
		return fmt.Sprintf("%s%v > %v, type 0x%04x", tag, f.Source, f.Destination, f.Type)
	case f.Type == TypeARP && f.Request:
		return fmt.Sprintf("%sARP who has %v, tell %v", tag, f.To, f.From)
	case f.Type == TypeARP:
		return fmt.Sprintf("%sARP %v is at %v", tag, f.From, f.Source)
	}
	family := "IP"
	if f.Type == TypeIPv6 {
		family = "IP6"
	}
	return fmt.Sprintf("%s%s %s > %s: %s, length %d", tag, family, endpoint(f.From, f.FromPort), endpoint(f.To, f.ToPort), f.transport(), f.Length)
}

// endpoint is an address with a port, if there is one.
func endpoint(addr netip.Addr, port uint16) string {
	if port == 0 {
		return addr.String()
	}
	return netip.AddrPortFrom(addr, port).String()
}

// transport says what is above IP.
func (f Frame) transport() string {
	switch f.Protocol {
	case TCP:
		return "tcp [" + tcpFlags(f.Flags) + "]"
	case UDP:
		return "udp"
	case ICMP, ICMPv6:
		return icmpText(f)
	}
	return fmt.Sprintf("protocol %d", f.Protocol)
}

// tcpFlags are the letters of tcpdump for the flags of TCP.
func tcpFlags(flags byte) string {
	var text strings.Builder
	for i, letter := range "FSRP.UEW" {
		if flags&(1<<i) != 0 {
			text.WriteRune(letter)
		}
	}
	if text.Len() == 0 {
		return "none"
	}
	return text.String()
}

// icmpKinds are the kinds of ICMP by protocol and number that are met most.
var icmpKinds = map[[2]byte]string{
	{ICMP, 0}: "echo reply", {ICMP, 3}: "unreachable", {ICMP, 5}: "redirect", {ICMP, 8}: "echo request", {ICMP, 11}: "time exceeded",
	{ICMPv6, 1}: "unreachable", {ICMPv6, 2}: "packet too big", {ICMPv6, 3}: "time exceeded", {ICMPv6, 128}: "echo request", {ICMPv6, 129}: "echo reply",
	{ICMPv6, 133}: "router solicitation", {ICMPv6, 134}: "router advertisement", {ICMPv6, 135}: "neighbour solicitation", {ICMPv6, 136}: "neighbour advertisement",
}

// icmpText names a kind of ICMP.
func icmpText(f Frame) string {
	name, known := icmpKinds[[2]byte{f.Protocol, f.Kind}]
	if !known {
		name = fmt.Sprintf("type %d", f.Kind)
	}
	if f.Code != 0 {
		name += fmt.Sprintf(" code %d", f.Code)
	}
	return "icmp " + name
}
