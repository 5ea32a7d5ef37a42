package translate

import (
	"cmp"
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// Pool is what ports of a network are on that has no bridge: interfaces of the host, or
// PCI devices.
type Pool struct {
	Devs      []string
	Addresses []netdef.PCIAddress
	// Devices have ports of any network, in that number.
	Uses    map[string]int
	UsesPCI map[netdef.PCIAddress]int
	// Devices that are not there now get no port.
	Away    func(dev string) bool
	AwayPCI func(netdef.PCIAddress) bool
}

// Function is a virtual function of a card: a PCI device and, if it has one, its interface.
type Function struct {
	Address netdef.PCIAddress
	Net     string
}

// NewPool is the pool of a network that is live, of which nothing is used; functions finds
// those of a card, by the name of its interface. It is empty for a network with a bridge.
func NewPool(live *netdef.Network, functions func(dev string) ([]Function, error)) (*Pool, error) {
	kind := live.PortPlug()
	if kind != netdef.PlugDirect && kind != netdef.PlugHostdevPCI || live.Forward == nil {
		return &Pool{}, nil
	}
	f := live.Forward
	if f.PF == "" {
		return &Pool{Devs: f.Interfaces, Addresses: f.Addresses}, nil
	}
	all, err := functions(f.PF)
	if err != nil {
		return nil, api.Errorf(api.Conflict, "Could not get Virtual functions on %s: %w", f.PF, err)
	}
	p := &Pool{}
	for _, function := range all {
		switch {
		case kind == netdef.PlugHostdevPCI:
			p.Addresses = append(p.Addresses, function.Address)
		case function.Net != "":
			p.Devs = append(p.Devs, function.Net)
		}
	}
	if len(p.Devs)+len(p.Addresses) == 0 {
		return nil, api.Errorf(api.Conflict, "No usable Vf's present on SRIOV PF %s", f.PF)
	}
	return p, nil
}

// Dev chooses the interface of the next port of a network that is live: the least used, or
// where the port needs one for itself the first that nobody uses. The error is Conflict
// where there is none.
func (p *Pool) Dev(live *netdef.Network, exclusive bool) (string, error) {
	if len(p.Devs) == 0 {
		return "", api.Errorf(api.Conflict, "network '%s' uses a direct mode, but has no forward dev and no interface pool", live.Name)
	}
	here := slices.DeleteFunc(slices.Clone(p.Devs), p.Away)
	if len(here) == 0 {
		return "", api.Errorf(api.Conflict, "network '%s': none of its interfaces is there: %s", live.Name, strings.Join(p.Devs, ", "))
	}
	dev := slices.MinFunc(here, func(a, b string) int { return cmp.Compare(p.Uses[a], p.Uses[b]) })
	if exclusive && p.Uses[dev] > 0 {
		return "", exclusiveError(live)
	}
	return dev, nil
}

// address is Dev for PCI devices, of which a port always has one for itself.
func (p *Pool) address(live *netdef.Network) (netdef.PCIAddress, error) {
	for _, a := range p.Addresses {
		if p.UsesPCI[a] == 0 && !p.AwayPCI(a) {
			return a, nil
		}
	}
	return netdef.PCIAddress{}, exclusiveError(live)
}

// exclusiveError is libvirt's of a pool whose devices are all in use.
func exclusiveError(live *netdef.Network) error {
	return api.Errorf(api.Conflict, "network '%s' requires exclusive access to interfaces, but none are available", live.Name)
}

// Exclusive reports whether a port with that profile, nil for none, has its interface for
// itself: networkAllocatePort of libvirt.
func Exclusive(live *netdef.Network, profile *netdef.VirtualPort) bool {
	return live.Mode() == netdef.ModePassthrough || live.Mode() == netdef.ModePrivate && profile != nil && profile.Type == "802.1Qbh"
}

// plugInto is the plug of the port p, with its profile, on a network that is live.
func (p *Pool) plugInto(live *netdef.Network, doc *netdef.Port) (*netdef.Plug, error) {
	switch kind := live.PortPlug(); kind {
	case netdef.PlugDirect:
		dev, err := p.Dev(live, Exclusive(live, doc.VirtualPort))
		return &netdef.Plug{Type: kind, Dev: dev, Mode: string(live.Mode())}, err
	case netdef.PlugHostdevPCI:
		a, err := p.address(live)
		plug := &netdef.Plug{Type: kind, Address: a, Managed: netdef.No, Driver: live.Forward.Driver}
		if live.Forward.Managed {
			plug.Managed = netdef.Yes
		}
		return plug, err
	default:
		return &netdef.Plug{Type: kind, Bridge: live.Bridge.Name, MACTableManager: live.Bridge.MACTableManager}, nil
	}
}

// reclaim is the plug that the port p says it has on a network that is live:
// networkNotifyPort of libvirt.
func (p *Pool) reclaim(live *netdef.Network, doc *netdef.Port) (*netdef.Plug, error) {
	plug, kind := doc.Plug, live.PortPlug()
	switch {
	case plug.Type != kind:
		return nil, api.Errorf(api.Invalid, "port '%s' has a plug of type %s, and those of network '%s' are of type %s", doc.UUID, plug.Type, live.Name, kind)
	case kind == netdef.PlugDirect && !slices.Contains(p.Devs, plug.Dev):
		return nil, api.Errorf(api.Conflict, "network '%s' doesn't have dev='%s' in use by network port '%s'", live.Name, plug.Dev, doc.UUID)
	case kind == netdef.PlugDirect && p.Uses[plug.Dev] > 0 && Exclusive(live, doc.VirtualPort):
		return nil, api.Errorf(api.Conflict, "network '%s' claims dev='%s' is already in use by a different port", live.Name, plug.Dev)
	case kind == netdef.PlugHostdevPCI && !slices.Contains(p.Addresses, plug.Address):
		return nil, api.Errorf(api.Conflict, "network '%s' doesn't have PCI device %s in use by network port", live.Name, plug.Address)
	case kind == netdef.PlugHostdevPCI && p.UsesPCI[plug.Address] > 0:
		return nil, api.Errorf(api.Conflict, "network '%s' claims the PCI device %s is already in use by a different network port", live.Name, plug.Address)
	case kind == netdef.PlugDirect, kind == netdef.PlugHostdevPCI:
		return plug, nil
	}
	is, err := p.plugInto(live, doc)
	if err == nil && plug.Bridge != is.Bridge {
		err = api.Errorf(api.Invalid, "port '%s' is not plugged into bridge '%s' of network '%s'", doc.UUID, is.Bridge, live.Name)
	}
	return is, err
}

// CheckOwn refuses a port of vnetd's own on a network whose ports others alone can make; the
// error is Unsupported.
func CheckOwn(live *netdef.Network) error {
	switch {
	case live.PortPlug() == netdef.PlugHostdevPCI:
		return api.Errorf(api.Unsupported, "network %q passes PCI devices through to the guests of libvirt's clients: there is no descriptor that could be handed over", live.Name)
	case IsOpenVSwitch(live):
		return api.Errorf(api.Unsupported, "network %q is on a bridge of Open vSwitch: its ports are made by libvirt's clients; add one of your own with ovs-vsctl add-port %s", live.Name, live.Bridge.Name)
	}
	return nil
}

// HostReach reports whether the host itself and guests on n reach each other through n: not
// where guests are on an interface of the host, unless the host has one of its own there.
func HostReach(n *netdef.Network) bool {
	switch n.PortPlug() {
	case netdef.PlugDirect:
		return n.HostAccess != nil
	case netdef.PlugHostdevPCI:
		return false
	default:
		return true
	}
}

// Uplink is the interface of the host by which guests leave, as the document names it.
func Uplink(n *netdef.Network) string {
	switch {
	case n.Uplink != "":
		return n.UplinkDevice()
	case n.Forward != nil:
		return n.Forward.Dev
	default:
		return ""
	}
}

// Parents are what ports of n are on in place of a bridge, as its document has it; empty for
// a network with a bridge.
func Parents(n *netdef.Network) []string {
	all := []string{}
	if plug := n.PortPlug(); plug == netdef.PlugNetwork || plug == netdef.PlugBridge {
		return all
	}
	for _, l := range plannedLinks(n) {
		if l.Kind != api.LinkBridge && !l.Made {
			all = append(all, l.Name)
		}
	}
	return all
}
