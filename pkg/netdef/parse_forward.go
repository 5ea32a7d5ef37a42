package netdef

import (
	"slices"
	"strings"
)

// forward decodes <forward>. mode='none' is an isolated network: nil.
func (e element) forward() *Forward {
	e, ok := e.first("forward")
	if !ok {
		return nil
	}
	f := &Forward{Mode: Mode(e.str("mode")), Dev: e.str("dev")}
	managed := e.str("managed") // says nothing in other modes
	f.Managed = f.Mode == ModeHostdev && strings.EqualFold(managed, "yes")
	if f.Mode == "" {
		f.Mode = ModeNAT
	}
	for _, i := range e.all("interface") {
		i.str("connections") // libvirt's live count
		f.Interfaces = append(f.Interfaces, i.str("dev"))
	}
	f.NAT = e.nat(f.Mode)
	e.hostdevPool(f)
	switch {
	case f.Dev == "" && len(f.Interfaces) > 0:
		f.Dev = f.Interfaces[0]
	case f.Dev != "" && len(f.Interfaces) == 0:
		f.Interfaces = []string{f.Dev}
	}
	if f.Mode == ModeIsolated {
		return nil
	}
	return f
}

// nat decodes <nat> of a network of that mode. One that says nothing is the
// same as none, as in libvirt: nil.
func (e element) nat(m Mode) *NAT {
	e, ok := e.only("nat")
	if !ok {
		return nil
	}
	if m != ModeNAT && knownMode(m) {
		e.faults.addf(e.path, "", "only allowed in mode nat, not in %s", m)
	}
	n := &NAT{IPv6: value(e, "ipv6", parseTristate)}
	if a, ok := e.only("address"); ok {
		n.Address = &AddressRange{Start: value(a, "start", parseAddr), End: value(a, "end", parseAddr)}
	}
	if p, ok := e.only("port"); ok {
		port := parseUint[uint16](0, 65535)
		n.Port = &PortRange{Start: p.required("start", port), End: p.required("end", port)}
	}
	if *n == (NAT{}) {
		return nil
	}
	return n
}

// only returns the first child of that name, and adds a fault for each more.
func (e element) only(name string) (element, bool) {
	all := e.all(name)
	if len(all) == 0 {
		return element{}, false
	}
	for _, more := range all[1:] {
		more.faults.addf(more.path, "", "only one <%s> is allowed", name)
	}
	return all[0].at(all[0].node, e.path+"/"+name), true
}

// required is value for a port that must be there.
func (e element) required(name string, parse func(string) (uint16, error)) uint16 {
	if _, ok := e.attr(name); !ok {
		e.fault("@"+name, "", "missing, want a number from 0 to 65535")
	}
	return value(e, name, parse)
}

// knownMode reports whether m is a mode of the schema.
func knownMode(m Mode) bool {
	return slices.Contains(modes(), string(m))
}
