package netdef

import (
	"fmt"
	"net"
)

// Port is a <networkport>: the connection of one guest interface to a network.
type Port struct {
	UUID  string // canonical lower case
	Owner Owner
	Group string // the network's <portgroup>; "": its default
	MAC   net.HardwareAddr

	VirtualPort *VirtualPort
	Bandwidth   *Bandwidth // seen from the guest's device; may have an inbound floor
	// ClassID is the traffic class that keeps the floor, 0: none. It only
	// stands with Bandwidth.
	ClassID             uint32
	VLAN                *VLAN
	Isolated            Tristate
	TrustGuestRxFilters Tristate
	Plug                *Plug // nil until the network has said what the port is plugged into

	// Ignored has the paths of elements and attributes that the schema does
	// not know, as in Network.
	Ignored []string
}

// Owner is the guest that a port belongs to.
type Owner struct{ Name, UUID string }

// PlugType is what a port is plugged into.
type PlugType string

// The types.
const (
	PlugNetwork    PlugType = "network"     // a bridge that the network makes
	PlugBridge     PlugType = "bridge"      // a bridge of the host
	PlugDirect     PlugType = "direct"      // an interface of the host, by macvtap
	PlugHostdevPCI PlugType = "hostdev-pci" // a virtual function, passed through
)

// Plug is the <plug> of a port. Which fields count depends on the type.
type Plug struct {
	Type PlugType

	// Of network and bridge: the device, and "kernel", "libvirt" or "" (kernel).
	Bridge, MACTableManager string
	// Of direct: the interface, and "vepa", "private", "bridge" or "passthrough".
	Dev, Mode string
	// Of hostdev-pci.
	Managed Tristate
	Driver  *HostdevDriver // nil: the default
	Address PCIAddress
}

// ParsePort reads a <networkport> document. The error is of type Faults, as
// that of Parse, but also has all that Validate finds: a port without an error
// is valid.
func ParsePort(src []byte) (*Port, error) {
	root, err := parseTree(src)
	if err != nil {
		return nil, Faults{asFault(err)}
	}
	if root.name != "networkport" || root.space != "" {
		return nil, Faults{{Problem: "the document is a <" + oneLine(root.qname) + ">, want <networkport>"}}
	}
	var faults Faults
	p := element{faults: &faults}.at(root, "networkport").port()
	if faults = faults.merge(p.validate()); len(faults) > 0 {
		return nil, faults
	}
	p.Ignored = root.unused(nil)
	return p, nil
}

// port decodes the root.
func (e element) port() *Port {
	p := &Port{UUID: e.uuid(), Group: e.content("group"), VirtualPort: e.virtualPort(), VLAN: e.vlan(), Plug: e.plug()}
	if owner, ok := e.first("owner"); ok {
		p.Owner = Owner{Name: owner.content("name"), UUID: owner.uuid()}
	}
	if mac, ok := e.first("mac"); ok {
		p.MAC = value(mac, "address", parseMAC)
	}
	if limits, ok := e.first("bandwidth"); ok {
		if p.Bandwidth = limits.rates(); p.Bandwidth != nil {
			p.ClassID = value(limits, "classID", parseUint[uint32](0, 1<<32-1))
		}
	}
	if port, ok := e.first("port"); ok {
		p.Isolated = value(port, "isolated", parseTristate)
	}
	if filters, ok := e.first("rxfilters"); ok {
		p.TrustGuestRxFilters = value(filters, "trustGuest", parseTristate)
	}
	return p
}

// plug decodes <plug>; nil if there is none, or it is of no type.
func (e element) plug() *Plug {
	e, ok := e.first("plug")
	if !ok {
		return nil
	}
	kind := value(e, "type", parseWord("none", string(PlugNetwork), string(PlugBridge), string(PlugDirect), string(PlugHostdevPCI)))
	p := &Plug{Type: PlugType(kind)}
	switch p.Type {
	case PlugNetwork, PlugBridge:
		p.Bridge = e.str("bridge")
		p.MACTableManager = value(e, "macTableManager", parseWord("kernel", "libvirt"))
	case PlugDirect:
		p.Dev = e.str("dev")
		// virNetDevMacVLanMode: the first is the default.
		if p.Mode = value(e, "mode", parseWord("vepa", "private", "bridge", "passthrough")); p.Mode == "" {
			p.Mode = "vepa"
		}
	case PlugHostdevPCI:
		e.plugHostdev(p)
	default:
		return nil
	}
	return p
}

