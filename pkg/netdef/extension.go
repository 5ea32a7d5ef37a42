package netdef

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// nsVnetd is the namespace of what a network can have here and not in libvirt,
// which drops it. Unlike what is unknown in the schema, what is unknown in this
// namespace is a fault: it was written for vnetd, and would have no effect.
const nsVnetd = "urn:vnetd:network:1"

// Access is who may use a network beside those who may use all of them. The
// names are those of the host's user database.
type Access struct {
	Users, Groups []Account
}

// Account is a user, or the members of a group.
type Account struct {
	Name string
	// Choose is leave to say what a port's MAC address, addresses, device name and
	// owner are.
	Choose bool
}

// DHCPPolicy is how clients of DHCP are dealt with, as far as the daemon's
// configuration is not to say.
type DHCPPolicy struct {
	Identity string   // what tells clients apart: both, client-id or mac; "": not said
	Probe    Tristate // addresses are asked for by ARP before they are offered
}

// OwnsBridge reports whether the network makes its bridge: because of its mode,
// or for its uplink. A network with an uplink has no addresses and services.
func (n *Network) OwnsBridge() bool {
	return n.Mode().OwnsBridge() || n.Mode() == ModeBridge && n.Uplink != ""
}

// ours returns the only child of that name in vnetd's namespace, and adds a
// fault for each more.
func (e element) ours(name string) (element, bool) {
	path := e.path + "/vnetd:" + name
	var first *node
	for _, kid := range e.kids {
		switch {
		case kid.space != nsVnetd || kid.name != name:
		case first == nil:
			first = kid
		default:
			e.at(kid, path).keepRaw = true // nothing inside is a fault of its own
			e.faults.addf(path, "", "only one <vnetd:%s> is allowed", name)
		}
	}
	if first == nil {
		return element{}, false
	}
	return e.at(first, path), true
}

// uplink decodes <vnetd:uplink>; "" if there is none.
func (e element) uplink() string {
	e, ok := e.ours("uplink")
	if !ok {
		return ""
	}
	dev := e.str("dev")
	if dev == "" {
		e.fault("@dev", "", "missing, want the name of an interface")
	}
	return dev
}

// access decodes <vnetd:access>; nil if there is none.
func (e element) access() *Access {
	e, ok := e.ours("access")
	if !ok {
		return nil
	}
	a := &Access{}
	for _, user := range e.children(nsVnetd, "user") {
		a.Users = append(a.Users, user.account())
	}
	for _, group := range e.children(nsVnetd, "group") {
		a.Groups = append(a.Groups, group.account())
	}
	return a
}

// dhcpPolicy decodes <vnetd:dhcp>.
func (e element) dhcpPolicy() DHCPPolicy {
	e, ok := e.ours("dhcp")
	if !ok {
		return DHCPPolicy{}
	}
	return DHCPPolicy{
		Identity: value(e, "identity", parseWord("both", "client-id", "mac")),
		Probe:    value(e, "probe", parseTristate),
	}
}

// account decodes <vnetd:user> or <vnetd:group>.
func (e element) account() Account {
	return Account{Name: e.str("name"), Choose: value(e, "choose", parseTristate) == Yes}
}

// extended tells whether n has something in vnetd's namespace.
func (n *Network) extended() bool {
	return n.Uplink != "" || n.Access != nil || n.DHCPPolicy != (DHCPPolicy{}) || len(n.Records) > 0 ||
		slices.ContainsFunc(n.IPs, func(ip IP) bool { return ip.RA != (RAPolicy{}) || ip.DHCP != nil && len(ip.DHCP.Boots) > 0 })
}

// unknownExtensions adds a fault for all that no decoder has read of vnetd's
// namespace, and inside its elements.
func (e element) unknownExtensions() {
	unknown := func(at, val string) { e.fault(at, val, "not known to this version of vnetd") }
	for _, a := range e.attrs {
		if !a.used && (a.space == nsVnetd || e.space == nsVnetd) {
			unknown("@"+a.qname, a.value)
		}
	}
	for _, kid := range e.kids {
		switch {
		case kid.path == "" && (kid.space == nsVnetd || e.space == nsVnetd):
			unknown(kid.qname, "")
		case kid.path != "" && !kid.keepRaw:
			element{node: kid, faults: e.faults}.unknownExtensions()
		}
	}
}

