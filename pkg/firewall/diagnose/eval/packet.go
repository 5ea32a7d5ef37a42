// Package eval tells what a host's firewalls do to a packet, by carrying out their
// rules on it hook by hook as the kernel would. What it can't know, of the packet or
// of a rule, makes its answer unknown only where it matters.
package eval

import (
	"net/netip"

	"github.com/vnetd/vnetd/pkg/firewall/diagnose/ruleset"
)

// Types of frames, and protocols.
const (
	FrameIPv4 = 0x0800
	FrameARP  = 0x0806
	FrameIPv6 = 0x86dd

	ICMP   = 1
	TCP    = 6
	UDP    = 17
	ICMPv6 = 58
)

// Bits of a connection's state and status (nf_conntrack_common.h).
const (
	StateInvalid     = 1
	StateEstablished = 2
	StateRelated     = 4
	StateNew         = 8
	StateUntracked   = 64

	StatusSNAT = 16
	StatusDNAT = 32
)

// Cast is to whom a frame is addressed, by the numbers of PACKET_HOST and its kin.
type Cast uint8

// The casts.
const (
	ToThisHost Cast = iota
	Broadcast
	Multicast
	ToOther
)

// Packet is what is known of one packet. It may be compared.
type Packet struct {
	Frame    uint16 // FrameIPv4, ...
	Src, Dst netip.Addr
	// Protocol is that of layer 4. Ports are of TCP and UDP, Type of ICMP and ICMPv6.
	Protocol         uint8
	SrcPort, DstPort uint16
	Type             uint8
	TCPFlags         uint8
	ARPOperation     uint16
	SrcMAC, DstMAC   MAC
	Cast             Cast
	Mark             uint32
	Connection       Connection
	unknownMark      bool
}

// MAC is a hardware address; zero: not known.
type MAC [6]byte

// Connection is what conntrack knows of the packet's connection.
type Connection struct {
	State  uint8 // one of the states; of a packet that is not tracked yet, what it will be
	Reply  bool  // the packet goes the other way than the first one
	Status uint8 // StatusSNAT and StatusDNAT
	// Restored is the destination that a reply has before its translation is taken
	// back, as it does in prerouting, to Dst and DstPort. Invalid: it has no other one.
	Restored netip.AddrPort
	Mark     uint32
	// MarkUnknown says that Mark is not known.
	MarkUnknown bool
}

// v6 reports whether the packet is one of IPv6.
func (p *Packet) v6() bool { return p.Frame == FrameIPv6 }

// family is the family of tables that are asked at layer 3.
func (p *Packet) family() string {
	if p.v6() {
		return "ip6"
	}
	return "ip"
}

// Layer is where hooks are.
type Layer uint8

// The layers.
const (
	Device Layer = iota // netdev's ingress and egress
	Bridge
	ARP
	IP
)

// Hook is one place that a packet passes. Names of links are empty where the kernel
// has none at that hook, and Unnamed where the link is not known.
type Hook struct {
	Layer   Layer
	Name    string // "prerouting", "input", "ingress", ...
	In, Out string
	// InBridge and OutBridge are the bridges of the ports In and Out.
	InBridge, OutBridge string
}

// Unnamed is the name of a link that is not known.
const Unnamed = "?"

// Host is what is known of the host beside its rules.
type Host struct {
	Addresses []netip.Prefix // its own, with the lengths of their subnets
	// Routes lead to Addresses' subnets and beyond, the most specific being used. Nil:
	// not known.
	Routes []Route
}

// Route leads to a subnet.
type Route struct {
	To     netip.Prefix
	Device string
}

// Query asks what becomes of a packet on its way through hooks.
type Query struct {
	Rules  *ruleset.Ruleset
	Host   *Host
	Packet Packet
	Path   []Hook
	// Reroute returns the rest of the way of a packet whose destination was changed to
	// one that is not the host's; nil, or a nil way: the question ends there, with
	// Translated.
	Reroute func(p Packet) []Hook
}

// Verdict is what becomes of a packet.
type Verdict uint8

// The verdicts.
const (
	Accepted Verdict = iota
	Dropped
	Rejected
	Translated // it goes to another destination
	Unknown
)

// String is the verdict's word.
func (v Verdict) String() string {
	return [...]string{"accepted", "dropped", "rejected", "translated", "unknown"}[v]
}

// Result is the answer to a query.
type Result struct {
	Verdict Verdict
	// Chain and Rule decided, or keep the verdict from being known; without Rule it
	// was the chain's policy. Both are nil for what nobody has stopped or changed.
	Chain *ruleset.Chain
	Rule  *ruleset.Rule
	// Hook is the hook that the base chain stands on, and Base that chain.
	Hook Hook
	Base *ruleset.Chain
	// Packet is the packet as it was in the end, and Translation the last rule that
	// changed its addresses, nil for none.
	Packet      Packet
	Translation *Translation
}

// Stopped reports whether the packet goes no further.
func (r *Result) Stopped() bool { return r.Verdict == Dropped || r.Verdict == Rejected }
