package api

import "net/netip"

// ReachQuestion asks whether a connection can be opened.
type ReachQuestion struct {
	// From and To are each a guest, by name, as NETWORK:NAME, by MAC address or by the device of
	// its port; an IP address; "host", which is this one; or "outside", what is beyond it.
	From, To string
	Protocol string // tcp, udp, sctp or icmp (echo); empty: icmp
	Port     uint16 // that is connected to; 0 with icmp
}

// ReachVerdict is the answer to a ReachQuestion.
type ReachVerdict string

// The verdicts.
const (
	ReachYes     ReachVerdict = "yes"
	ReachNo      ReachVerdict = "no"
	ReachUnknown ReachVerdict = "unknown" // the reason says why it can't be told
)

// Reach is the answer, as things were at one moment: of the rules in the kernel, its
// routes and its links. Nothing was sent.
type Reach struct {
	From     ReachEnd `json:"from"`
	To       ReachEnd `json:"to"`
	Protocol string   `json:"protocol"`
	Port     uint16   `json:"port"`
	// Verdict is yes where one of Ways is, and unknown where none is and one is not known.
	Verdict ReachVerdict `json:"verdict"`
	Ways    []ReachWay   `json:"ways"` // one for each family that both ends have
}

// ReachEnd is who stands at one end, as far as that is known.
type ReachEnd struct {
	Kind      string       `json:"kind"` // guest, host or outside
	Name      string       `json:"name"` // for people
	Network   string       `json:"network"`
	MAC       string       `json:"mac"`
	IfName    string       `json:"ifname"` // of the port
	Addresses []netip.Addr `json:"addresses"`
}

// The kinds of a ReachEnd.
const (
	ReachGuest   = "guest"
	ReachHost    = "host"
	ReachOutside = "outside"
)

// ReachWay is what becomes of the connection by one family.
type ReachWay struct {
	Family      string       `json:"family"` // ipv4 or ipv6
	Source      netip.Addr   `json:"source"`
	Destination netip.Addr   `json:"destination"`
	Verdict     ReachVerdict `json:"verdict"`
	// Reason is one sentence. InAnswer says that it is about what comes back.
	Reason   string `json:"reason"`
	InAnswer bool   `json:"in_answer"`
	// Rule is what decided, or keeps it from being known; null where no rule did. Accepted are
	// the rules that let the connection pass on its way out, in order.
	Rule     *ReachRule  `json:"rule"`
	Accepted []ReachRule `json:"accepted"`
	// Steps are the way out and, behind it, that of the answer.
	Steps []ReachStep `json:"steps"`
	// Translations are what changes addresses on the way out, in order.
	Translations []ReachTranslation `json:"translations"`
	// AnsweredBy is who receives the connection: with a forward, the guest that it leads to.
	AnsweredBy string `json:"answered_by"`
	// Remedies are commands of which one each would make yes of no, Condition the kind of
	// condition that is about it, empty for none. Notes are what is taken for granted.
	Remedies  []string `json:"remedies"`
	Condition string   `json:"condition"`
	Notes     []string `json:"notes"`
}

// ReachRule is a rule, or the policy of a chain.
type ReachRule struct {
	Program string `json:"program"` // nft, iptables, ip6tables, or one of these with its variant
	Table   string `json:"table"`   // of nft with its family
	Chain   string `json:"chain"`
	Text    string `json:"text"` // empty: the policy
	Handle  int    `json:"handle"`
	// Element is the element of a set by which the packet came to the rule, empty for none.
	Element string `json:"element"`
	Action  string `json:"action"` // accept, drop, reject, translate or unknown
	// Owner is whose it is: a network, a forward, the guard of a port, another program; empty
	// where nothing tells.
	Owner string `json:"owner"`
}

// ReachStep is one place on the way.
type ReachStep struct {
	Kind   string `json:"kind"` // port, bridge, route, link, host or outside
	Name   string `json:"name"` // of the device
	Detail string `json:"detail"`
	Answer bool   `json:"answer"` // on the way back
}

// ReachTranslation is a change of addresses.
type ReachTranslation struct {
	Kind string    `json:"kind"` // dnat, redirect, snat or masquerade
	From string    `json:"from"` // ADDRESS:PORT
	To   string    `json:"to"`
	Rule ReachRule `json:"rule"`
}
