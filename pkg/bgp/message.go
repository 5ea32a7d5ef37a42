package bgp

import (
	"net/netip"
	"time"
)

// Order is what the program is told, one JSON document after the other on its standard input.
// The first has Config, and none after it.
type Order struct {
	Config *Config `json:"config,omitempty"`
	// Prefixes are all that are announced from now on.
	Prefixes []netip.Prefix `json:"prefixes"`
	Number   uint64         `json:"number"`
	// End has it withdraw all and end its sessions. Whose input ends without it leaves its
	// routes to the next one.
	End bool `json:"end,omitempty"`
}

// Report is what the program says, one JSON document after the other on its standard output.
type Report struct {
	// Number is that of the last order that was carried out.
	Number     uint64     `json:"number"`
	RouterID   netip.Addr `json:"router_id,omitzero"`
	Neighbours []Peer     `json:"neighbours"` // in the order of the configuration
	Error      string     `json:"error,omitempty"`
}

// Peer is how the session with a neighbour stands.
type Peer struct {
	Address netip.Addr `json:"address"`
	Up      bool       `json:"up"`
	Since   time.Time  `json:"since"`
	// Reason is why it is not up, as far as that is known.
	Reason string `json:"reason,omitempty"`
	// Flaps is how often it went down since the program started.
	Flaps uint64 `json:"flaps"`
}
