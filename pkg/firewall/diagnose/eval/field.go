package eval

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/firewall/diagnose/ruleset"
)

// known says what is known of a value.
type known uint8

const (
	certain known = iota
	absent        // the packet has none: the rule does not match
	unclear       // nobody knows
)

// field finds out a field of the packet at a hook.
func (m *reader) field(p *Packet, name string) (ruleset.Value, known) {
	space, rest, _ := strings.Cut(name, " ")
	switch space {
	case "meta":
		return m.meta(p, rest)
	case "ct":
		return m.connection(p, rest)
	case "ip", "ip6":
		return address(p, space, rest)
	case "tcp", "udp", "th", "icmp", "icmpv6", "sctp", "udplite", "dccp":
		return transport(p, space, rest)
	case "ether":
		return ether(p, rest)
	case "arp":
		return arp(p, rest)
	case "fib":
		return m.fib(p, rest)
	case "raw":
		return raw(p, rest)
	case "exthdr":
		if rest == "" { // whether it is there: packets have no such headers
			return ruleset.Uint(0), certain
		}
		return ruleset.Value{}, absent
	case "vlan":
		return ruleset.Value{}, absent
	}
	return ruleset.Value{}, unclear
}

// meta are the fields of nft_meta.
func (m *reader) meta(p *Packet, name string) (ruleset.Value, known) {
	switch name {
	case "iifname", "iif":
		return link(m.hook.In)
	case "oifname", "oif":
		return link(m.hook.Out)
	case "ibrname":
		return bridgeOf(m.hook.InBridge)
	case "obrname":
		return bridgeOf(m.hook.OutBridge)
	case "l4proto":
		if p.Frame == FrameARP {
			return ruleset.Value{}, absent
		}
		return ruleset.Uint(p.Protocol), certain
	case "nfproto":
		return m.nfproto(p), certain
	case "protocol":
		return ruleset.Uint(p.Frame), certain
	case "pkttype":
		return ruleset.Uint(uint8(p.Cast)), certain
	case "mark":
		if p.unknownMark {
			return ruleset.Value{}, unclear
		}
		return ruleset.Uint(p.Mark), certain
	case "ipsec", "secpath":
		return ruleset.Uint(0), certain
	case "skuid", "skgid", "cgroup":
		if m.hook.In != "" {
			return ruleset.Value{}, absent
		}
	}
	return ruleset.Value{}, unclear
}

// nfproto is the family of the hook.
func (m *reader) nfproto(p *Packet) ruleset.Value {
	switch {
	case m.hook.Layer == Bridge:
		return ruleset.Uint(7)
	case m.hook.Layer == ARP:
		return ruleset.Uint(3)
	case m.hook.Layer == Device && m.table.Family == "netdev":
		return ruleset.Uint(5)
	case p.v6():
		return ruleset.Uint(10)
	}
	return ruleset.Uint(2)
}

// link is the name of a link, a text of no characters where there is none.
func link(name string) (ruleset.Value, known) {
	if name == Unnamed {
		return ruleset.Value{}, unclear
	}
	return ruleset.Text(name), certain
}

// bridgeOf is the name of the bridge of a port, which other links have not got.
func bridgeOf(name string) (ruleset.Value, known) {
	if name == "" {
		return ruleset.Value{}, absent
	}
	return link(name)
}

// follows reports whether conntrack has a packet be of a connection by now.
func (m *reader) follows(c *Connection) bool {
	return m.tracked && c.State != 0 && c.State != StateUntracked
}

// state is that of a packet by now. Before conntrack, and where it is not, it is invalid.
func (m *reader) state(c *Connection) uint8 {
	if m.follows(c) || c.State == StateUntracked && (m.tracked || c.NoTrack) {
		return c.State
	}
	return StateInvalid
}

// connection are the fields of nft_ct. Before conntrack, and where it is not, a packet
// has only a state.
func (m *reader) connection(p *Packet, name string) (ruleset.Value, known) {
	c := &p.Connection
	switch {
	case m.hook.Layer == Bridge:
		return ruleset.Value{}, unclear // tracked there if any rule asks for it
	case name == "state":
		return ruleset.Uint(m.state(c)), certain
	case !m.follows(c):
		return ruleset.Value{}, absent
	}
	switch name {
	case "direction":
		if c.Reply {
			return ruleset.Uint(1), certain
		}
		return ruleset.Uint(0), certain
	case "mark":
		if c.MarkUnknown {
			return ruleset.Value{}, unclear
		}
		return ruleset.Uint(c.Mark), certain
	case "helper":
		return ruleset.Value{}, absent
	}
	return ruleset.Value{}, unclear
}

// address are fields of the header of IPv4 or IPv6.
func address(p *Packet, space, name string) (ruleset.Value, known) {
	frame, version := uint16(FrameIPv4), uint8(4)
	if space == "ip6" {
		frame, version = FrameIPv6, 6
	}
	if p.Frame != frame {
		return ruleset.Value{}, absent
	}
	switch name {
	case "saddr":
		return addr(p.Src)
	case "daddr":
		return addr(p.Dst)
	case "protocol", "nexthdr":
		return ruleset.Uint(p.Protocol), certain
	case "version":
		return ruleset.Uint(version), certain
	case "frag-off", "dscp", "ecn":
		return ruleset.Uint(0), certain
	}
	return ruleset.Value{}, unclear
}

// addr is an address, which may not be known.
func addr(a netip.Addr) (ruleset.Value, known) {
	if !a.IsValid() {
		return ruleset.Value{}, unclear
	}
	return ruleset.Addr(a), certain
}

