// Package reach answers whether one may open a connection to another, and why: a packet is
// followed through this host by the rules, routes and links that the kernel has, then its
// answer, and what follows. It changes and sends nothing.
//
// From the bottom: what is known of this host (world.go), who stands at the ends and where (ends.go, place.go),
// one packet on its way (leg.go, layer2.go, neighbour.go), a connection made of them
// (connection.go), and what is said of it (rule.go).
package reach

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/bridge/path"
	"github.com/vnetd/vnetd/pkg/bridge/vlan"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose/eval"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose/ruleset"
)

// Ways tells which way packets take; *path.Asker is the real one.
type Ways interface {
	Lookup(p path.Packet) (path.Way, error)
}

// Links knows links.
type Links interface {
	Lookup(name string) (bridge.Link, error)
	LookupIndex(index int) (bridge.Link, error)
	Members(bridge int) ([]bridge.Link, error)
	FDBPort(bridge int, mac net.HardwareAddr) (port int, err error)
	VLANs(index int) (vlan.Table, error)
}

// World is this host at one moment, as far as it is asked about.
type World struct {
	Networks []Network
	Guests   []Guest
	// Rules are those of the kernel. Hidden says that there may be others.
	Rules  *ruleset.Ruleset
	Hidden error
	// Prefix is how vnetd's chains of iptables begin that are libvirt's otherwise.
	Prefix     string
	Ways       Ways
	Links      Links
	Neighbours Neighbours
	// Addresses are this host's, Routes those that rules ask for (eval.Host).
	Addresses []netip.Prefix
	Routes    []eval.Route
	// BridgeNF4 and BridgeNF6 say that packets within a bridge pass the hooks of layer 3.
	BridgeNF4, BridgeNF6 bool
}

// Network is an active network.
type Network struct {
	Name   string
	Bridge string // empty: its ports are on devices of the host
	Index  int    // ifindex of the bridge
	Rules  firewall.Network
	// Gateways are this host's addresses on it, with the lengths of their subnets, and
	// Behind the subnets that it routes to guests.
	Gateways []netip.Prefix
	Behind   []netip.Prefix
	Domain   string
	Forwards []api.Forward
	Peers    []api.Peer // as its document says
	LAN      bool       // its bridge, which is the host's, leads to the LAN
}

// Guest is a guest of a network.
type Guest struct {
	Network string
	Names   []string
	MAC     net.HardwareAddr
	IfName  string // of its port; empty: not known
	Index   int    // its ifindex
	Addrs   []netip.Addr
	Parent  string // that its macvtap device or virtual function is on, empty for none
	UUID    string // of its port
}

// network is the network of that name, nil for none.
func (w *World) network(name string) *Network {
	return w.findNetwork(func(n *Network) bool { return n.Name == name })
}

// onBridge is the network whose bridge has the ifindex, nil for none.
func (w *World) onBridge(index int) *Network {
	return w.findNetwork(func(n *Network) bool { return n.Index == index && index != 0 })
}

func (w *World) findNetwork(is func(*Network) bool) *Network {
	for i := range w.Networks {
		if is(&w.Networks[i]) {
			return &w.Networks[i]
		}
	}
	return nil
}

// owns reports whether an address is this host's.
func (w *World) owns(a netip.Addr) bool {
	return a.IsLoopback() || slices.ContainsFunc(w.Addresses, func(p netip.Prefix) bool { return p.Addr() == a })
}

// holder is the guest that has an address, nil for none that is known. Where several have
// it, one with a port stands for them.
func (w *World) holder(a netip.Addr) (found *Guest) {
	for i := range w.Guests {
		g := &w.Guests[i]
		if slices.Contains(g.Addrs, a) && (found == nil || found.IfName == "" && g.IfName != "") {
			found = g
		}
	}
	return found
}

// containing is the network in one of whose subnets an address is, nil for none.
func (w *World) containing(a netip.Addr) *Network {
	return w.findNetwork(func(n *Network) bool { return n.holds(a) })
}

// home is the network that the guest with an address is on, nil for none that is known.
func (w *World) home(a netip.Addr) *Network {
	if g := w.holder(a); g != nil {
		return w.network(g.Network)
	}
	return w.containing(a)
}

// holds reports whether an address is in one of the network's subnets.
func (n *Network) holds(a netip.Addr) bool {
	return slices.ContainsFunc(n.Gateways, func(p netip.Prefix) bool { return p.Contains(a) })
}

// gateway is this host's first address of a family on the network, invalid for none.
func (n *Network) gateway(v6 bool) netip.Addr {
	for _, p := range n.Gateways {
		if p.Addr().Is6() == v6 {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// mac is the address of a link's card.
func mac(l bridge.Link) (m eval.MAC) {
	copy(m[:], l.MAC)
	return m
}

// hardware is an address of a card, zero for one that is not known.
func hardware(a net.HardwareAddr) (m eval.MAC) {
	if len(a) == len(m) {
		copy(m[:], a)
	}
	return m
}

// portState is what the kernel says of a bridge's port (linux/if_bridge.h).
type portState struct {
	forwarding, isolated, hairpin bool
}

// stateOf reads what a bridge's port is, zero for what is none.
func stateOf(port string) portState {
	const forwarding = 3 // BR_STATE_FORWARDING
	read := func(name string) int {
		text, err := os.ReadFile("/sys/class/net/" + port + "/brport/" + name)
		if err != nil {
			return 0
		}
		n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
		return n
	}
	return portState{forwarding: read("state") == forwarding, isolated: read("isolated") == 1, hairpin: read("hairpin_mode") == 1}
}

// sysctl reads a setting of the kernel's network, "" if it has none.
func sysctl(name string) string {
	text, err := os.ReadFile("/proc/sys/net/" + name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
