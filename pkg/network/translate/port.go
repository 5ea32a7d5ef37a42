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
		MTU:        DeviceMTU(n),
		Isolated:   n.Isolated == netdef.Yes,
		NoLearning: ManagesMACs(n),
		NoFlood:    ManagesMACs(n),
		Sticky:     n.Span != nil, // or a host could draw what is for guests of this one
	}
}

// NetworkPort is doc as a port of a network that is live, on a device of its pool where it
// has one: networkAllocatePort and networkNotifyPort of libvirt.
func NetworkPort(live *netdef.Network, doc *netdef.Port, reclaim bool, pool *Pool) (*netdef.Port, error) {
	full := *doc
	switch {
	case reclaim && full.Plug == nil:
		return nil, api.Errorf(api.Invalid, "port '%s' has no plug type and can't be reclaimed", full.UUID)
	case !reclaim && full.Plug != nil:
		return nil, api.Errorf(api.Invalid, "port '%s' has a plug, which the network is to say", full.UUID)
	}
	var err error
	if reclaim { // the document says what the port is, whatever the network gives others by now
		if full.Plug, err = pool.reclaim(live, &full); err != nil {
			return nil, err
		}
		return &full, CheckFloor(live, &full)
	}
	group := portGroup(live, full.Group)
	full.Bandwidth = PortBandwidth(live, full.Group, full.Bandwidth)
	full.Isolated = cmp.Or(full.Isolated, live.Isolated)
	full.TrustGuestRxFilters = cmp.Or(full.TrustGuestRxFilters, group.TrustGuestRxFilters, live.TrustGuestRxFilters)
	if err := profiled(live, &full, group); err != nil {
		return nil, err
	}
	if err := tagged(live, &full, group); err != nil {
		return nil, err
	}
	if full.Plug, err = pool.plugInto(live, &full); err != nil {
		return nil, err
	}
	return &full, CheckFloor(live, &full)
}

// profiled gives p the virtual port that the network, its group and p itself say.
func profiled(live *netdef.Network, p *netdef.Port, group netdef.PortGroup) (err error) {
	if p.VirtualPort, err = mergeVirtualPorts(p.VirtualPort, live.VirtualPort, group.VirtualPort); err != nil {
		return err
	}
	if err := checkVirtualPort(live, p); err != nil {
		return err
	}
	return completeVirtualPort(p.VirtualPort)
}

// tagged gives p its VLAN where whoever makes its device puts it there. On a bridge it is
// vnetd that sets what the network says.
func tagged(live *netdef.Network, p *netdef.Port, group netdef.PortGroup) error {
	bridged := hasBridge(live) && p.VirtualPort == nil
	if !bridged {
		p.VLAN = cmp.Or(p.VLAN, group.VLAN, live.VLAN)
	}
	if live.Mode() != netdef.ModeBridge && bridged && p.VLAN.String() == PortVLAN(live, p.Group, nil).String() {
		p.VLAN = nil // libvirtd says what its mirror of the network says
	}
	if p.VLAN != nil && !hasVLANs(live, p.VirtualPort) && (!bridged || live.Mode() != netdef.ModeBridge) {
		return api.Errorf(api.Unsupported, "an interface connecting to network '%s' is requesting a vlan tag, but that is not supported for this type of network", live.Name)
	}
	return nil
}

// hasVLANs reports whether whoever makes the device of a port with that profile, nil for
// none, puts it into VLANs: virtqemud has those of Open vSwitch and of hardware be so.
func hasVLANs(live *netdef.Network, profile *netdef.VirtualPort) bool {
	return live.Mode() == netdef.ModeHostdev || live.Mode() == netdef.ModePassthrough || profile != nil && profile.Type == "openvswitch"
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
