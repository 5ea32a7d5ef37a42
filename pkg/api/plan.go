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
	// Services are the sockets that would be served.
	Services      []PlannedService `json:"services"`
	NotUnderstood []string         `json:"not_understood"`
}

// PlannedLink is a bridge that would be made, or one of the host's that is used.
type PlannedLink struct {
	Name         string `json:"name"`
	Made         bool   `json:"made"` // false: it is the host's, and stays as it is
	MAC          string `json:"mac"`  // empty: chosen when the network is defined
	MTU          int    `json:"mtu"`  // 0: the kernel's default
	STP          bool   `json:"stp"`
	ForwardDelay int    `json:"forward_delay"` // seconds
	Uplink       string `json:"uplink"`        // the host's interface that becomes a port; empty: none
	Zone         string `json:"zone"`          // firewalld's; empty: libvirt's, where there is one
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

// PlannedRule is a rule as iptables-save prints it.
type PlannedRule struct {
	Family string `json:"family"` // ipv4 or ipv6
	Table  string `json:"table"`
	Chain  string `json:"chain"`
	Args   string `json:"args"`
}

// PlannedService is something that would be served.
type PlannedService struct {
	Name  string       `json:"name"` // dhcp, dhcpv6, router advertisements, dns, tftp
	Addrs []netip.Addr `json:"addrs"`
}

// String is the rule as a command of iptables or ip6tables.
func (r PlannedRule) String() string {
	program := "iptables"
	if r.Family == "ipv6" {
		program = "ip6tables"
	}
	return fmt.Sprintf("%s -t %s -A %s %s", program, r.Table, r.Chain, r.Args)
}
