package api

import "time"

// Counts is what was counted until one moment. A count begins with what it counts, and
// anew with it: a port's with its device, those of DHCP and DNS with the service.
type Counts struct {
	Time     time.Time       `json:"time"`
	Networks []NetworkCounts `json:"networks"` // in order of name
	// Conntrack is null where the kernel tracks no connections.
	Conntrack *Conntrack `json:"conntrack"`
}

// Conntrack is how many connections the kernel of the host tracks.
type Conntrack struct {
	Entries uint64 `json:"entries"`
	Limit   uint64 `json:"limit"` // above it new ones are dropped
}

// NetworkCounts is what was counted of a network.
type NetworkCounts struct {
	Name   string       `json:"name"`
	UUID   string       `json:"uuid"`
	State  State        `json:"state"`
	Bridge string       `json:"bridge"`
	DHCP   uint64       `json:"dhcp"` // messages of clients, of both families
	DNS    uint64       `json:"dns"`  // queries answered
	Ports  []PortCounts `json:"ports"`
}

// PortCounts is what was counted of a port, from its guest's point of view. A port without
// a device in this host has zeros.
type PortCounts struct {
	UUID     string  `json:"uuid"`
	Name     string  `json:"name"`
	MAC      string  `json:"mac"`
	IfName   string  `json:"ifname"`
	Receive  Traffic `json:"receive"`
	Transmit Traffic `json:"transmit"`
	Stopped  uint64  `json:"stopped"` // frames of the guest that the guard has stopped
}

// Traffic is what passed in one direction, and what did not.
type Traffic struct {
	Bytes   uint64 `json:"bytes"`
	Packets uint64 `json:"packets"`
	Errors  uint64 `json:"errors"`
	Drops   uint64 `json:"drops"`
}
