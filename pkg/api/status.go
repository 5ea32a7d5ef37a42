package api

import "time"

// NetworkStatus is a network with all that hangs on it.
type NetworkStatus struct {
	Network
	Ports      []Port      `json:"ports"`
	Forwards   []Forward   `json:"forwards"`
	Peers      []Peer      `json:"peers"`
	Rules      Rules       `json:"rules"`
	Leases     []Lease     `json:"leases"`
	Conditions []Condition `json:"conditions"`
	Detail
}

// Status is what vnetd does at one moment.
type Status struct {
	Version    string          `json:"version"`
	Networks   []NetworkStatus `json:"networks"` // in order of name
	Conditions []Condition     `json:"conditions"`
	Firewall   Firewall        `json:"firewall"`
	BGP        *BGP            `json:"bgp"` // null where networks are announced to nobody
}

// Firewall is the firewall, and what became of it since vnetd started.
type Firewall struct {
	// Backend is by what rules of networks are written, iptables or nftables, and Reason
	// why by that.
	Backend    string            `json:"backend"`
	Reason     string            `json:"reason"`
	Repairs    uint64            `json:"repairs"`
	ByCause    map[string]uint64 `json:"by_cause"`
	Rules      uint64            `json:"rules"` // put back
	Zones      uint64            `json:"zones"` // bridges put back into their zones
	Checks     uint64            `json:"checks"`
	Failed     uint64            `json:"failed"`      // repairs
	LastRepair *time.Time        `json:"last_repair"` // null: never
	Contended  bool              `json:"contended"`
	// Offloaded is how many established connections go past the rules now.
	Offloaded int `json:"offloaded_connections"`
}
