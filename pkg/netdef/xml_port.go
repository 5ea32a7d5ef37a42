package netdef

import (
	"fmt"
	"strconv"
)

// fragments prints what was kept as text.
func (p *printer) fragments(list []Fragment) {
	for _, f := range list {
		p.margin()
		p.buf.WriteString(formatElement(f.XML, nil, p.indent) + "\n")
	}
}

// dnsmasqOptions prints what is inside <dnsmasq:options>.
func (p *printer) dnsmasqOptions(list []string) {
	for _, o := range list {
		p.leaf("dnsmasq:option", attr{"value", o})
	}
}

// vlan prints <vlan>, nothing for nil.
func (p *printer) vlan(v *VLAN) {
	if v == nil {
		return
	}
	p.pair("vlan", func() {
		for _, t := range v.Tags {
			p.leaf("tag", attr{"id", strconv.Itoa(t.ID)}, opt("nativeMode", t.NativeMode))
		}
	}, flag("trunk", v.Trunk))
}

// bandwidth prints <bandwidth>, nothing for nil.
func (p *printer) bandwidth(b *Bandwidth, attrs ...attr) {
	if b == nil {
		return
	}
	p.pair("bandwidth", func() {
		p.rate("inbound", b.Inbound)
		p.rate("outbound", b.Outbound)
	}, attrs...)
}

// rate prints one direction of a <bandwidth>, nothing for nil.
func (p *printer) rate(name string, r *Rate) {
	if r == nil {
		return
	}
	p.leaf(name, num("average", r.Average), num("peak", r.Peak), num("floor", r.Floor), num("burst", r.Burst))
}

// virtualPort prints <virtualport>, nothing for nil.
func (p *printer) virtualPort(v *VirtualPort) {
	if v == nil {
		return
	}
	p.elem("virtualport", func() {
		if params := *v; params != (VirtualPort{Type: v.Type}) {
			p.leaf("parameters", id("managerid", v.ManagerID), id("typeid", v.TypeID), id("typeidversion", v.TypeIDVersion),
				opt("instanceid", v.InstanceID), opt("interfaceid", v.InterfaceID), opt("profileid", v.ProfileID))
		}
	}, opt("type", v.Type))
}

// id is a number that may be 0 or absent.
func id(name string, v *int) attr {
	if v == nil {
		return attr{}
	}
	return attr{name, strconv.Itoa(*v)}
}

// portGroup prints <portgroup>.
func (p *printer) portGroup(g *PortGroup) {
	p.pair("portgroup", func() {
		p.vlan(g.VLAN)
		p.virtualPort(g.VirtualPort)
		p.bandwidth(g.Bandwidth)
	}, attr{"name", g.Name}, flag("default", g.Default), opt("trustGuestRxFilters", g.TrustGuestRxFilters))
}

// hostdevDriver prints <driver>, nothing for nil.
func (p *printer) hostdevDriver(d *HostdevDriver) {
	if d != nil {
		p.leaf("driver", opt("name", d.Name), opt("model", d.Model))
	}
}

// pciAddress prints <address>, with attributes before the device's.
func (p *printer) pciAddress(a PCIAddress, attrs ...attr) {
	p.leaf("address", append(attrs, attr{"domain", fmt.Sprintf("0x%04x", a.Domain)}, attr{"bus", fmt.Sprintf("0x%02x", a.Bus)},
		attr{"slot", fmt.Sprintf("0x%02x", a.Slot)}, attr{"function", fmt.Sprintf("0x%x", a.Function)})...)
}

// yesNo renders a bool as libvirt does.
func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
