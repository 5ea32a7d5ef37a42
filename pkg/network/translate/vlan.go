package translate

import (
	"cmp"
	"errors"
	"slices"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/bridge/vlan"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// FiltersVLANs reports whether n's bridge looks at tags.
func FiltersVLANs(n *netdef.Network) bool {
	return hasBridge(n) && (n.HasVLANs() || n.BridgePolicy.FilterVLANs == netdef.Yes)
}

// hasBridge reports whether ports of n that have no profile are on a bridge of the kernel's.
func hasBridge(n *netdef.Network) bool {
	return n.Mode().OwnsBridge() || n.Mode() == netdef.ModeBridge && n.Bridge.Name != "" && n.VirtualPort == nil
}

// PortVLANs are the VLANs of a port of live in that group, which asks for own itself, as ports can
// in mode bridge; nil for none.
func PortVLANs(live *netdef.Network, group string, own *netdef.VLAN) vlan.Table {
	return table(PortVLAN(live, group, own))
}

// PortVLAN is PortVLANs as a document has them.
func PortVLAN(live *netdef.Network, group string, own *netdef.VLAN) *netdef.VLAN {
	if !hasBridge(live) {
		return nil
	}
	if CheckPortVLANs(live, own) != nil {
		own = nil // it was another network when the port was made
	}
	return cmp.Or(own, portGroup(live, group).VLAN, live.VLAN)
}

// table is a <vlan> as a bridge has it. The frames of one VLAN have no tag; those of a
// trunk have one, but for those of a native VLAN.
func table(v *netdef.VLAN) vlan.Table {
	if v == nil {
		return nil
	}
	t := vlan.Table{}
	for _, tag := range v.Tags {
		native := tag.NativeMode != ""
		single := !v.Trunk && len(v.Tags) == 1
		t = t.With(vlan.Entry{ID: uint16(tag.ID), PVID: single || native, Untagged: single && !native || tag.NativeMode == "untagged"})
	}
	return t
}

// TrunkVLANs are the VLANs of n and of its groups.
func TrunkVLANs(n *netdef.Network) vlan.Table {
	t := vlan.Table{}
	if !hasBridge(n) {
		return t
	}
	for _, g := range append(slices.Clone(n.PortGroups), netdef.PortGroup{VLAN: n.VLAN}) {
		t = t.Joined(table(g.VLAN))
	}
	return t
}

// CheckPortVLANs refuses VLANs of a port's own that those of live can't have.
func CheckPortVLANs(live *netdef.Network, own *netdef.VLAN) error {
	if own != nil && live.Mode() != netdef.ModeBridge {
		return api.Errorf(api.Unsupported, "option vlan: network %q is in mode %s: only ports of mode bridge have VLANs", live.Name, live.Mode())
	}
	return nil
}

// VLANError says of an error of pkg/bridge what an admin can do for VLANs on the bridge of
// live. Other errors stay what they are.
func VLANError(live *netdef.Network, err error) error {
	switch {
	case errors.Is(err, bridge.ErrCantFilter):
		return api.Errorf(api.Unsupported, "network %q has ports with VLANs: %w: it is built without CONFIG_BRIDGE_VLAN_FILTERING", live.Name, err)
	case errors.Is(err, bridge.ErrNotFiltering) && live.Uplink != "":
		return api.Errorf(api.InvalidState, "network %q: %w: put <vnetd:bridge vlan-filtering='yes'/> into its definition", live.Name, err)
	case errors.Is(err, bridge.ErrNotFiltering):
		return api.Errorf(api.InvalidState, "network %q: %w: ip link set %s type bridge vlan_filtering 1", live.Name, err, live.Bridge.Name)
	case errors.Is(err, bridge.ErrCantSnoop):
		return api.Errorf(api.Unsupported, "network/vnetd:bridge: %w: it is built without CONFIG_BRIDGE_IGMP_SNOOPING", err)
	}
	return err
}

// CheckHostBridge refuses a bridge of the host's that carries frames of ports whatever
// their tags, where live keeps VLANs apart.
func CheckHostBridge(live *netdef.Network, br bridge.Link) error {
	if !FiltersVLANs(live) || live.Uplink != "" || br.Kind != bridge.Kind {
		return nil
	}
	return VLANError(live, br.MustFilter())
}

// snooping is whether the bridge of n sends multicast only where somebody listens: not by
// default where it keeps VLANs apart. It knows of one querier for all of them, and guests
// in a VLAN that has none would lose their neighbours' solicitations, and IPv6 with them.
func snooping(n *netdef.Network) bridge.Switch {
	if n.BridgePolicy.Snooping == netdef.Unset && FiltersVLANs(n) {
		return bridge.Off
	}
	return switchOf(n.BridgePolicy.Snooping)
}

// switchOf is what a bridge is told of something that a document may leave open.
func switchOf(t netdef.Tristate) bridge.Switch {
	return map[netdef.Tristate]bridge.Switch{netdef.Yes: bridge.On, netdef.No: bridge.Off}[t]
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
