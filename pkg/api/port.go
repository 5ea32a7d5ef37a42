package api

import (
	"net/netip"
	"time"
)

// Lifetime says what ends a port.
type Lifetime string

// The lifetimes of a port.
const (
	// LifetimeFD: the last copy of its file descriptors is closed.
	LifetimeFD = "fd"
	// LifetimeBus: the client that asked for it leaves the bus.
	LifetimeBus = "bus"
	// LifetimePersistent: nothing but its release.
	LifetimePersistent = "persistent"
	// LifetimeExternal: another program, such as libvirt's QEMU driver, makes the
	// device and says when the port ends; that the device is gone for some seconds
	// says so, too. It can't be asked for.
	LifetimeExternal = "external"
)

// Port is what a port is at one moment. VnetHdr and Created are not among the
// properties on D-Bus, and so not in lists.
type Port struct {
	UUID    string   `json:"uuid"`
	Network string   `json:"network"` // name
	Name    string   `json:"name"`    // of the guest, which the network's DNS serves
	Aliases []string `json:"aliases"` // other names of the guest
	MAC     string   `json:"mac"`     // of the guest's card, not of the TAP device
	IfName  string   `json:"ifname"`  // of the TAP device
	Bridge  string   `json:"bridge"`  // that the port is plugged into; empty with a parent
	// Parent is what the port is on in place of a bridge: an interface of the host, or for
	// the mode hostdev the address of a PCI device. Empty with a bridge.
	Parent string `json:"parent"`
	Mode   string `json:"mode"` // of macvtap on the parent, as libvirt calls it
	// HostReach is whether the host itself and the guest reach each other through the
	// network. On a parent they do not, unless the network has <vnetd:host-access>.
	HostReach bool         `json:"host_reach"`
	MTU       int          `json:"mtu"`       // in bytes
	Addresses []netip.Addr `json:"addresses"` // leased since the port is there, in order
	Reserved  []netip.Addr `json:"reserved"`  // as asked for
	Queues    int          `json:"queues"`
	VnetHdr   bool         `json:"vnet_hdr"`
	Isolated  bool         `json:"isolated"`
	Lifetime  Lifetime     `json:"lifetime"`
	Owner     uint32       `json:"owner"`      // uid
	OwnerUUID string       `json:"owner_uuid"` // of the virtual machine; may be empty
	ID        string       `json:"id"`         // the owner's word for the port; may be empty
	Created   time.Time    `json:"created"`
	// PortGroup is the network's <portgroup> that the port is of; empty: its default one.
	PortGroup string `json:"portgroup"`
	// VLAN is what VLANs the port has by itself, its group or its network, as option vlan
	// says it; empty for none.
	VLAN string `json:"vlan"`
	// Rules are the port's own, ahead of those of its network, as "egress allow tcp/443".
	Rules []string `json:"rules"`
	// Guard is what the port is kept from sending: a level and what differs from it,
	// as the option guard has it; "off" also while the kernel does not take it.
	Guard string `json:"guard"`
	// Bandwidth is what the port's traffic is held to, by libvirt's names of limits:
	// inbound is what the guest receives; average, peak and floor are in kilobytes a
	// second, burst in KiB.
	Bandwidth map[string]uint64 `json:"bandwidth"`
	// Stopped is how many frames of each kind that has stopped. Only who asks for
	// one port or for all is told.
	Stopped map[string]uint64 `json:"stopped,omitempty"`
}
