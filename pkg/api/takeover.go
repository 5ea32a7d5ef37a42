package api

// Takeover is a network as libvirt's network driver left it: the texts of its
// files. Either document may be empty, not both.
type Takeover struct {
	Definition string   // of /etc/libvirt/qemu/networks
	Status     string   // of /run/libvirt/network; empty: the network is inactive
	Ports      []string // the document of each port
	Leases     string   // a lease file of dnsmasq, or BRIDGE.status of libvirt
	Autostart  bool
}

// What becomes of a network that is taken over.
const (
	TakeDefine  = "define"  // it is defined in vnetd
	TakeAdopt   = "adopt"   // it is active, and goes on as vnetd's
	TakePresent = "present" // vnetd has it already, and it stays as it is
)

// Taken is what a network became, or would become.
type Taken struct {
	Name   string `json:"name"`
	UUID   string `json:"uuid"`
	Bridge string `json:"bridge"`
	// Action is define, adopt or present.
	Action    string `json:"action"`
	Autostart bool   `json:"autostart"`
	// Start: it is inactive and starts now, as it is marked for autostart.
	Start bool        `json:"start"`
	Ports []TakenPort `json:"ports"`
	// Leases is how many were taken over.
	Leases int `json:"leases"`
	// Refused are ports and leases that can't be taken over, and what else went
	// wrong, each with the reason.
	Refused []string `json:"refused"`
}

// TakenPort is a port of libvirt's that goes on.
type TakenPort struct {
	UUID  string `json:"uuid"`
	Owner string `json:"owner"` // the virtual machine
	MAC   string `json:"mac"`
}
