package translate

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// checkVirtualPort refuses a port profile that the network's ports can't have.
func checkVirtualPort(live *netdef.Network, p *netdef.Port) error {
	if p.VirtualPort == nil {
		return nil
	}
	allowed := map[netdef.PlugType]struct {
		types []string
		what  string
	}{
		netdef.PlugNetwork:    {nil, "IP forwarding"},
		netdef.PlugBridge:     {[]string{"openvswitch"}, "a bridge device"},
		netdef.PlugDirect:     {[]string{"802.1Qbg", "802.1Qbh"}, "a macvtap device"},
		netdef.PlugHostdevPCI: {[]string{"802.1Qbg", "802.1Qbh"}, "an SR-IOV Virtual Function via PCI passthrough"},
	}[live.PortPlug()]
	if slices.Contains(allowed.types, p.VirtualPort.Type) {
		return nil
	}
	return api.Errorf(api.Unsupported, "<virtualport type='%s'> not supported for network '%s' which uses %s", p.VirtualPort.Type, live.Name, allowed.what)
}

// mergeVirtualPorts is one profile of those of a port, its network and its group, of which
// each may be nil: virNetDevVPortProfileMerge3 of libvirt. The error is of type netdef.Faults where
// two say something else.
func mergeVirtualPorts(profiles ...*netdef.VirtualPort) (*netdef.VirtualPort, error) {
	var merged *netdef.VirtualPort
	for _, p := range profiles {
		switch {
		case p == nil:
			continue
		case merged == nil:
			merged = &netdef.VirtualPort{}
		}
		if err := mergeVirtualPort(merged, p); err != nil {
			return nil, err
		}
	}
	return merged, nil
}

// mergeVirtualPort adds to v what p says, as far as v's type has it.
func mergeVirtualPort(v, p *netdef.VirtualPort) error {
	if v.Type != "" && p.Type != "" && v.Type != p.Type {
		return mismatched("types (%s and %s)", v.Type, p.Type)
	}
	v.Type = cmp.Or(v.Type, p.Type)
	is := func(types ...string) bool { return v.Type == "" || slices.Contains(types, v.Type) }
	for _, n := range []struct {
		what string
		into **int
		from *int
	}{{"managerids", &v.ManagerID, p.ManagerID}, {"typeids", &v.TypeID, p.TypeID}, {"typeidversions", &v.TypeIDVersion, p.TypeIDVersion}} {
		switch {
		case n.from == nil || !is("802.1Qbg"):
		case *n.into != nil && **n.into != *n.from:
			return mismatched("%s (%d and %d)", n.what, **n.into, *n.from)
		default:
			*n.into = n.from
		}
	}
	for _, w := range []struct {
		what, from string
		into       *string
		wanted     bool
	}{
		{"instanceids", p.InstanceID, &v.InstanceID, is("802.1Qbg")},
		{"interfaceids", p.InterfaceID, &v.InterfaceID, is("openvswitch", "midonet")},
		{"profileids", p.ProfileID, &v.ProfileID, is("openvswitch", "802.1Qbh")},
	} {
		if !w.wanted {
			continue
		}
		if err := mergeWord(w.what, w.into, w.from); err != nil {
			return err
		}
	}
	return nil
}

// mismatched is the error of profiles of which two say something else.
func mismatched(format string, args ...any) error {
	return netdef.Faults{{Path: "networkport/virtualport", Problem: "attempt to merge virtualports with mismatched " + fmt.Sprintf(format, args...)}}
}

// mergeWord has into say what from does, unless it says something else.
func mergeWord(what string, into *string, from string) error {
	if from == "" {
		return nil
	}
	if *into != "" && *into != from {
		return mismatched("%s ('%s' and '%s')", what, *into, from)
	}
	*into = from
	return nil
}

// completeVirtualPort makes up what a profile needs and does not say:
// virNetDevVPortProfileCheckComplete of libvirt. The error is Invalid where only the admin
// can say it.
func completeVirtualPort(v *netdef.VirtualPort) error {
	if v == nil {
		return nil
	}
	missing := ""
	switch v.Type {
	case "802.1Qbg":
		switch {
		case v.ManagerID == nil:
			missing = "managerid"
		case v.TypeID == nil:
			missing = "typeid"
		case v.TypeIDVersion == nil:
			missing = "typeidversion"
		case v.InstanceID == "":
			v.InstanceID = ether.RandomUUID()
		}
	case "802.1Qbh":
		if v.ProfileID == "" {
			missing = "profileid"
		}
	case "openvswitch":
		if v.InterfaceID == "" {
			v.InterfaceID = ether.RandomUUID()
		}
	}
	if missing != "" {
		return api.Errorf(api.Invalid, "missing %s in <virtualport type='%s'>", missing, v.Type)
	}
	return nil
}

// virtualPortType is the type of n's profile, empty for none.
func virtualPortType(n *netdef.Network) string {
	if n.VirtualPort == nil {
		return ""
	}
	return n.VirtualPort.Type
}

// IsOpenVSwitch reports whether the ports of n are those of a bridge of Open vSwitch by its
// document.
func IsOpenVSwitch(n *netdef.Network) bool { return virtualPortType(n) == "openvswitch" }
