package api

import (
	"fmt"
	"net/netip"
)

// Plan is what a start of a network would make, and what would be in its way.
type Plan struct {
	Name   string `json:"name"`
	Mode   string `json:"mode"`
	Action string `json:"action"` // what the document would do: create, redefine or change (an active network)

	// Conflicts are what is in the way; none: it would start.
	Conflicts []string `json:"conflicts"`
	// Pending is what an active network would become at its next start alone.
	Pending []string `json:"pending"`

	Links     []PlannedLink    `json:"links"`
	Addresses []PlannedAddress `json:"addresses"`
	Routes    []PlannedRoute   `json:"routes"`
	Sysctls   []PlannedSysctl  `json:"sysctls"`
	Rules     []PlannedRule    `json:"rules"`
	Pools     []Pool           `json:"pools"`
	// Forwards are ports of the host that would lead to guests: active where it is known
	// already to which address, waiting otherwise.
	Forwards []Forward `json:"forwards"`
	// Opens are its peerings and rules in words, a line each.
	Opens []string `json:"opens"`
	// Announces are the prefixes of which routers would be told by BGP, but for those of guests.
	Announces []netip.Prefix `json:"announces"`
	// AnnouncesGuests: routers would be told of each guest as well, once it has an address.
	AnnouncesGuests bool `json:"announces_guests"`
	// Services are the sockets that would be served.
	Services      []PlannedService `json:"services"`
	NotUnderstood []string         `json:"not_understood"`
}

// What a PlannedLink is.
const (
	LinkBridge    = "bridge"
	LinkInterface = "interface" // of the host, which ports are on
	LinkMacvlan   = "macvlan"   // of the host beside them
	LinkFunctions = "functions" // the card whose virtual functions ports are on
	LinkPCI       = "pci"       // a device that is passed through
	LinkTunnel    = "tunnel"    // to other hosts
	LinkHost      = "host"      // of this host, with an address of its own in a network that spans hosts
)

// PlannedLink is a link that would be made, or one of the host's that is used.
type PlannedLink struct {
	Name         string `json:"name"`
	Kind         string `json:"kind"`
	Made         bool   `json:"made"` // false: it is the host's, and stays as it is
	MAC          string `json:"mac"`  // empty: chosen when the network is defined
	MTU          int    `json:"mtu"`  // 0: the kernel's default
	STP          bool   `json:"stp"`
	ForwardDelay int    `json:"forward_delay"` // seconds
	Uplink       string `json:"uplink"`        // the host's interface that becomes a port; empty: none
	Zone         string `json:"zone"`          // firewalld's; empty: libvirt's, where there is one

	// Bandwidth is what traffic with guests is held to, by the names of Port.Bandwidth.
	Bandwidth map[string]uint64 `json:"bandwidth"`
	// Span is where a tunnel goes; null for all other links.
	Span *Span `json:"span,omitempty"`
}

// PlannedAddress is an address of a link.
type PlannedAddress struct {
	Link    string       `json:"link"`
	Address netip.Prefix `json:"address"`
}

// PlannedRoute is a route by a guest.
type PlannedRoute struct {
	Destination netip.Prefix `json:"destination"`
	Gateway     netip.Addr   `json:"gateway"`
	Link        string       `json:"link"`
	Metric      int          `json:"metric"`
}

// PlannedSysctl is a setting, its key as in sysctl.d(5).
type PlannedSysctl struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// PlannedRule is a rule as iptables-save prints it, or an element as nft prints it.
type PlannedRule struct {
	Family string `json:"family"` // ipv4 or ipv6
	Table  string `json:"table"`
	Chain  string `json:"chain"`
	Args   string `json:"args"`
	// Form is how it is written: of FormIPTables and the others.
	Form string `json:"form"`
}

// The forms of rules.
const (
	FormIPTables = "iptables"    // a rule as iptables-save prints it
	FormElement  = "nft-element" // an element as nft(8) lists it; Chain is its set or map
	FormRule     = "nft-rule"    // a rule as nft(8) lists it
)

// PlannedService is something that would be served.
type PlannedService struct {
	Name  string       `json:"name"` // dhcp, dhcpv6, router advertisements, dns, tftp
	Addrs []netip.Addr `json:"addrs"`
}

// String is the rule as a command of iptables or ip6tables, or of nft.
func (r PlannedRule) String() string {
	family := "ip"
	if r.Family == "ipv6" {
		family = "ip6"
	}
	switch r.Form {
	case FormElement:
		return fmt.Sprintf("nft add element %s %s %s '{ %s }'", family, r.Table, r.Chain, r.Args)
	case FormRule:
		return fmt.Sprintf("nft add rule %s %s %s %s", family, r.Table, r.Chain, r.Args)
	}
	program := "iptables"
	if r.Family == "ipv6" {
		program = "ip6tables"
	}
	return fmt.Sprintf("%s -t %s -A %s %s", program, r.Table, r.Chain, r.Args)
}
