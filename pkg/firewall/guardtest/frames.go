// Package guardtest has the frames by which guards of ports are tested: what a guest can
// send, and from which level on it is stopped. Tests only.
package guardtest

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// Card is somebody on a segment, with the addresses that are his.
type Card struct {
	MAC    firewall.MAC
	V4, V6 netip.Addr
}

// Segment is who is on a bridge. Guest is who sends; Other is behind another port;
// Further has addresses of the network that are nobody's.
type Segment struct{ Gateway, Guest, Other, Further Card }

// Who is on no port.
var (
	// NestedMAC is a card behind a guest.
	NestedMAC = firewall.MAC{0x52, 0x54, 0, 0, 0, 0x99}
	// LAN4, LAN6 are beyond the gateway.
	LAN4, LAN6 = netip.MustParseAddr("198.51.100.9"), netip.MustParseAddr("2001:db8:ff::9")
)

// Everybody is the address of broadcast.
var Everybody = firewall.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// Frame is one kind of frames.
type Frame struct {
	Name  string
	Bytes []byte
	// At is the first level that stops it, one above all where none does; Kind is as what.
	At   firewall.GuardLevel
	Kind firewall.GuardKind
}

// Frames are one of each kind.
func (s Segment) Frames() []Frame {
	const gateway, strict, never = firewall.GuardGateway, firewall.GuardStrict, firewall.GuardStrict + 1
	none4, none6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	all4, local := netip.MustParseAddr("255.255.255.255"), s.Guest.MAC.LinkLocal()
	answer := s.IP(Everybody, s.Guest.V4, all4, unix.IPPROTO_UDP, UDP(67, 68))
	return []Frame{
		{"own", s.From(s.Guest.MAC), never, 0},
		{"from the bridge", s.From(s.Gateway.MAC), gateway, firewall.GuardMAC},
		{"from another port", s.From(s.Other.MAC), gateway, firewall.GuardMAC},
		{"from a group", s.From(firewall.MAC{1, 0, 0x5e, 0, 0, 1}), gateway, firewall.GuardMAC},
		{"from a nested guest", s.From(NestedMAC), strict, firewall.GuardMAC},
		{"from a virtual router of VRRP", s.From(firewall.MAC{0, 0, 0x5e, 0, 1, 7}), strict, firewall.GuardMAC},
		{"STP", s.Group(0), gateway, firewall.GuardControl},
		{"pause", s.Group(1), gateway, firewall.GuardControl},
		{"LACP", s.Group(2), gateway, firewall.GuardControl},
		{"EAPOL", s.Group(3), gateway, firewall.GuardControl},
		{"LLDP", s.Group(14), gateway, firewall.GuardControl},
		{"PVST+", Ether(firewall.MAC{1, 0, 0xc, 0xcc, 0xcc, 0xcd}, s.Guest.MAC, 50, nil), gateway, firewall.GuardControl},
		{"a VLAN", Tagged(s.From(s.Guest.MAC), 42), strict, firewall.GuardVLAN},
		{"a priority", Tagged(s.From(s.Guest.MAC), 0x2000), never, 0},
		{"ARP of the gateway behind two priorities", Tagged(s.ARP(2, s.Guest.MAC, s.Gateway.V4), 0, 0), gateway, firewall.GuardVLAN},
		{"ARP of the gateway behind a priority", Tagged(s.ARP(2, s.Guest.MAC, s.Gateway.V4), 0), gateway, firewall.GuardARP},
		{"ARP", s.ARP(1, s.Guest.MAC, s.Guest.V4), never, 0},
		{"ARP probe", s.ARP(1, s.Guest.MAC, none4), never, 0},
		{"ARP of the gateway", s.ARP(2, s.Guest.MAC, s.Gateway.V4), gateway, firewall.GuardARP},
		{"gratuitous ARP of the gateway", s.ARP(1, s.Guest.MAC, s.Gateway.V4), gateway, firewall.GuardARP},
		{"ARP of another guest", s.ARP(2, s.Guest.MAC, s.Other.V4), gateway, firewall.GuardARP},
		{"ARP with the gateway's card", s.ARP(2, s.Gateway.MAC, s.Further.V4), gateway, firewall.GuardARP},
		{"ARP of a further address", s.ARP(2, s.Guest.MAC, s.Further.V4), strict, firewall.GuardARP},
		{"ND", s.ND(136, local, s.Guest.V6), never, 0},
		{"ND of the link-local address", s.ND(136, local, local), never, 0},
		{"ND of the gateway", s.ND(136, local, s.Gateway.V6), gateway, firewall.GuardND},
		{"ND of the gateway's link-local address", s.ND(136, local, s.Gateway.MAC.LinkLocal()), gateway, firewall.GuardND},
		{"ND of another guest", s.ND(136, local, s.Other.V6), gateway, firewall.GuardND},
		{"solicitation as another guest", s.ND(135, s.Other.V6, s.Gateway.V6), gateway, firewall.GuardND},
		{"DAD", s.ND(135, none6, s.Guest.V6), never, 0},
		{"DAD of another guest's address", s.ND(135, none6, s.Other.V6), gateway, firewall.GuardND},
		{"ND of a further address", s.ND(136, local, s.Further.V6), strict, firewall.GuardND},
		{"router solicitation", s.ND(133, local, none6), never, 0},
		{"router advertisement", s.ND(134, local, none6), gateway, firewall.GuardRA},
		{"redirect", s.ND(137, local, s.Other.V6), gateway, firewall.GuardRA},
		{"router advertisement behind a long header, in parts", s.parts(unix.IPPROTO_ICMPV6), gateway, firewall.GuardRA},
		{"router advertisement in parts", s.fragment(0, unix.IPPROTO_ICMPV6, s.ND(134, local, none6)[54:]), gateway, firewall.GuardRA},
		{"ND in parts", s.fragment(0, unix.IPPROTO_ICMPV6, s.ND(136, local, s.Guest.V6)[54:62]), gateway, firewall.GuardND},
		{"DHCPv6 answer behind a long header, in parts", s.parts(unix.IPPROTO_UDP), gateway, firewall.GuardRA},
		{"the first part of a datagram", s.fragment(0, unix.IPPROTO_UDP, UDP(1, 9)), never, 0},
		{"the first part of one behind a header", s.fragment(0, unix.IPPROTO_DSTOPTS, append([]byte{unix.IPPROTO_UDP, 0, 1, 4, 0, 0, 0, 0}, UDP(1, 9)...)), never, 0},
		{"the next part of a datagram", s.fragment(8, unix.IPPROTO_UDP, make([]byte, 16)), never, 0},
		{"the next part of one behind a header", s.fragment(8, unix.IPPROTO_DSTOPTS, make([]byte, 16)), never, 0},
		{"ARP of the gateway behind LLC", SNAP(s.ARP(2, s.Guest.MAC, s.Gateway.V4), 0), gateway, firewall.GuardARP},
		{"ARP of the gateway behind LLC of a bridge", SNAP(s.ARP(2, s.Guest.MAC, s.Gateway.V4), 0xf8), gateway, firewall.GuardARP},
		{"router advertisement behind LLC", SNAP(s.ND(134, local, none6), 0), gateway, firewall.GuardIP},
		{"router advertisement behind a priority and LLC", Tagged(SNAP(s.ND(134, local, none6), 0), 0), gateway, firewall.GuardIP},
		{"DHCP answer behind LLC", SNAP(answer, 0), gateway, firewall.GuardIP},
		{"AppleTalk behind LLC", SNAP(Ether(s.Other.MAC, s.Guest.MAC, unix.ETH_P_ATALK, nil), 0), never, 0},
		{"NetBEUI", Ether(s.Other.MAC, s.Guest.MAC, 46, []byte{0xf0, 0xf0, 3}), never, 0},
		{"DHCP request", s.IP(Everybody, none4, all4, unix.IPPROTO_UDP, UDP(68, 67)), never, 0},
		{"DHCP answer", answer, gateway, firewall.GuardDHCP},
		{"DHCP answer of no length", long(answer, 0), gateway, firewall.GuardDHCP},
		{"DHCP answer shorter than its header", long(answer, 19), gateway, firewall.GuardDHCP},
		{"DHCP answer longer than its frame", long(answer, 1400), gateway, firewall.GuardDHCP},
		{"DHCP answer to one card of no length", long(s.IP(s.Other.MAC, s.Guest.V4, s.Other.V4, unix.IPPROTO_UDP, UDP(67, 68)), 0), gateway, firewall.GuardDHCP},
		{"IPv6 longer than its frame", long(s.ND(134, local, none6), 1400), gateway, firewall.GuardRA},
		{"DHCPv6 request", s.IP(Everybody, local, netip.MustParseAddr("ff02::1:2"), unix.IPPROTO_UDP, UDP(546, 547)), never, 0},
		{"DHCPv6 answer", s.IP(Everybody, local, s.Other.V6, unix.IPPROTO_UDP, UDP(547, 546)), gateway, firewall.GuardDHCP},
		{"DHCP answer to one card", s.IP(s.Other.MAC, s.Guest.V4, s.Other.V4, unix.IPPROTO_UDP, UDP(67, 68)), gateway, firewall.GuardDHCP},
		{"DHCPv6 answer to one card", s.IP(s.Other.MAC, s.Guest.V6, s.Other.V6, unix.IPPROTO_UDP, UDP(547, 546)), gateway, firewall.GuardDHCP},
		{"IPv4 in a VLAN", Tagged(s.IP(s.Other.MAC, s.Guest.V4, s.Other.V4, unix.IPPROTO_UDP, UDP(1, 9)), 42), strict, firewall.GuardVLAN},
		{"IPv4 from another port's card", Ether(s.Other.MAC, s.Other.MAC, unix.ETH_P_IP, s.IP(s.Other.MAC, s.Guest.V4, s.Other.V4, unix.IPPROTO_UDP, UDP(1, 9))[14:]), gateway, firewall.GuardMAC},
		{"IPv4 to a guest", s.IP(s.Other.MAC, s.Guest.V4, s.Other.V4, unix.IPPROTO_UDP, UDP(1, 9)), never, 0},
		{"IPv6 to a guest", s.IP(s.Other.MAC, s.Guest.V6, s.Other.V6, unix.IPPROTO_UDP, UDP(1, 9)), never, 0},
		{"IPv4 to the LAN", s.IP(s.Gateway.MAC, s.Guest.V4, LAN4, unix.IPPROTO_UDP, UDP(1, 9)), never, 0},
		{"IPv6 to the LAN", s.IP(s.Gateway.MAC, s.Guest.V6, LAN6, unix.IPPROTO_UDP, UDP(1, 9)), never, 0},
		{"IPv4 as the gateway", s.IP(s.Other.MAC, s.Gateway.V4, s.Other.V4, unix.IPPROTO_UDP, UDP(1, 9)), gateway, firewall.GuardIP},
		{"IPv6 as the gateway", s.IP(s.Other.MAC, s.Gateway.V6, s.Other.V6, unix.IPPROTO_UDP, UDP(1, 9)), gateway, firewall.GuardIP},
		{"IPv4 from elsewhere to the gateway", s.IP(s.Gateway.MAC, LAN4, s.Gateway.V4, unix.IPPROTO_UDP, UDP(1, 9)), gateway, firewall.GuardIP},
		{"IPv6 from elsewhere to the gateway", s.IP(s.Gateway.MAC, LAN6, s.Gateway.V6, unix.IPPROTO_UDP, UDP(1, 9)), gateway, firewall.GuardIP},
		{"IPv4 from elsewhere to the gateway, by broadcast", s.IP(Everybody, LAN4, s.Gateway.V4, unix.IPPROTO_UDP, UDP(1, 9)), gateway, firewall.GuardIP},
		{"IPv4 from elsewhere to the gateway, by a group", s.IP(firewall.MAC{1, 0, 0x5e, 0, 0, 1}, LAN4, s.Gateway.V4, unix.IPPROTO_UDP, UDP(1, 9)), gateway, firewall.GuardIP},
		{"IPv6 from elsewhere to the gateway, by a group", s.IP(firewall.MAC{0x33, 0x33, 0, 0, 0, 1}, LAN6, s.Gateway.V6, unix.IPPROTO_UDP, UDP(1, 9)), gateway, firewall.GuardIP},
		{"IPv4 to everybody", s.IP(Everybody, s.Guest.V4, all4, unix.IPPROTO_UDP, UDP(1, 9)), never, 0},
		{"IPv4 to all of another subnet", s.IP(Everybody, s.Guest.V4, netip.MustParseAddr("10.9.0.255"), unix.IPPROTO_UDP, UDP(1, 9)), never, 0},
		{"IPv4 of another subnet to all of that", s.IP(Everybody, netip.MustParseAddr("10.9.0.5"), netip.MustParseAddr("10.9.0.255"), unix.IPPROTO_UDP, UDP(1, 9)), strict, firewall.GuardIP},
		{"IPv4 to a group", s.IP(firewall.MAC{1, 0, 0x5e, 0, 0, 0xfb}, s.Guest.V4, netip.MustParseAddr("224.0.0.251"), unix.IPPROTO_UDP, UDP(5353, 5353)), never, 0},
		{"IPv4 from elsewhere to a group", s.IP(firewall.MAC{1, 0, 0x5e, 0, 0, 0xfb}, LAN4, netip.MustParseAddr("224.0.0.251"), unix.IPPROTO_UDP, UDP(5353, 5353)), strict, firewall.GuardIP},
		{"IPv4 from elsewhere to a guest", s.IP(s.Other.MAC, LAN4, s.Other.V4, unix.IPPROTO_UDP, UDP(1, 9)), strict, firewall.GuardIP},
		{"IPv6 from elsewhere to a guest", s.IP(s.Other.MAC, LAN6, s.Other.V6, unix.IPPROTO_UDP, UDP(1, 9)), strict, firewall.GuardIP},
		{"IPv4 from another guest", s.IP(s.Gateway.MAC, s.Other.V4, LAN4, unix.IPPROTO_UDP, UDP(1, 9)), strict, firewall.GuardIP},
		{"IPv6 from another guest", s.IP(s.Gateway.MAC, s.Other.V6, LAN6, unix.IPPROTO_UDP, UDP(1, 9)), strict, firewall.GuardIP},
		{"IPv4 without a source", s.IP(s.Other.MAC, none4, s.Other.V4, unix.IPPROTO_UDP, UDP(1, 9)), strict, firewall.GuardIP},
		{"link-local IPv4", s.IP(s.Other.MAC, netip.MustParseAddr("169.254.3.4"), s.Other.V4, unix.IPPROTO_UDP, UDP(1, 9)), never, 0},
		{"link-local IPv6", s.IP(s.Other.MAC, netip.MustParseAddr("fe80::1234"), s.Other.V6, unix.IPPROTO_UDP, UDP(1, 9)), never, 0},
	}
}

