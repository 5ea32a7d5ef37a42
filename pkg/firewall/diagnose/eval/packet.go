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
	SCTP   = 132
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
	// Protocol is that of layer 4. Ports are of TCP, UDP and SCTP, Type of ICMP and ICMPv6.
	Protocol         uint8
	SrcPort, DstPort uint16
	Type             uint8
	TCPFlags         uint8
	ARPOperation     uint16
	Target           netip.Addr // of neighbour solicitations and advertisements
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
	State uint8 // one of the states; of a packet that is not tracked yet, what it will be
	// NoTrack has it be untracked before conntrack, too: a rule has said so.
	NoTrack bool
	Reply   bool  // the packet goes the other way than the first one
	Status  uint8 // StatusSNAT and StatusDNAT
	// Restored is the destination that a packet of a connection that goes on has before
	// conntrack gives it that of Dst and DstPort, in prerouting or output: of a reply whose
	// connection's source was translated, or of one that follows a first packet whose
	// destination was. Invalid: it has no other one.
	Restored netip.AddrPort
	Mark     uint32
	// MarkUnknown says that Mark is not known.
	MarkUnknown bool
}

// MarkUnknown reports whether the packet's mark is not known.
func (p *Packet) MarkUnknown() bool { return p.unknownMark }

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
	// Looped says that it is the prerouting of what this host sends to itself: conntrack knows
	// the packet already, and its way is clear.
	Looped bool
	// Frame is what the frame's header is from here on, nil: as before.
	Frame *Frame
}

// Frame is who sends a frame and to whom.
type Frame struct {
	Src, Dst MAC
	Cast     Cast
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
	Index  *Index // of Rules; nil: all of them are looked at
	Host   *Host
	Packet Packet
	Path   []Hook
	// Route returns the rest of the way of a packet that has passed prerouting or output
	// of layer 3, which end Path; false: it goes no further, and the question ends there,
	// with Unrouted. Without Route, Path is all of the way: a packet whose destination is
	// changed on it to one that is not the host's ends there, with Translated.
	Route func(p Packet) (rest []Hook, ok bool)
	// Source is the host's address that a packet gets which is masqueraded where it leaves
	// by a link; nil: one that routes tell.
	Source func(p Packet, out string) netip.Addr
	// WithinRates says that no rate or count which a rule looks at is exceeded. Else it is not
	// known.
	WithinRates bool
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
	Unrouted // Query.Route has no way for it
)

// String is the verdict's word.
func (v Verdict) String() string {
	return [...]string{"accepted", "dropped", "rejected", "translated", "unknown", "unrouted"}[v]
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
	// Element is the element of a set with a comment that the packet was found in last,
	// before it was decided upon; nil for none.
	Element *ruleset.Element
	// Accepts are the rules that accepted the packet on its way, in order, and Translations
	// all that changed its addresses.
	Accepts      []Accept
	Translations []Translation
	// Ambiguous says that the packet is accepted in any case, and that it is not known with
	// which addresses.
	Ambiguous bool
}

// Accept is a rule that accepted a packet for its base chain.
type Accept struct {
	Rule    *ruleset.Rule
	Base    *ruleset.Chain
	Hook    Hook
	Element *ruleset.Element // as in Result
}

// Stopped reports whether the packet goes no further.
func (r *Result) Stopped() bool { return r.Verdict == Dropped || r.Verdict == Rejected }
