package netdef

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/vnetd/vnetd/pkg/netdef/xmldoc"
)

// decodeVLAN decodes the <vlan> child; nil if there is none.
func decodeVLAN(e xmldoc.Element) *VLAN {
	e, ok := e.First("vlan")
	if !ok {
		return nil
	}
	v := &VLAN{}
	for _, tag := range e.All("tag") {
		if _, ok := tag.Attr("id"); !ok {
			tag.Fault("@id", "", "missing, want a number from 0 to 4095")
		}
		v.Tags = append(v.Tags, VLANTag{
			ID:         xmldoc.Value(tag, "id", parseUint[int](0, 4095)),
			NativeMode: xmldoc.Value(tag, "nativeMode", parseWord("tagged", "untagged")),
		})
	}
	// virNetDevVlanParse: more than one tag is a trunk, written or not.
	trunk := strings.ToLower(e.Str("trunk"))
	v.Trunk = trunk == "yes" || len(v.Tags) > 1
	switch {
	case trunk == "" || trunk == "yes":
	case trunk != "no":
		e.Fault("@trunk", trunk, "want yes or no")
	case v.Trunk:
		e.Fault("@trunk", trunk, "want trunk='yes' with more than one tag")
	case v.native() > 0:
		e.Fault("@trunk", trunk, "want trunk='yes' with a native tag")
	}
	return v
}

// The VLANs of a bridge: 0 is none but a priority, 4095 is reserved (IEEE 802.1Q, table
// 9-2).
const (
	minVLAN = 1
	maxVLAN = 4094
)

// trunkWord begins the text of a trunk.
const trunkWord = "trunk:"

// ParseVLAN reads what String writes: "42" for a port in one VLAN, whose frames have no
// tag, or "trunk:10,20,30" for one whose frames have one of those tags. One of a trunk may
// be native: in "trunk:10,native=20" frames without a tag are of VLAN 20; with
// "native-tagged=20" they come without it and leave with it.
func ParseVLAN(text string) (*VLAN, error) {
	rest, trunk := strings.CutPrefix(text, trunkWord)
	v := &VLAN{Trunk: trunk}
	for word := range strings.SplitSeq(rest, ",") {
		tag := VLANTag{}
		for mode, prefix := range map[string]string{"untagged": "native=", "tagged": "native-tagged="} {
			if number, native := strings.CutPrefix(word, prefix); native && trunk {
				word, tag.NativeMode = number, mode
			}
		}
		id, err := strconv.ParseUint(word, 10, 16)
		if err != nil || id < minVLAN || id > maxVLAN || !trunk && rest != word {
			return nil, fmt.Errorf("%.80q is no VLAN: want a number from %d to %d, or a trunk such as trunk:10,20 or trunk:10,native=20", text, minVLAN, maxVLAN)
		}
		tag.ID = int(id)
		v.Tags = append(v.Tags, tag)
	}
	if v.native() > 1 {
		return nil, fmt.Errorf("%.80q has more than one native VLAN", text)
	}
	return v, nil
}

// String is v as options of ports have it; "" for nil.
func (v *VLAN) String() string {
	if v == nil {
		return ""
	}
	var words []string
	for _, t := range v.Tags {
		words = append(words, map[string]string{"untagged": "native=", "tagged": "native-tagged="}[t.NativeMode]+strconv.Itoa(t.ID))
	}
	text := strings.Join(words, ",")
	if v.Trunk || v.native() > 0 {
		return trunkWord + text
	}
	return text
}

// decodeBandwidth decodes the <bandwidth> child; nil if it sets no limit.
func decodeBandwidth(e xmldoc.Element) *Bandwidth {
	e, ok := e.First("bandwidth")
	if !ok {
		return nil
	}
	if id, ok := e.Attr("classID"); ok {
		e.Fault("@classID", id, "not allowed here: it belongs to a port")
	}
	if b := decodeRates(e); *b != (Bandwidth{}) {
		return b
	}
	return nil
}

// decodeRates decodes what is inside <bandwidth>, which may be nothing.
func decodeRates(e xmldoc.Element) *Bandwidth {
	return &Bandwidth{Inbound: decodeRate(e, "inbound"), Outbound: decodeRate(e, "outbound")}
}

