package netdef

import (
	"fmt"
	"net"
	"strings"

	"github.com/vnetd/vnetd/pkg/netdef/xmldoc"
)

// Port is a <networkport>: the connection of one guest interface to a network.
type Port struct {
	UUID  string // canonical lower case
	Owner Owner
	Group string // the network's <portgroup>; "": its default
	MAC   net.HardwareAddr

	VirtualPort *VirtualPort
	Bandwidth   *Bandwidth // seen from the guest's device; may have an inbound floor; nil: its group's
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
	root, err := xmldoc.ParseTree(src)
	if err != nil {
		return nil, Faults{xmldoc.AsFault(err)}
	}
	if root.Name != "networkport" || root.Space != "" {
		return nil, Faults{{Problem: "the document is a <" + xmldoc.OneLine(root.QName) + ">, want <networkport>"}}
	}
	var faults Faults
	p := decodePort(xmldoc.Element{Faults: &faults}.At(root, "networkport"))
	if faults = faults.Merge(p.validate()); len(faults) > 0 {
		return nil, faults
	}
	p.Ignored = root.Unused(nil)
	return p, nil
}

// decodePort decodes the root.
func decodePort(e xmldoc.Element) *Port {
	p := &Port{UUID: decodeUUID(e), Group: e.Content("group"), VirtualPort: decodeVirtualPort(e), VLAN: decodeVLAN(e), Plug: decodePlug(e)}
	if owner, ok := e.First("owner"); ok {
		p.Owner = Owner{Name: owner.Content("name"), UUID: decodeUUID(owner)}
	}
	if mac, ok := e.First("mac"); ok {
		p.MAC = xmldoc.Value(mac, "address", parseMAC)
	}
	if limits, ok := e.First("bandwidth"); ok {
		p.Bandwidth = decodeRates(limits) // one without limits is not its group's
		p.ClassID = xmldoc.Value(limits, "classID", parseUint[uint32](0, 1<<32-1))
	}
	if port, ok := e.First("port"); ok {
		p.Isolated = xmldoc.Value(port, "isolated", parseTristate)
	}
	if filters, ok := e.First("rxfilters"); ok {
		p.TrustGuestRxFilters = xmldoc.Value(filters, "trustGuest", parseTristate)
	}
	return p
}

// decodePlug decodes <plug>; nil if there is none, or it is of no type.
func decodePlug(e xmldoc.Element) *Plug {
	e, ok := e.First("plug")
	if !ok {
		return nil
	}
	kind := xmldoc.Value(e, "type", parseWord("none", string(PlugNetwork), string(PlugBridge), string(PlugDirect), string(PlugHostdevPCI)))
	p := &Plug{Type: PlugType(kind)}
	switch p.Type {
	case PlugNetwork, PlugBridge:
		p.Bridge = e.Str("bridge")
		p.MACTableManager = xmldoc.Value(e, "macTableManager", parseWord("kernel", "libvirt"))
	case PlugDirect:
		p.Dev = e.Str("dev")
		// virNetDevMacVLanMode: the first is the default.
		if p.Mode = xmldoc.Value(e, "mode", parseWord("vepa", "private", "bridge", "passthrough")); p.Mode == "" {
			p.Mode = "vepa"
		}
	case PlugHostdevPCI:
		decodePlugHostdev(e, p)
	default:
		return nil
	}
	return p
}

// decodePlugHostdev decodes a <plug> of a virtual function into p.
func decodePlugHostdev(e xmldoc.Element, p *Plug) {
	p.Managed = xmldoc.Value(e, "managed", parseTristate)
	p.Driver = decodeHostdevDriver(e)
	address, ok := e.First("address")
	if !ok {
		e.Fault("address", "", "missing, want the PCI address of a device")
		return
	}
	p.Address = decodePCIAddress(address)
}

// XML prints p as virsh net-port-dumpxml does.
func (p *Port) XML() []byte {
	w := &xmldoc.Printer{}
	w.Pair("networkport", func() { printPort(w, p) })
	return w.Buf.Bytes()
}

