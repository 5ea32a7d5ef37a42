package netdef

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// vlan decodes the <vlan> child; nil if there is none.
func (e element) vlan() *VLAN {
	e, ok := e.first("vlan")
	if !ok {
		return nil
	}
	v := &VLAN{}
	for _, tag := range e.all("tag") {
		if _, ok := tag.attr("id"); !ok {
			tag.fault("@id", "", "missing, want a number from 0 to 4095")
		}
		v.Tags = append(v.Tags, VLANTag{
			ID:         value(tag, "id", parseUint[int](0, 4095)),
			NativeMode: value(tag, "nativeMode", parseWord("tagged", "untagged")),
		})
	}
	// virNetDevVlanParse: more than one tag is a trunk, written or not.
	trunk := strings.ToLower(e.str("trunk"))
	v.Trunk = trunk == "yes" || len(v.Tags) > 1
	switch {
	case trunk == "" || trunk == "yes":
	case trunk != "no":
		e.fault("@trunk", trunk, "want yes or no")
	case v.Trunk:
		e.fault("@trunk", trunk, "want trunk='yes' with more than one tag")
	case v.native() > 0:
		e.fault("@trunk", trunk, "want trunk='yes' with a native tag")
	}
	return v
}

// native counts the tags with a native mode.
func (v *VLAN) native() int {
	count := 0
	for _, t := range v.Tags {
		if t.NativeMode != "" {
			count++
		}
	}
	return count
}

// bandwidth decodes the <bandwidth> child; nil if it sets no limit.
func (e element) bandwidth() *Bandwidth {
	e, ok := e.first("bandwidth")
	if !ok {
		return nil
	}
	if id, ok := e.attr("classID"); ok {
		e.fault("@classID", id, "not allowed here: it belongs to a port")
	}
	return e.rates()
}

// rates decodes what is inside <bandwidth>; nil if it sets no limit.
func (e element) rates() *Bandwidth {
	b := &Bandwidth{Inbound: e.rate("inbound"), Outbound: e.rate("outbound")}
	if *b == (Bandwidth{}) {
		return nil
	}
	return b
}

// rate decodes one direction; nil if there is none. libvirt takes an average
// of 0 for no limit, unless there is a floor.
func (e element) rate(direction string) *Rate {
	e, ok := e.first(direction)
	if !ok {
		return nil
	}
	speed := parseUint[uint64](0, 1<<54)
	r := &Rate{
		Average: value(e, "average", speed),
		Peak:    value(e, "peak", speed),
		Floor:   value(e, "floor", speed),
		Burst:   value(e, "burst", parseUint[uint64](0, 1<<22-1)),
	}
	average := e.str("average")
	if zero := average != "" && strings.Trim(average, "0") == ""; zero && r.Floor == 0 {
		return nil
	}
	return r
}

// virtualPort decodes the <virtualport> child; nil if it says nothing. An
// attribute that the type has no use for is a fault, except for midonet, where
// libvirt drops it.
func (e element) virtualPort() *VirtualPort {
	e, ok := e.first("virtualport")
	if !ok {
		return nil
	}
	v := &VirtualPort{Type: value(e, "type", parseWord("802.1Qbg", "802.1Qbh", "openvswitch", "midonet"))}
	if p, ok := e.first("parameters"); ok {
		p.virtualPortParameters(v)
	}
	if *v == (VirtualPort{}) {
		return nil
	}
	return v
}

// virtualPortParameters decodes <parameters> of a <virtualport> into v.
func (e element) virtualPortParameters(v *VirtualPort) {
	e.number(v, "managerid", 0xff, &v.ManagerID)
	e.number(v, "typeid", 0xffffff, &v.TypeID)
	e.number(v, "typeidversion", 0xff, &v.TypeIDVersion)
	if e.allowed(v, "instanceid") {
		v.InstanceID = value(e, "instanceid", parseUUID)
	}
	if e.allowed(v, "interfaceid") {
		v.InterfaceID = value(e, "interfaceid", parseUUID)
	}
	if e.allowed(v, "profileid") {
		v.ProfileID = e.str("profileid")
	}
}

