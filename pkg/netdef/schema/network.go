package schema

import (
	"slices"

	"github.com/vnetd/vnetd/pkg/netdef/xmldoc"
)

// attributes and elements name those of an element.
type (
	attributes = map[string]attrShape
	elements   = map[string]kid
)

// dnsmasqElement is <dnsmasq:options>.
const dnsmasqElement = NamespaceDnsmasq + " options"

// networkShape is network.rng, of libvirt 12.
func networkShape() shape {
	text := textForm()
	uuid := uuidForm()
	title := matching("a title on one line", `[^\n]+`)
	return shape{
		attrs: attributes{"connections": unsigned(0, 1<<32-1).optional(), "ipv6": yesNoForm().optional(), "trustGuestRxFilters": yesNoForm().optional()},
		kids: elements{
			"name": {shape: shape{text: &text}, required: true},
			"uuid": {shape: shape{text: &uuid}}, "title": {shape: shape{text: &title}}, "description": {shape: shape{text: &text}},
			"metadata": {any: true}, "bridge": {shape: bridgeShape()},
			"mtu":     {shape: shape{attrs: attributes{"size": shortForm().required()}}},
			"mac":     {shape: shape{attrs: attributes{"address": macForm().required()}}},
			"forward": {shape: forwardShape()}, "virtualport": {shape: virtualPortShape()},
			"portgroup": {shape: portGroupShape(), many: true},
			"domain":    {shape: shape{attrs: attributes{"name": dnsForm().required(), "localOnly": yesNoForm().optional(), "register": yesNoForm().optional()}}},
			"dns":       {shape: dnsShape()}, "bandwidth": {shape: bandwidthShape()}, "vlan": {shape: vlanShape()},
			"port": {shape: shape{attrs: attributes{"isolated": yesNoForm().optional()}}},
			"ip":   {shape: ipShape(), many: true}, "route": {shape: routeShape(), many: true},
			dnsmasqElement: {shape: shape{kids: elements{NamespaceDnsmasq + " option": {shape: shape{attrs: attributes{"value": text.required()}}, many: true}}}},
		},
	}
}

func bridgeShape() shape {
	return shape{attrs: attributes{
		"name": deviceForm().optional(), "zone": zoneForm().optional(), "stp": words("on", "off").optional(),
		"delay": unsigned(0, 1<<64-1).optional(), "macTableManager": words("kernel", "libvirt").optional(),
	}}
}

func forwardShape() shape {
	return shape{
		attrs: attributes{
			"dev": deviceForm().optional(), "managed": yesNoForm().optional(),
			"mode": words("nat", "route", "open", "bridge", "passthrough", "private", "vepa", "hostdev").optional(),
		},
		kids: elements{
			"interface": {shape: shape{attrs: attributes{"dev": deviceForm().required(), "connections": unsigned(0, 1<<32-1).optional()}}, many: true},
			"address": {shape: shape{attrs: attributes{
				"type": words("pci").required(), "connections": unsigned(0, 1<<32-1).optional(), "multifunction": words("on", "off").optional(),
				"bus":      hexForm(2, 255).optional(),
				"domain":   either(matching("a number from 0 to 65535", "(0x)?[0-9a-fA-F]{1,8}"), unsigned(0, 1<<32-1)).optional(),
				"slot":     either(matching("a number from 0 to 31", "(0x)?[0-1]?[0-9a-fA-F]"), number(0, 31)).optional(),
				"function": either(matching("a number from 0 to 7", "(0x)?[0-7]"), number(0, 7)).optional(),
			}}, many: true},
			"pf": {shape: shape{attrs: attributes{"dev": deviceForm().required()}}},
			"driver": {shape: shape{attrs: attributes{
				"name": words("kvm", "vfio", "xen").optional(), "model": matching("letters, digits, '_', '+' and '-'", `[a-zA-Z0-9_+\-]+`).optional(),
			}}},
			"nat": {shape: shape{attrs: attributes{"ipv6": yesNoForm().optional()}, kids: elements{
				"address": {shape: shape{attrs: attributes{"start": ip4Form().required(), "end": ip4Form().required()}}},
				"port":    {shape: shape{attrs: attributes{"start": portForm().required(), "end": portForm().required()}}},
			}}},
		},
		rule: func(n *xmldoc.Node) (string, string) {
			if has(n, "interface") && has(n, "address") {
				return "/address", "not allowed beside <interface>"
			}
			return "", ""
		},
	}
}

func virtualPortShape() shape {
	profile := matching("at most 39 characters", `(?s).{0,39}`)
	return shape{
		attrs: attributes{"type": words("802.1Qbg", "802.1Qbh", "openvswitch", "midonet").optional()},
		kids: elements{"parameters": {shape: shape{attrs: attributes{
			"managerid": hexForm(2, 255).optional(), "typeid": hexForm(6, 1<<24-1).optional(), "typeidversion": hexForm(2, 255).optional(),
			"instanceid": uuidForm().optional(), "interfaceid": uuidForm().optional(), "profileid": profile.optional(),
		}}}},
		rule: virtualPortRule,
	}
}