// decodeRate decodes one direction; nil if there is none. libvirt takes an average
// of 0 for no limit, unless there is a floor.
func decodeRate(e xmldoc.Element, direction string) *Rate {
	e, ok := e.First(direction)
	if !ok {
		return nil
	}
	speed := parseUint[uint64](0, 1<<54)
	r := &Rate{
		Average: xmldoc.Value(e, "average", speed),
		Peak:    xmldoc.Value(e, "peak", speed),
		Floor:   xmldoc.Value(e, "floor", speed),
		Burst:   xmldoc.Value(e, "burst", parseUint[uint64](0, 1<<22-1)),
	}
	average := e.Str("average")
	if zero := average != "" && strings.Trim(average, "0") == ""; zero && r.Floor == 0 {
		return nil
	}
	return r
}

// decodeVirtualPort decodes the <virtualport> child; nil if it says nothing. An
// attribute that the type has no use for is a fault, except for midonet, where
// libvirt drops it.
func decodeVirtualPort(e xmldoc.Element) *VirtualPort {
	e, ok := e.First("virtualport")
	if !ok {
		return nil
	}
	v := &VirtualPort{Type: xmldoc.Value(e, "type", parseWord("802.1Qbg", "802.1Qbh", "openvswitch", "midonet"))}
	if p, ok := e.First("parameters"); ok {
		decodeVirtualPortParameters(p, v)
	}
	if *v == (VirtualPort{}) {
		return nil
	}
	return v
}

// decodeVirtualPortParameters decodes <parameters> of a <virtualport> into v.
func decodeVirtualPortParameters(e xmldoc.Element, v *VirtualPort) {
	decodeNumber(e, v, "managerid", 0xff, &v.ManagerID)
	decodeNumber(e, v, "typeid", 0xffffff, &v.TypeID)
	decodeNumber(e, v, "typeidversion", 0xff, &v.TypeIDVersion)
	if allowed(e, v, "instanceid") {
		v.InstanceID = xmldoc.Value(e, "instanceid", parseUUID)
	}
	if allowed(e, v, "interfaceid") {
		v.InterfaceID = xmldoc.Value(e, "interfaceid", parseUUID)
	}
	if allowed(e, v, "profileid") {
		v.ProfileID = e.Str("profileid")
	}
}

// decodeNumber decodes an optional number of a profile, decimal or hexadecimal.
func decodeNumber(e xmldoc.Element, v *VirtualPort, name string, high int, into **int) {
	if !allowed(e, v, name) {
		return
	}
	if _, ok := e.Attr(name); ok {
		id := xmldoc.Value(e, name, parseID(high))
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
func allowed(e xmldoc.Element, v *VirtualPort, name string) bool {
	if slices.Contains(profileAttributes(v.Type), name) {
		return true
	}
	if v.Type != "midonet" {
		if val, ok := e.Attr(name); ok {
			e.Fault("@"+name, val, "not allowed with type='"+v.Type+"'")
		}
	}
	return false
}

// decodePortGroup decodes one <portgroup>.
func decodePortGroup(e xmldoc.Element) PortGroup {
	return PortGroup{
		Name:                e.Str("name"),
		Default:             strings.EqualFold(e.Str("default"), "yes"),
		TrustGuestRxFilters: xmldoc.Value(e, "trustGuestRxFilters", parseTristate),
		VLAN:                decodeVLAN(e),
		VirtualPort:         decodeVirtualPort(e),
		Bandwidth:           decodeBandwidth(e),
	}
}

// decodeHostdevPool decodes what only pools of virtual functions have into f.
func decodeHostdevPool(e xmldoc.Element, f *Forward) {
	if pf, ok := e.Only("pf"); ok {
		if f.PF = pf.Str("dev"); f.PF == "" {
			pf.Fault("@dev", "", "missing, want the name of an interface")
		}
	}
	for _, a := range e.All("address") {
		a.FaultUnless("type", "pci")
		f.Addresses = append(f.Addresses, decodePCIAddress(a))
	}
	f.Driver = decodeHostdevDriver(e)
}

// decodePCIAddress decodes an <address>.
func decodePCIAddress(e xmldoc.Element) PCIAddress {
	return PCIAddress{
		Domain: xmldoc.Value(e, "domain", parseID(0xffff)), Bus: xmldoc.Value(e, "bus", parseID(0xff)),
		Slot: xmldoc.Value(e, "slot", parseID(0x1f)), Function: xmldoc.Value(e, "function", parseID(7)),
	}
}

// decodeHostdevDriver decodes the <driver> child; nil if it says nothing.
func decodeHostdevDriver(e xmldoc.Element) *HostdevDriver {
	e, ok := e.First("driver")
	if !ok {
		return nil
	}
	d := &HostdevDriver{Name: xmldoc.Value(e, "name", parseWord("kvm", "vfio", "xen")), Model: e.Str("model")}
	if *d == (HostdevDriver{}) {
		return nil
	}
	return d
}