// extensions prints what is in vnetd's namespace.
func (p *printer) extensions(n *Network) {
	if n.Uplink != "" {
		p.leaf("vnetd:uplink", attr{"dev", n.Uplink})
	}
	if n.DHCPPolicy != (DHCPPolicy{}) {
		p.leaf("vnetd:dhcp", opt("identity", n.DHCPPolicy.Identity), opt("probe", n.DHCPPolicy.Probe))
	}
	p.records(n)
	if n.Access == nil {
		return
	}
	p.elem("vnetd:access", func() {
		for _, user := range n.Access.Users {
			p.leaf("vnetd:user", user.attrs()...)
		}
		for _, group := range n.Access.Groups {
			p.leaf("vnetd:group", group.attrs()...)
		}
	})
}

// attrs are those of <vnetd:user> and <vnetd:group>.
func (a Account) attrs() []attr {
	all := []attr{{"name", a.Name}}
	if a.Choose {
		all = append(all, attr{"choose", string(Yes)})
	}
	return all
}

// uplink checks <vnetd:uplink>, and that the network has nothing which a bridge
// that is part of the LAN can't have.
func (c *checker) uplink() {
	const path, dev = "network/vnetd:uplink", "network/vnetd:uplink/@dev"
	n := c.n
	switch {
	case n.Uplink == "":
		return
	case c.mode != ModeBridge:
		c.addf(path, "", "only allowed in mode bridge, not in %s", c.mode)
		return
	case n.Bridge.Name == "":
		c.add("network/bridge/@name", "", "missing, want the name of the bridge that is made for the uplink")
	case n.Bridge.Name == n.Uplink:
		c.add(dev, n.Uplink, "the bridge has the same name")
	}
	if problem := deviceName(n.Uplink); problem != "" {
		c.add(dev, n.Uplink, problem)
	}
	const profile = "not allowed with an uplink: the bridge has no ports with a profile"
	if n.VirtualPort != nil {
		c.add("network/virtualport", "", profile)
	}
	for i := range n.PortGroups {
		if n.PortGroups[i].VirtualPort != nil {
			c.add(fmt.Sprintf("network/portgroup[%d]/virtualport", i+1), "", profile)
		}
	}
}

// dhcpPolicy checks <vnetd:dhcp>.
func (c *checker) dhcpPolicy() {
	if c.n.DHCPPolicy != (DHCPPolicy{}) && !c.mode.OwnsBridge() {
		c.addf("network/vnetd:dhcp", "", "not allowed in mode %s: the network serves no DHCP", c.mode)
	}
}

// access checks <vnetd:access>.
func (c *checker) access() {
	if c.n.Access == nil {
		return
	}
	c.accounts("network/vnetd:access/vnetd:user", c.n.Access.Users)
	c.accounts("network/vnetd:access/vnetd:group", c.n.Access.Groups)
}

// accounts checks names of users or groups.
func (c *checker) accounts(path string, accounts []Account) {
	seen := make(map[string]bool)
	for i, account := range accounts {
		name := account.Name
		at := fmt.Sprintf("%s[%d]/@name", path, i+1)
		switch problem := accountName(name); {
		case problem != "":
			c.add(at, name, problem)
		case seen[name]:
			c.add(at, name, "want each name once")
		}
		seen[name] = true
	}
}

// accountName returns what is wrong with the name of a user or group, "" if
// nothing is. A number would be one account by name and another one by id; ':'
// and ',' separate names in the host's files (passwd(5), group(5)).
func accountName(name string) string {
	switch {
	case name == "":
		return "missing, want a name"
	case len(name) > 255:
		return fmt.Sprintf("the name has %d bytes, want at most 255", len(name))
	case strings.Trim(name, "0123456789") == "":
		return "want a name, not a number"
	case strings.ContainsFunc(name, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
		return "want a name without blanks"
	case strings.ContainsAny(name, ":,"):
		return "want a name without ':' and ','"
	}
	return ""
}
