package uplink

import (
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/pkg/bridge"
)

// Config says which link becomes a port of which new bridge.
type Config struct {
	// Bridge is the name of the bridge to make.
	Bridge string
	// Uplink is the name of the Ethernet device or bond that leads to the
	// LAN.
	Uplink string
	// Parent and VLAN say that Uplink is the device of a VLAN of another link, which is made
	// where it is not there, and then goes with the bridge; "" and 0 for no VLAN.
	Parent string
	VLAN   int
	// MTU is the bridge's, and the least of the uplink; 0 for that of the uplink.
	MTU int
	// CheckTimeout is how long the gateways may take to answer over the
	// bridge, 0 for DefaultCheckTimeout.
	CheckTimeout time.Duration
	// Save stores the state where Detach will find it, also after this
	// process or the machine's power died. It is called once, before the first
	// change; its error ends Attach with nothing changed. nil: nothing
	// is stored.
	Save func(State) error
}

// State is how an uplink was before Attach, with what Ensure found since: all that Detach
// and Ensure need. It is for encoding/json; it is of no use after a reboot.
type State struct {
	Bridge string           `json:"bridge"`
	Uplink string           `json:"uplink"`
	Index  int              `json:"index"` // of the uplink, as it is in Routes
	MAC    net.HardwareAddr `json:"mac"`   // of the bridge
	MTU    int              `json:"mtu"`
	Up     bool             `json:"up"`
	// AskedMTU is Config.MTU, OwnMTU what the uplink had where that was less; else 0.
	AskedMTU int `json:"asked_mtu,omitempty"`
	OwnMTU   int `json:"own_mtu,omitempty"`
	// Parent and VLAN are as in Config; Made says that the uplink was made for the bridge.
	Parent string `json:"parent,omitempty"`
	VLAN   int    `json:"vlan,omitempty"`
	Made   bool   `json:"made,omitempty"`
	// BridgeIndex is that of the bridge once it is known, 0 before.
	BridgeIndex int `json:"bridge_index,omitempty"`
	// Device is what the uplink is known by.
	Device Device `json:"device"`
	// Taken is when the state was read, since the machine was booted.
	Taken time.Duration `json:"taken"`
	// Addresses, Routes and Neighbours are those of the uplink, in the
	// kernel's order and its own form (rtnetlink(7)): bodies of RTM_NEWADDR,
	// RTM_NEWROUTE and RTM_NEWNEIGH messages.
	Addresses  [][]byte `json:"addresses"`
	Routes     []Route  `json:"routes"`
	Neighbours [][]byte `json:"neighbours"`
}

// Route is a route of an uplink.
type Route struct {
	// First says that the kernel preferred it to all others to the same
	// destination with the same metric.
	First bool `json:"first"`
	// Advertised says that the kernel made it of a router advertisement, and
	// shall renew it with the next ones.
	Advertised bool   `json:"advertised"`
	Message    []byte `json:"message"`
}

// Uplinks moves uplinks in one network namespace, that of the thread that called
// New. All methods are safe for concurrent use.
type Uplinks struct {
	links  *bridge.Bridges
	kernel kernel
	mu     sync.Mutex // serialises Attach and Detach
	// hook is called after each change that these two made, for tests that stop
	// them half-way; nil otherwise.
	hook func() error
}

// New opens the netlink socket for requests. Bridges are made and removed by links,
// which stays the caller's to close.
func New(links *bridge.Bridges) (*Uplinks, error) {
	socket, err := netlink.Open(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	return &Uplinks{links: links, kernel: kernel{socket}}, nil
}

// Close closes the netlink socket. No uplink changes. No method may be called any
// more.
func (u *Uplinks) Close() { _ = u.kernel.Close() }

// sinceBoot is the time since the machine was booted, with that asleep.
func sinceBoot() (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0, fmt.Errorf("reading the clock: %w", err)
	}
	return time.Duration(now.Nano()), nil
}