// transport are fields of the headers of layer 4.
func transport(p *Packet, space, name string) (ruleset.Value, known) {
	switch {
	case p.Frame == FrameARP, space != "th" && space != protocolName(p.Protocol):
		return ruleset.Value{}, absent
	case space == "th" && p.Protocol != TCP && p.Protocol != UDP && p.Protocol != SCTP:
		return ruleset.Value{}, unclear // whatever stands at that offset
	}
	switch name {
	case "sport":
		return port(p.SrcPort)
	case "dport":
		return port(p.DstPort)
	case "type":
		return ruleset.Uint(p.Type), certain
	case "code":
		return ruleset.Uint(0), certain
	case "flags":
		return ruleset.Uint(p.TCPFlags), certain
	}
	return ruleset.Value{}, unclear
}

// protocolName is a protocol's name in fields.
func protocolName(protocol uint8) string {
	switch protocol {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case ICMP:
		return "icmp"
	case ICMPv6:
		return "icmpv6"
	case SCTP:
		return "sctp"
	}
	return ""
}

// port is a port; 0 is one that is not known.
func port(n uint16) (ruleset.Value, known) {
	if n == 0 {
		return ruleset.Value{}, unclear
	}
	return ruleset.Uint(n), certain
}

// ether are the fields of a frame. Frames that the host sends have no addresses yet.
func ether(p *Packet, name string) (ruleset.Value, known) {
	switch name {
	case "type":
		return ruleset.Uint(p.Frame), certain
	case "saddr":
		return hardware(p.SrcMAC)
	case "daddr":
		return hardware(p.DstMAC)
	}
	return ruleset.Value{}, unclear
}

// hardware is a hardware address, which may not be known.
func hardware(a MAC) (ruleset.Value, known) {
	if a == (MAC{}) {
		return ruleset.Value{}, unclear
	}
	return ruleset.Uint(binary.BigEndian.Uint64(append([]byte{0, 0}, a[:]...))), certain
}

// arp are the fields of an ARP message of Ethernet and IPv4.
func arp(p *Packet, name string) (ruleset.Value, known) {
	if p.Frame != FrameARP {
		return ruleset.Value{}, absent
	}
	switch name {
	case "operation":
		return ruleset.Uint(p.ARPOperation), certain
	case "htype":
		return ruleset.Uint(uint8(1)), certain
	case "hlen":
		return ruleset.Uint(uint8(6)), certain
	case "plen":
		return ruleset.Uint(uint8(4)), certain
	case "ptype":
		return ruleset.Uint(uint16(FrameIPv4)), certain
	case "saddr ip":
		return addr(p.Src)
	case "daddr ip":
		return addr(p.Dst)
	}
	return ruleset.Value{}, unclear
}

// fib are look-ups of routes: "daddr type", "saddr . iif oif" and their kin.
func (m *reader) fib(p *Packet, name string) (ruleset.Value, known) {
	a := p.Dst
	if strings.HasPrefix(name, "saddr") {
		a = p.Src
	}
	if !a.IsValid() || p.Frame == FrameARP {
		return ruleset.Value{}, unclear
	}
	switch {
	case strings.HasSuffix(name, " type"):
		return m.routeType(a)
	case strings.HasSuffix(name, "iif oif") && strings.HasPrefix(name, "saddr"):
		return m.wayBack(p)
	}
	return ruleset.Value{}, unclear
}

// routeType is the type of the route to an address.
func (m *reader) routeType(a netip.Addr) (ruleset.Value, known) {
	const unicast, local, broadcast, multicast = 1, 2, 3, 5
	n := unicast
	switch {
	case a.IsMulticast():
		n = multicast
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}), a == netip.IPv4Unspecified():
		n = broadcast
	case m.host.owns(a) || a.IsLoopback():
		n = local
	case m.host.broadcasts(a):
		n = broadcast
	case a.Is6() && a.IsLinkLocalUnicast(): // the host's own ones are not looked up
		return ruleset.Value{}, unclear
	}
	return ruleset.Uint(uint8(n)), certain
}

// wayBack is 1 if the packet came in by the link that leads to its source, 0 if not.
func (m *reader) wayBack(p *Packet) (ruleset.Value, known) {
	switch {
	case p.Src.IsUnspecified() || p.Src.Is6() && p.Src.IsLinkLocalUnicast():
		return ruleset.Uint(uint8(1)), certain
	case m.hook.In == Unnamed || m.hook.In == "":
		return ruleset.Value{}, unclear
	}
	device, ok := m.host.device(p.Src)
	switch {
	case !ok:
		return ruleset.Value{}, unclear
	case device == m.hook.In:
		return ruleset.Uint(uint8(1)), certain
	}
	return ruleset.Uint(uint8(0)), certain
}

// owns reports whether an address is the host's.
func (h *Host) owns(a netip.Addr) bool {
	return slices.ContainsFunc(h.Addresses, func(p netip.Prefix) bool { return p.Addr() == a })
}

// broadcasts reports whether an address is that of all hosts of a subnet.
func (h *Host) broadcasts(a netip.Addr) bool {
	return a.Is4() && slices.ContainsFunc(h.Addresses, func(p netip.Prefix) bool {
		return p.Contains(a) && p.Bits() < 31 && !p.Masked().Contains(a.Next()) || p.Masked().Addr() == a && p.Bits() < 31
	})
}

// device is the link that leads to an address.
func (h *Host) device(a netip.Addr) (string, bool) {
	best, at := -1, ""
	for _, r := range h.Routes {
		if r.To.Contains(a) && r.To.Bits() > best {
			best, at = r.To.Bits(), r.Device
		}
	}
	return at, best >= 0
}