// printPort prints what is inside <networkport>, in virNetworkPortDefFormatBuf's
// order.
func printPort(w *xmldoc.Printer, p *Port) {
	w.Text("uuid", p.UUID)
	w.Pair("owner", func() {
		w.Text("name", p.Owner.Name)
		w.Text("uuid", p.Owner.UUID)
	})
	w.Text("group", p.Group)
	w.Leaf("mac", xmldoc.Always("address", p.MAC.String()))
	printVirtualPort(w, p.VirtualPort)
	printBandwidth(w, p.Bandwidth, xmldoc.Num("classID", p.ClassID))
	printVLAN(w, p.VLAN)
	if p.Isolated != Unset {
		w.Leaf("port", xmldoc.Opt("isolated", p.Isolated))
	}
	if p.TrustGuestRxFilters != Unset {
		w.Leaf("rxfilters", xmldoc.Opt("trustGuest", p.TrustGuestRxFilters))
	}
	printPlug(w, p.Plug)
}

// printPlug prints <plug>, nothing for nil.
func printPlug(w *xmldoc.Printer, p *Plug) {
	if p == nil {
		return
	}
	kind := xmldoc.Always("type", string(p.Type))
	switch p.Type {
	case PlugDirect:
		w.Leaf("plug", kind, xmldoc.Always("dev", p.Dev), xmldoc.Always("mode", p.Mode))
	case PlugHostdevPCI:
		w.Pair("plug", func() {
			printHostdevDriver(w, p.Driver)
			printPCIAddress(w, p.Address)
		}, kind, xmldoc.Opt("managed", p.Managed))
	default:
		w.Leaf("plug", kind, xmldoc.Always("bridge", p.Bridge), xmldoc.Opt("macTableManager", p.MACTableManager))
	}
}

// Validate returns every value in p that can't work, as Faults; nil if there is
// none.
func (p *Port) Validate() error { return p.validate().Err() }

// validate is Validate with the faults' own type.
func (p *Port) validate() Faults {
	c := &checker{}
	checkPortUUID(c, "networkport/uuid", p.UUID)
	if p.Owner.Name == "" {
		c.Add("networkport/owner/name", "", "missing, want the name of the guest")
	}
	checkPortUUID(c, "networkport/owner/uuid", p.Owner.UUID)
	if p.MAC == nil {
		c.Add("networkport/mac/@address", "", "missing, want a MAC address")
	}
	checkMAC(c, "networkport/mac/@address", p.MAC)
	checkVirtualPort(c, "networkport/virtualport", p.VirtualPort, false)
	checkVLAN(c, "networkport/vlan", p.VLAN)
	checkPortBandwidth(c, "networkport/bandwidth", p.Bandwidth)
	checkPlug(c, "networkport/plug", p.Plug)
	return c.Faults
}

// checkPortUUID checks a UUID that must be there.
func checkPortUUID(c *checker, path, u string) {
	if canonical, err := parseUUID(u); u == "" {
		c.Add(path, "", "missing, want a UUID")
	} else if err != nil || canonical != u {
		c.Add(path, u, "not a UUID in canonical form")
	}
}

// checkPortBandwidth checks the limits of a port. Only what the guest receives has a
// floor.
func checkPortBandwidth(c *checker, path string, b *Bandwidth) {
	if b == nil {
		return
	}
	checkPortRate(c, path+"/inbound", b.Inbound)
	checkPortRate(c, path+"/outbound", b.Outbound)
	if b.Outbound != nil && b.Outbound.Floor != 0 {
		c.Add(path+"/outbound/@floor", fmt.Sprint(b.Outbound.Floor), "not allowed, only inbound has a floor")
	}
}

// checkPortRate checks one direction of a port's limits: virNetDevBandwidthParseRate.
func checkPortRate(c *checker, path string, r *Rate) {
	switch {
	case r == nil || r.Average != 0:
	case r.Peak != 0 || r.Burst != 0:
		c.Add(path+"/@average", "", "missing, which peak and burst need")
	case r.Floor == 0:
		c.Add(path+"/@average", "", "missing, want an average or a floor in kB/s")
	}
}