// Ether is a frame.
func Ether(dst, src firewall.MAC, kind uint16, payload []byte) []byte {
	b := append(append([]byte{}, dst[:]...), src[:]...)
	b = append(binary.BigEndian.AppendUint16(b, kind), payload...)
	return append(b, make([]byte, max(0, 60-len(b)))...)
}

// Tagged puts tags of 802.1Q behind the addresses of a frame.
func Tagged(frame []byte, vlans ...uint16) []byte {
	b := append([]byte{}, frame[:12]...)
	for _, v := range vlans {
		b = binary.BigEndian.AppendUint16(append(b, 0x81, 0), v)
	}
	return append(b, frame[12:]...)
}

// UDP is a datagram without contents.
func UDP(src, dst uint16) []byte {
	return append(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, src), dst), 0, 8, 0, 0)
}

// ARP is an ARP message of the guest, in which it says who it is.
func (s Segment) ARP(op uint16, mac firewall.MAC, a netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, byte(op)}
	b = append(append(b, mac[:]...), a.AsSlice()...)
	return Ether(Everybody, s.Guest.MAC, unix.ETH_P_ARP, append(append(b, make([]byte, 6)...), s.Other.V4.AsSlice()...))
}

// IP is a packet of the guest, of the family of src.
func (s Segment) IP(to firewall.MAC, src, dst netip.Addr, protocol byte, payload []byte) []byte {
	if src.Is6() {
		b := []byte{0x60, 0, 0, 0, 0, byte(len(payload)), protocol, 255}
		b = append(append(append(b, src.AsSlice()...), dst.AsSlice()...), payload...)
		return Ether(to, s.Guest.MAC, unix.ETH_P_IPV6, b)
	}
	b := []byte{0x45, 0, 0, byte(20 + len(payload)), 0, 0, 0, 0, 64, protocol, 0, 0}
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	binary.BigEndian.PutUint16(b[10:], nstest.Checksum(b))
	return Ether(to, s.Guest.MAC, unix.ETH_P_IP, append(b, payload...))
}

