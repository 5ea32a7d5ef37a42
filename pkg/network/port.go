package network

import (
	"bytes"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"sync"

	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/store"
)

// maxQueues is what the kernel gives one TAP device (MAX_TAP_QUEUES).
const maxQueues = 256

// maxText is the length of the longest id and owner's UUID, in bytes.
const maxText = 255

// PortOptions say what port is wanted.
type PortOptions struct {
	Name     string           // the guest's name, empty for none
	MAC      net.HardwareAddr // the guest's card; nil: one is made up
	IfName   string           // of the TAP device; empty: vnet0, vnet1, …
	Addrs    []netip.Addr     // set aside for the guest, at most one of a family
	Queues   int              // file descriptors, one a queue; 0 for one
	VnetHdr  bool             // frames carry a virtio_net header (IFF_VNET_HDR)
	Isolated bool             // no frames between this port and others that are isolated
	Lifetime string           // empty for LifetimeFD
	// Owner is the uid of whose port it is: who may open its device by name, and
	// whose limits count.
	Owner uint32
	// ID is the owner's word for the port, empty for none: asked for again, it is
	// the same port.
	ID        string
	OwnerUUID string // of the virtual machine, for display
	// Holder is who holds a port with LifetimeBus, see Manager.HolderGone.
	Holder string
}

// port is one port. What it is doesn't change while it lives, but for what
// ports.mu guards.
type port struct {
	store.Port
	network  *Network
	ending   sync.Mutex // held by who deletes it
	failed   error      // why it could not be deleted, nil for nothing; guarded by ports.mu
	retrying bool       // somebody tries again to delete it; guarded by ending

	guest   net.HardwareAddr // the card's where it is not MAC, see learn; nil: none is known; guarded by ports.mu
	left    bool             // the guest has closed the device; guarded by ports.mu
	held    []netip.Addr     // leased since the port is there, in order; guarded by ports.mu
	news    chan struct{}    // closed and made anew when held changes; guarded by ports.mu
	carrier bool             // somebody had the device open; only Watch's goroutine
}

// newPort is p as a port of n.
func newPort(n *Network, p store.Port) *port {
	p.Queues = max(p.Queues, 1) // not told by what older versions recorded
	return &port{Port: p, network: n, guest: p.Guest, news: make(chan struct{})}
}

// check refuses options that no port can have.
func (o PortOptions) check() error {
	switch {
	case !slices.Contains([]string{"", api.LifetimeFD, api.LifetimeBus, api.LifetimePersistent}, o.Lifetime):
		return api.Errorf(api.Invalid, "option lifetime: %q is not a lifetime, want fd, bus or persistent", o.Lifetime)
	case o.Queues < 0 || o.Queues > maxQueues:
		return api.Errorf(api.Invalid, "option queues: %d is not a number of queues, want 1 to %d", o.Queues, maxQueues)
	case o.MAC != nil && !ether.IsCard(o.MAC):
		return api.Errorf(api.Invalid, "option mac: %q is not the address of a card, want six bytes, not multicast, not all zero", o.MAC)
	case o.Name != "" && !hostLabel.MatchString(o.Name):
		return api.Errorf(api.Invalid, "option name: %.80q is not a host name, want 1 to 63 letters, digits and hyphens", o.Name)
	case o.IfName != "" && !ether.ValidName(o.IfName):
		return api.Errorf(api.Invalid, "option ifname: %q is not an interface name, want 1 to 15 characters without blank, slash or colon", o.IfName)
	case len(o.ID) > maxText:
		return api.Errorf(api.Invalid, "option id: %d bytes long, want at most %d", len(o.ID), maxText)
	case o.OwnerUUID != "" && !uuidText.MatchString(o.OwnerUUID):
		return api.Errorf(api.Invalid, "option owner_uuid: %.80q is not a UUID", o.OwnerUUID)
	}
	return o.checkAddrs()
}

// checkAddrs refuses two addresses of one family: DHCP gives a card one.
func (o PortOptions) checkAddrs() error {
	for i, a := range o.Addrs {
		if slices.ContainsFunc(o.Addrs[:i], func(b netip.Addr) bool { return a.Is4() == b.Is4() }) {
			return api.Errorf(api.Invalid, "option address: %v is the second of its family, want at most one IPv4 and one IPv6 address", a)
		}
	}
	return nil
}

// hostLabel is one label of a host name (RFC 1123 §2.1), uuidText a UUID.
var (
	hostLabel = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
	uuidText  = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
)

// differs names the option of a port that is there which o asks to be otherwise,
// empty for none. What o leaves open fits.
func (o PortOptions) differs(p *port) string {
	lifetime := o.Lifetime
	if lifetime == "" {
		lifetime = api.LifetimeFD
	}
	for _, f := range []struct {
		option string
		other  bool
	}{
		{"name", o.Name != "" && o.Name != p.Name},
		{"mac", o.MAC != nil && !bytes.Equal(o.MAC, p.MAC)},
		{"ifname", o.IfName != "" && o.IfName != p.IfName},
		{"address", len(o.Addrs) > 0 && !slices.Equal(o.Addrs, p.Addrs)},
		{"queues", max(o.Queues, 1) != p.Queues},
		{"vnet_hdr", o.VnetHdr != p.VnetHdr},
		{"isolated", o.Isolated != p.Isolated},
		{"lifetime", lifetime != p.Lifetime},
		{"owner_uuid", o.OwnerUUID != "" && o.OwnerUUID != p.OwnerUUID},
	} {
		if f.other {
			return f.option
		}
	}
	return ""
}
