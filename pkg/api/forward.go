package api

import "net/netip"

// LifetimePort is the lifetime of a forward that ends with a port.
const LifetimePort = "port"

// ForwardState says where a forward stands.
type ForwardState string

// The states of a forward.
const (
	ForwardActive   ForwardState = "active"   // it leads somewhere
	ForwardWaiting  ForwardState = "waiting"  // its guest has no address yet
	ForwardInactive ForwardState = "inactive" // its network is
)

// Forward is ports of the host that lead to a guest, at one moment.
type Forward struct {
	UUID     string `json:"uuid"`    // the same for the same ports of the same network
	Network  string `json:"network"` // name
	Protocol string `json:"protocol"`
	// Ports is a port of the host or a range of them, as "8080-8089".
	Ports string `json:"ports"`
	// Address is that of the host; empty: all, 0.0.0.0 or ::, all of one family.
	Address string         `json:"address"`
	To      string         `json:"to"`      // the guest's name, MAC address or IP address
	ToPort  uint16         `json:"to_port"` // the guest's for the first of Ports
	From    []netip.Prefix `json:"from"`    // who may use it; none: all
	// Lifetime is LifetimePersistent, LifetimeBus or LifetimePort; Port is the UUID of
	// that port, empty for the others.
	Lifetime Lifetime     `json:"lifetime"`
	Port     string       `json:"port"`
	State    ForwardState `json:"state"`
	Targets  []netip.Addr `json:"targets"` // to which it leads, at most one of each family
	// Connections is how many go on by it now. Only who asks for one forward is told.
	Connections *int `json:"connections,omitempty"`
	// Packets and Bytes are those of these connections, of both directions, where the kernel
	// counts them.
	Packets *uint64 `json:"packets,omitempty"`
	Bytes   *uint64 `json:"bytes,omitempty"`
}

// ForwardOptions say what a forward shall be.
type ForwardOptions struct {
	Protocol string // empty: tcp
	Ports    string // as in Forward
	Address  string // as in Forward
	To       string // empty, of a forward that ends with a port: the port's guest
	ToPort   uint16 // 0: as the first of Ports
	From     []string
	// Lifetime is LifetimePersistent (also when empty): the forward is part of the
	// network's definition; or LifetimeBus: it ends with the client that asked for it.
	Lifetime Lifetime
}