// checkPlug checks a <plug>.
func checkPlug(c *checker, path string, p *Plug) {
	if p == nil {
		return
	}
	switch p.Type {
	case PlugNetwork, PlugBridge:
		checkDevice(c, path+"/@bridge", p.Bridge)
	case PlugDirect:
		checkDevice(c, path+"/@dev", p.Dev)
	case PlugHostdevPCI:
	default:
		c.Add(path+"/@type", string(p.Type), "want network, bridge, direct or hostdev-pci")
	}
}

// limit is one of a port's limits, under libvirt's name.
type limit struct {
	name string
	at   func(*Bandwidth) *uint64 // of a bandwidth with both directions
}

// limits are all there are, in libvirt's order.
func limits() []limit {
	return []limit{
		{"inbound.average", func(b *Bandwidth) *uint64 { return &b.Inbound.Average }},
		{"inbound.peak", func(b *Bandwidth) *uint64 { return &b.Inbound.Peak }},
		{"inbound.floor", func(b *Bandwidth) *uint64 { return &b.Inbound.Floor }},
		{"inbound.burst", func(b *Bandwidth) *uint64 { return &b.Inbound.Burst }},
		{"outbound.average", func(b *Bandwidth) *uint64 { return &b.Outbound.Average }},
		{"outbound.peak", func(b *Bandwidth) *uint64 { return &b.Outbound.Peak }},
		{"outbound.burst", func(b *Bandwidth) *uint64 { return &b.Outbound.Burst }},
	}
}

// LimitNames are the names of a port's limits, in libvirt's order
// (VIR_NETWORK_PORT_BANDWIDTH_*).
func LimitNames() (names []string) {
	for _, l := range limits() {
		names = append(names, l.name)
	}
	return names
}

// Limits are the limits of b by their names, without those that are absent. b may be nil.
func (b *Bandwidth) Limits() map[string]uint64 {
	all, both := make(map[string]uint64), b.both()
	for _, l := range limits() {
		if v := *l.at(both); v != 0 {
			all[l.name] = v
		}
	}
	return all
}

// NewBandwidth is the bandwidth with those limits, 0 for an absent one; nil for none.
// Whether a port can have it, CheckLimits says. The error names a limit that there is not.
func NewBandwidth(of map[string]uint64) (*Bandwidth, error) {
	b, known := (*Bandwidth)(nil).both(), 0
	for _, l := range limits() {
		if v, ok := of[l.name]; ok {
			*l.at(b) = v
			known++
		}
	}
	if known != len(of) {
		return nil, unknownLimit(of)
	}
	if *b.Inbound == (Rate{}) {
		b.Inbound = nil
	}
	if *b.Outbound == (Rate{}) {
		b.Outbound = nil
	}
	if *b == (Bandwidth{}) {
		return nil, nil
	}
	return b, nil
}

// unknownLimit is the error of limits of which one is not known.
func unknownLimit(of map[string]uint64) error {
	names := LimitNames()
	for name := range of {
		if !strings.Contains(" "+strings.Join(names, " ")+" ", " "+name+" ") {
			return fmt.Errorf("limit %.80q is not known: want %s", name, strings.Join(names, ", "))
		}
	}
	return nil
}

// both is b with both directions, none of them b's own.
func (b *Bandwidth) both() *Bandwidth {
	w := &Bandwidth{Inbound: &Rate{}, Outbound: &Rate{}}
	if b != nil && b.Inbound != nil {
		*w.Inbound = *b.Inbound
	}
	if b != nil && b.Outbound != nil {
		*w.Outbound = *b.Outbound
	}
	return w
}

// Floor is what a guest can count on, in kilobytes a second; 0 for nothing. b may be nil.
func (b *Bandwidth) Floor() uint64 {
	if b == nil || b.Inbound == nil {
		return 0
	}
	return b.Inbound.Floor
}

// CheckLimits refuses limits that no port can have; nil is none. The error is of type
// Faults.
func CheckLimits(b *Bandwidth) error {
	c := &checker{}
	checkPortBandwidth(c, "bandwidth", b)
	return c.Faults.Err()
}
