package api

import (
	"net/netip"
	"time"
)

// PeerState says where a peering stands.
type PeerState string

// The states of a peering.
const (
	PeerActive   PeerState = "active"   // it holds
	PeerWaiting  PeerState = "waiting"  // it does not, or not whole: Reason says why
	PeerInactive PeerState = "inactive" // its network is
)

// Peer is what guests of a network and those of another may open to each other.
type Peer struct {
	Network   string    `json:"network"`   // the other's name
	Direction string    `json:"direction"` // out, in or both, as guests of the network see it
	Services  []string  `json:"services"`  // as "tcp/5432"; none: everything
	State     PeerState `json:"state"`
	Reason    string    `json:"reason"`
	// Met are the first packets of connections that it let in, since the rules were last
	// written. Only who asks for one network is told.
	Met *Met `json:"met,omitempty"`
}

// Met is what a rule has met.
type Met struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Rules are what becomes of connections that guests open, or that are opened to them: the
// first rule that fits decides.
type Rules struct {
	Rules []string `json:"rules"` // as "egress allow tcp/443 to www.example.org"
	// Met are the first packets of connections that each of Rules has decided, since they were
	// last written, in networks that refuse some. Only who asks for one network is told.
	Met []Met `json:"met,omitempty"`
	// Egress and Ingress are what becomes of the others: allow, reject or drop; empty: what
	// the network's mode says.
	Egress  string    `json:"egress"`
	Ingress string    `json:"ingress"`
	Sets    []RuleSet `json:"sets"`
	// Names are the addresses that names in rules have, as guests have learnt them.
	Names []RuleName `json:"names"`
}

// RuleSet is a set that rules name.
type RuleSet struct {
	Name    string   `json:"name"`
	Members []string `json:"members"`
}

// RuleName is an address of a name in rules, until it ends.
type RuleName struct {
	Name  string     `json:"name"`
	Addr  netip.Addr `json:"address"`
	Until time.Time  `json:"until"`
}