// long has a packet say that it is so long: of IPv6, what is behind its header.
func long(frame []byte, octets uint16) []byte {
	b := append([]byte{}, frame...)
	if b[12] == 0x86 { // ETH_P_IPV6
		binary.BigEndian.PutUint16(b[18:], octets)
		return b
	}
	binary.BigEndian.PutUint16(b[16:], octets)
	b[24], b[25] = 0, 0
	binary.BigEndian.PutUint16(b[24:], nstest.Checksum(b[14:34]))
	return b
}

// ND is a message of neighbour discovery of the guest.
func (s Segment) ND(kind byte, src, target netip.Addr) []byte {
	body := append([]byte{kind, 0, 0, 0, 0x20, 0, 0, 0}, target.AsSlice()...)
	return s.IP(firewall.MAC{0x33, 0x33, 0, 0, 0, 1}, src, netip.MustParseAddr("ff02::1"), unix.IPPROTO_ICMPV6, body)
}

// fragment is a part of a packet of IPv6 to the other guest, which another one follows; offset is in
// octets.
func (s Segment) fragment(offset uint16, next byte, payload []byte) []byte {
	header := append([]byte{next, 0}, binary.BigEndian.AppendUint16(nil, offset|1)...)
	return s.IP(s.Other.MAC, s.Guest.V6, s.Other.V6, unix.IPPROTO_FRAGMENT, append(append(header, 0, 0, 0, 1), payload...))
}

// parts is the first part of a packet, which ends within a header of options: the header of next is in
// the following one.
func (s Segment) parts(next byte) []byte {
	return s.fragment(0, unix.IPPROTO_DSTOPTS, append([]byte{next, 3, 1, 28}, make([]byte, 28)...)[:24])
}

// SNAP has the type of a frame behind headers of LLC and SNAP (RFC 1042), with the last octet of the
// OUI.
func SNAP(frame []byte, oui byte) []byte {
	return Ether(firewall.MAC(frame[:6]), firewall.MAC(frame[6:12]), uint16(8+len(frame)-14), append([]byte{0xaa, 0xaa, 3, 0, 0, oui}, frame[12:]...))
}

// From is a frame to the other guest from a card, of an experimental protocol.
func (s Segment) From(src firewall.MAC) []byte { return Ether(s.Other.MAC, src, 0x88b5, nil) }

// Group is a frame to a reserved group of IEEE 802.1Q, table 8-1.
func (s Segment) Group(last byte) []byte {
	return Ether(firewall.MAC{1, 0x80, 0xc2, 0, 0, last}, s.Guest.MAC, 0x88cc, nil)
}
