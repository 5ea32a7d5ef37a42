package translate

import (
	"cmp"
	"errors"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// Port is how ports of n are plugged in.
func Port(n *netdef.Network) bridge.PortConfig {
	return bridge.PortConfig{
		MTU:        n.MTU,
		Isolated:   n.Isolated == netdef.Yes,
		NoLearning: ManagesMACs(n),
		NoFlood:    ManagesMACs(n),
	}
}

// NetworkPort is doc as a port of a network that is live: networkAllocatePort and
// networkNotifyPort of libvirt.
func NetworkPort(live *netdef.Network, doc *netdef.Port, reclaim bool) (*netdef.Port, error) {
	full := *doc
	switch {
	case reclaim && full.Plug == nil:
		return nil, api.Errorf(api.Invalid, "port '%s' has no plug type and can't be reclaimed", full.UUID)
	case !reclaim && full.Plug != nil:
		return nil, api.Errorf(api.Invalid, "port '%s' has a plug, which the network is to say", full.UUID)
	}
	group := portGroup(live, full.Group)
	full.Bandwidth = cmp.Or(full.Bandwidth, group.Bandwidth)
	full.VirtualPort = cmp.Or(full.VirtualPort, group.VirtualPort)
	full.VLAN = cmp.Or(full.VLAN, group.VLAN, live.VLAN)
	full.Isolated = cmp.Or(full.Isolated, live.Isolated)
	full.TrustGuestRxFilters = cmp.Or(full.TrustGuestRxFilters, group.TrustGuestRxFilters, live.TrustGuestRxFilters)
	plug := &netdef.Plug{Type: netdef.PlugBridge, Bridge: live.Bridge.Name, MACTableManager: live.Bridge.MACTableManager}
	if live.Mode().OwnsBridge() {
		plug.Type = netdef.PlugNetwork
	}
	if reclaim && (full.Plug.Type != plug.Type || full.Plug.Bridge != plug.Bridge) {
		return nil, api.Errorf(api.Invalid, "port '%s' is not plugged into bridge '%s' of network '%s'", full.UUID, plug.Bridge, live.Name)
	}
	full.Plug = plug
	if full.VLAN != nil {
		return nil, api.Errorf(api.Unsupported, "an interface connecting to network '%s' is requesting a vlan tag, but that is not supported for this type of network", live.Name)
	}
	if err := checkVirtualPort(live, &full); err != nil && !reclaim {
		return nil, err
	}
	return &full, CheckFloor(live, &full)
}

// checkVirtualPort refuses a port profile that the network's ports can't have.
func checkVirtualPort(live *netdef.Network, p *netdef.Port) error {
	v := p.VirtualPort
	switch {
	case v == nil:
		return nil
	case live.Mode().OwnsBridge():
		return api.Errorf(api.Unsupported, "<virtualport type='%s'> not supported for network '%s' which uses IP forwarding", v.Type, live.Name)
	case v.Type != "openvswitch":
		return api.Errorf(api.Unsupported, "<virtualport type='%s'> not supported for network '%s' which uses a bridge device", v.Type, live.Name)
	}
	return nil
}

// portGroup is the group of that name; for none, and for one that the network has
// not, the one that is marked as default, and else an empty one.
func portGroup(live *netdef.Network, name string) netdef.PortGroup {
	for _, g := range live.PortGroups {
		if g.Name == name && name != "" || g.Default && name == "" {
			return g
		}
	}
	return netdef.PortGroup{}
}

// ErrFloor is in the error of a port with a guarantee that nothing on its network
// can keep.
var ErrFloor = errors.New("invalid use of 'floor'")

// CheckFloor refuses a guarantee that nothing on the network can keep.
func CheckFloor(live *netdef.Network, p *netdef.Port) error {
	b := p.Bandwidth
	switch {
	case b == nil || b.Inbound == nil || b.Inbound.Floor == 0:
		return nil
	case !live.Mode().OwnsBridge():
		return api.Errorf(api.Unsupported, "%w on interface with MAC address %s - 'floor' is only supported for interface type 'network' with forward type 'nat', 'route', 'open' or none", ErrFloor, p.MAC)
	case live.Bandwidth == nil || live.Bandwidth.Inbound == nil:
		return api.Errorf(api.Unsupported, "%w on interface with MAC address %s - network '%s' has no inbound QoS set", ErrFloor, p.MAC, live.Name)
	}
	return nil
}