// number decodes an optional number of a profile, decimal or hexadecimal.
func (e element) number(v *VirtualPort, name string, high int, into **int) {
	if !e.allowed(v, name) {
		return
	}
	if _, ok := e.attr(name); ok {
		id := value(e, name, parseID(high))
		*into = &id
	}
}

// parseID returns a reader of a number up to high in C's notation.
func parseID(high int) func(string) (int, error) {
	return func(s string) (int, error) {
		v, err := strconv.ParseUint(s, 0, 31)
		if err != nil || int(v) > high || strings.Contains(s, "_") {
			return 0, fmt.Errorf("want a number from 0 to %d or 0x%x", high, high)
		}
		return int(v), nil
	}
}

// profileAttributes returns what a profile of that type may have:
// virNetDevVPortProfileCheckNoExtras. One without a type may have anything.
func profileAttributes(kind string) []string {
	switch kind {
	case "802.1Qbg":
		return []string{"managerid", "typeid", "typeidversion", "instanceid"}
	case "802.1Qbh":
		return []string{"profileid"}
	case "openvswitch":
		return []string{"interfaceid", "profileid"}
	case "midonet":
		return []string{"interfaceid"}
	}
	return []string{"managerid", "typeid", "typeidversion", "instanceid", "interfaceid", "profileid"}
}

// allowed reports whether v's type has that attribute, and adds a fault if it
// is written though.
func (e element) allowed(v *VirtualPort, name string) bool {
	if slices.Contains(profileAttributes(v.Type), name) {
		return true
	}
	if v.Type != "midonet" {
		if val, ok := e.attr(name); ok {
			e.fault("@"+name, val, "not allowed with type='"+v.Type+"'")
		}
	}
	return false
}

// portGroup decodes one <portgroup>.
func (e element) portGroup() PortGroup {
	return PortGroup{
		Name:                e.str("name"),
		Default:             strings.EqualFold(e.str("default"), "yes"),
		TrustGuestRxFilters: value(e, "trustGuestRxFilters", parseTristate),
		VLAN:                e.vlan(),
		VirtualPort:         e.virtualPort(),
		Bandwidth:           e.bandwidth(),
	}
}

// hostdevPool decodes what only pools of virtual functions have into f.
func (e element) hostdevPool(f *Forward) {
	if pf, ok := e.only("pf"); ok {
		if f.PF = pf.str("dev"); f.PF == "" {
			pf.fault("@dev", "", "missing, want the name of an interface")
		}
	}
	for _, a := range e.all("address") {
		a.faultUnless("type", "pci")
		f.Addresses = append(f.Addresses, a.pciAddress())
	}
	f.Driver = e.hostdevDriver()
}

// pciAddress decodes an <address>.
func (e element) pciAddress() PCIAddress {
	return PCIAddress{
		Domain: value(e, "domain", parseID(0xffff)), Bus: value(e, "bus", parseID(0xff)),
		Slot: value(e, "slot", parseID(0x1f)), Function: value(e, "function", parseID(7)),
	}
}

// hostdevDriver decodes the <driver> child; nil if it says nothing.
func (e element) hostdevDriver() *HostdevDriver {
	e, ok := e.first("driver")
	if !ok {
		return nil
	}
	d := &HostdevDriver{Name: value(e, "name", parseWord("kvm", "vfio", "xen")), Model: e.str("model")}
	if *d == (HostdevDriver{}) {
		return nil
	}
	return d
}

// faultUnless adds a fault unless an attribute has the one value it may have.
func (e element) faultUnless(name, want string) {
	if got := e.str(name); got != want {
		e.fault("@"+name, got, "want "+want)
	}
}