// virtualPortRule has each type its own parameters.
func virtualPortRule(n *xmldoc.Node) (at, problem string) {
	kind, typed := attributeOf(n, "type")
	allowed := map[string][]string{
		"802.1Qbg": {"managerid", "typeid", "typeidversion", "instanceid"}, "802.1Qbh": {"profileid"},
		"openvswitch": {"profileid", "interfaceid"}, "midonet": {"interfaceid"},
	}[collapsed(kind)]
	has := make(map[string]bool)
	for _, k := range n.Kids {
		for _, a := range k.Attrs {
			if has[a.Name] = true; typed && !slices.Contains(allowed, a.Name) {
				return "/parameters/@" + a.QName, "not allowed with type='" + kind + "'"
			}
		}
	}
	if collapsed(kind) == "midonet" && !has["interfaceid"] {
		return "/parameters/@interfaceid", "missing, want a UUID"
	}
	return "", ""
}

func portGroupShape() shape {
	return shape{
		attrs: attributes{"name": deviceForm().required(), "default": yesNoForm().optional(), "trustGuestRxFilters": yesNoForm().optional()},
		kids:  elements{"virtualport": {shape: virtualPortShape()}, "bandwidth": {shape: bandwidthShape()}, "vlan": {shape: vlanShape()}},
	}
}

func bandwidthShape() shape {
	speed := digits(1, 1<<54)
	rate := shape{attrs: attributes{"average": speed.optional(), "peak": speed.optional(), "floor": speed.optional(), "burst": digits(1, 1<<32-1).optional()}}
	return shape{
		attrs: attributes{"classID": digits(1, 1<<64-1).optional()},
		kids:  elements{"inbound": {shape: rate}, "outbound": {shape: rate}},
	}
}

func vlanShape() shape {
	tag := shape{attrs: attributes{"id": unsigned(0, 4095).required(), "nativeMode": words("tagged", "untagged").optional()}}
	return shape{attrs: attributes{"trunk": words("yes").optional()}, kids: elements{"tag": {shape: tag, many: true, required: true}}}
}

func dnsShape() shape {
	name := dnsForm()
	return shape{
		attrs: attributes{"enable": yesNoForm().optional(), "forwardPlainNames": yesNoForm().optional()},
		kids: elements{
			"forwarder": {shape: shape{attrs: attributes{"addr": ipForm().optional(), "domain": dnsForm().optional(), "port": portForm().optional()}}, many: true},
			"txt":       {shape: shape{attrs: attributes{"name": dnsForm().required(), "value": textForm().required()}}, many: true},
			"srv": {shape: shape{attrs: attributes{
				"service": textForm().required(), "protocol": matching("tcp or udp", "tcp|udp").required(), "domain": dnsForm().optional(), "target": textForm().optional(),
				"port": shortForm().optional(), "priority": shortForm().optional(), "weight": shortForm().optional(),
			}}, many: true},
			"host": {shape: shape{
				attrs: attributes{"ip": ipForm().required()},
				kids:  elements{"hostname": {shape: shape{text: &name}, many: true, required: true}},
			}, many: true},
		},
	}
}

func ipShape() shape {
	lease := kid{shape: shape{attrs: attributes{"expiry": uint64Form().required(), "unit": words("seconds", "minutes", "hours").optional()}}}
	return shape{
		attrs: attributes{
			"address": ipForm().optional(), "netmask": ip4Form().optional(), "prefix": unsigned(0, 128).optional(),
			"family": familyForm().optional(), "localPtr": yesNoForm().optional(),
		},
		kids: elements{
			"tftp": {shape: shape{attrs: attributes{"root": textForm().required()}}},
			"dhcp": {shape: shape{attrs: attributes{}, kids: elements{
				"range": {shape: shape{attrs: attributes{"start": ipForm().required(), "end": ipForm().required()}, kids: elements{"lease": lease}}, many: true},
				"host": {shape: shape{attrs: attributes{
					"mac": macForm().optional(), "id": duidForm().optional(), "name": textForm().optional(), "ip": ipForm().required(),
				}, kids: elements{"lease": lease}, rule: hostRule}, many: true},
				"bootp": {shape: shape{attrs: attributes{"file": pathForm().required(), "server": dnsForm().optional()}}},
			}}},
		},
		rule: oneLength,
	}
}

// hostRule wants one of what a client is known by.
func hostRule(n *xmldoc.Node) (at, problem string) {
	_, mac := attributeOf(n, "mac")
	_, id := attributeOf(n, "id")
	_, name := attributeOf(n, "name")
	switch {
	case mac && id:
		return "/@id", "not allowed beside mac"
	case !mac && !id && !name:
		return "", "want a mac, an id or a name"
	}
	return "", ""
}

// oneLength lets a netmask or a prefix stand, not both.
func oneLength(n *xmldoc.Node) (at, problem string) {
	_, mask := attributeOf(n, "netmask")
	if _, prefix := attributeOf(n, "prefix"); mask && prefix {
		return "/@prefix", "not allowed beside netmask"
	}
	return "", ""
}

func routeShape() shape {
	return shape{
		attrs: attributes{
			"family": familyForm().optional(), "address": ipForm().required(), "netmask": ip4Form().optional(), "prefix": unsigned(0, 128).optional(),
			"gateway": ipForm().required(), "metric": uint32Form().optional(),
		},
		rule: oneLength,
	}
}

// has reports whether n has a child of that name.
func has(n *xmldoc.Node, name string) bool {
	for _, k := range n.Kids {
		if k.Name == name && k.Space == "" {
			return true
		}
	}
	return false
}

// attributeOf returns an attribute of n and whether it is there.
func attributeOf(n *xmldoc.Node, name string) (string, bool) {
	for _, a := range n.Attrs {
		if a.Name == name && a.Space == "" {
			return a.Value, true
		}
	}
	return "", false
}