// plugHostdev decodes a <plug> of a virtual function into p.
func (e element) plugHostdev(p *Plug) {
	p.Managed = value(e, "managed", parseTristate)
	p.Driver = e.hostdevDriver()
	address, ok := e.first("address")
	if !ok {
		e.fault("address", "", "missing, want the PCI address of a device")
		return
	}
	p.Address = address.pciAddress()
}

// XML prints p as virsh net-port-dumpxml does.
func (p *Port) XML() []byte {
	w := &printer{}
	w.pair("networkport", func() { w.port(p) })
	return w.buf.Bytes()
}

// port prints what is inside <networkport>, in virNetworkPortDefFormatBuf's
// order.
func (w *printer) port(p *Port) {
	w.text("uuid", p.UUID)
	w.pair("owner", func() {
		w.text("name", p.Owner.Name)
		w.text("uuid", p.Owner.UUID)
	})
	w.text("group", p.Group)
	w.leaf("mac", attr{"address", p.MAC.String()})
	w.virtualPort(p.VirtualPort)
	w.bandwidth(p.Bandwidth, num("classID", p.ClassID))
	w.vlan(p.VLAN)
	if p.Isolated != Unset {
		w.leaf("port", opt("isolated", p.Isolated))
	}
	if p.TrustGuestRxFilters != Unset {
		w.leaf("rxfilters", opt("trustGuest", p.TrustGuestRxFilters))
	}
	w.plug(p.Plug)
}

// plug prints <plug>, nothing for nil.
func (w *printer) plug(p *Plug) {
	if p == nil {
		return
	}
	kind := attr{"type", string(p.Type)}
	switch p.Type {
	case PlugDirect:
		w.leaf("plug", kind, attr{"dev", p.Dev}, attr{"mode", p.Mode})
	case PlugHostdevPCI:
		w.pair("plug", func() {
			w.hostdevDriver(p.Driver)
			w.pciAddress(p.Address)
		}, kind, opt("managed", p.Managed))
	default:
		w.leaf("plug", kind, attr{"bridge", p.Bridge}, opt("macTableManager", p.MACTableManager))
	}
}

// Validate returns every value in p that can't work, as Faults; nil if there is
// none.
func (p *Port) Validate() error { return p.validate().err() }

// validate is Validate with the faults' own type.
func (p *Port) validate() Faults {
	c := &checker{}
	c.portUUID("networkport/uuid", p.UUID)
	if p.Owner.Name == "" {
		c.add("networkport/owner/name", "", "missing, want the name of the guest")
	}
	c.portUUID("networkport/owner/uuid", p.Owner.UUID)
	if p.MAC == nil {
		c.add("networkport/mac/@address", "", "missing, want a MAC address")
	}
	c.mac("networkport/mac/@address", p.MAC)
	c.virtualPort("networkport/virtualport", p.VirtualPort, false)
	c.vlan("networkport/vlan", p.VLAN)
	c.portBandwidth("networkport/bandwidth", p.Bandwidth)
	c.plug("networkport/plug", p.Plug)
	return c.Faults
}

// portUUID checks a UUID that must be there.
func (c *checker) portUUID(path, u string) {
	if canonical, err := parseUUID(u); u == "" {
		c.add(path, "", "missing, want a UUID")
	} else if err != nil || canonical != u {
		c.add(path, u, "not a UUID in canonical form")
	}
}

// portBandwidth checks the limits of a port. Only what the guest receives has a
// floor.
func (c *checker) portBandwidth(path string, b *Bandwidth) {
	if b == nil {
		return
	}
	c.portRate(path+"/inbound", b.Inbound)
	c.portRate(path+"/outbound", b.Outbound)
	if b.Outbound != nil && b.Outbound.Floor != 0 {
		c.add(path+"/outbound/@floor", fmt.Sprint(b.Outbound.Floor), "not allowed, only inbound has a floor")
	}
}

// portRate checks one direction of a port's limits: virNetDevBandwidthParseRate.
func (c *checker) portRate(path string, r *Rate) {
	switch {
	case r == nil || r.Average != 0:
	case r.Peak != 0 || r.Burst != 0:
		c.add(path+"/@average", "", "missing, which peak and burst need")
	case r.Floor == 0:
		c.add(path+"/@average", "", "missing, want an average or a floor in KiB/s")
	}
}

// plug checks a <plug>.
func (c *checker) plug(path string, p *Plug) {
	if p == nil {
		return
	}
	switch p.Type {
	case PlugNetwork, PlugBridge:
		c.device(path+"/@bridge", p.Bridge)
	case PlugDirect:
		c.device(path+"/@dev", p.Dev)
	case PlugHostdevPCI:
	default:
		c.add(path+"/@type", string(p.Type), "want network, bridge, direct or hostdev-pci")
	}
}
