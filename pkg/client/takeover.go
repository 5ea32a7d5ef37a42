package client

import "context"

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

// TakeOver makes a network of libvirt's one of vnetd's; where it is active its
// guests stay plugged in. libvirt's network driver and its dnsmasq must have ended.
// With dry nothing is changed, and the result is what would be. ErrInvalid,
// ErrExists, ErrConflict and ErrUnsupported say what keeps it from that.
func (c *Client) TakeOver(ctx context.Context, t Takeover, dry bool) (taken Taken, err error) {
	ports := append([]string{}, t.Ports...)
	err = c.document(ctx, &taken, "TakeOver", t.Definition, t.Status, ports, t.Leases, t.Autostart, dry)
	return taken, err
}

// ImportPending reports whether vnetd is configured to take over libvirt's networks
// and they were not yet.
func (c *Client) ImportPending(ctx context.Context) (bool, error) {
	return managerProperty[bool](ctx, c, "ImportPending")
}

// SetImported says that libvirt's networks were taken over.
func (c *Client) SetImported(ctx context.Context) error {
	return c.setProperty(ctx, rootPath, managerInterface, "ImportPending", false)
}
