package netdef

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/vnetd/vnetd/pkg/netdef/schema"
	"github.com/vnetd/vnetd/pkg/netdef/xmldoc"
)

// decodeUplink decodes <vnetd:uplink>; "" if there is none.
func decodeUplink(e xmldoc.Element) string {
	e, ok := ours(e, "uplink")
	if !ok {
		return ""
	}
	dev := e.Str("dev")
	if dev == "" {
		e.Fault("@dev", "", "missing, want the name of an interface")
	}
	return dev
}

// decodeAccess decodes <vnetd:access>; nil if there is none.
func decodeAccess(e xmldoc.Element) *Access {
	e, ok := ours(e, "access")
	if !ok {
		return nil
	}
	a := &Access{}
	for _, user := range e.Children(schema.NamespaceVnetd, "user") {
		a.Users = append(a.Users, decodeAccount(user))
	}
	for _, group := range e.Children(schema.NamespaceVnetd, "group") {
		a.Groups = append(a.Groups, decodeAccount(group))
	}
	return a
}

// decodeDHCPPolicy decodes <vnetd:dhcp>.
func decodeDHCPPolicy(e xmldoc.Element) DHCPPolicy {
	e, ok := ours(e, "dhcp")
	if !ok {
		return DHCPPolicy{}
	}
	return DHCPPolicy{
		Identity: xmldoc.Value(e, "identity", parseWord("both", "client-id", "mac")),
		Probe:    xmldoc.Value(e, "probe", parseTristate),
	}
}

// decodeInbound6 decodes <vnetd:ipv6>.
func decodeInbound6(e xmldoc.Element) Tristate {
	e, ok := ours(e, "ipv6")
	if !ok {
		return Unset
	}
	if _, written := e.Attr("inbound"); !written {
		e.Fault("@inbound", "", "missing, want yes or no")
		return Unset
	}
	return xmldoc.Value(e, "inbound", parseTristate)
}

// decodeAccount decodes <vnetd:user> or <vnetd:group>.
func decodeAccount(e xmldoc.Element) Account {
	return Account{Name: e.Str("name"), Choose: xmldoc.Value(e, "choose", parseTristate) == Yes}
}

// extended reports whether n has something in vnetd's namespace.
func (n *Network) extended() bool {
	return n.Uplink != "" || n.Access != nil || n.DHCPPolicy != (DHCPPolicy{}) || n.Guard != (Guard{}) || n.Inbound6 != Unset || len(n.Records) > 0 ||
		slices.ContainsFunc(n.IPs, func(ip IP) bool { return ip.RA != (RAPolicy{}) || ip.DHCP != nil && len(ip.DHCP.Boots) > 0 })
}

// faultUnknown adds a fault for all that no decoder has read of vnetd's
// namespace, and inside its elements.
func faultUnknown(e xmldoc.Element) {
	unknown := func(at, val string) { e.Fault(at, val, "not known to this version of vnetd") }
	for _, a := range e.Attrs {
		if !a.Used && (a.Space == schema.NamespaceVnetd || e.Space == schema.NamespaceVnetd) {
			unknown("@"+a.QName, a.Value)
		}
	}
	for _, kid := range e.Kids {
		switch {
		case kid.Path == "" && (kid.Space == schema.NamespaceVnetd || e.Space == schema.NamespaceVnetd):
			unknown(kid.QName, "")
		case kid.Path != "" && !kid.KeepRaw:
			faultUnknown(xmldoc.Element{Node: kid, Faults: e.Faults})
		}
	}
}

// printExtensions prints what is in vnetd's namespace.
func printExtensions(p *xmldoc.Printer, n *Network) {
	if n.Uplink != "" {
		p.Leaf("vnetd:uplink", xmldoc.Always("dev", n.Uplink))
	}
	if n.DHCPPolicy != (DHCPPolicy{}) {
		p.Leaf("vnetd:dhcp", xmldoc.Opt("identity", n.DHCPPolicy.Identity), xmldoc.Opt("probe", n.DHCPPolicy.Probe))
	}
	printGuard(p, n.Guard)
	if n.Inbound6 != Unset {
		p.Leaf("vnetd:ipv6", xmldoc.Always("inbound", string(n.Inbound6)))
	}
	printRecords(p, n)
	if n.Access == nil {
		return
	}
	p.Elem("vnetd:access", func() {
		for _, user := range n.Access.Users {
			p.Leaf("vnetd:user", user.attrs()...)
		}
		for _, group := range n.Access.Groups {
			p.Leaf("vnetd:group", group.attrs()...)
		}
	})
}

// attrs are those of <vnetd:user> and <vnetd:group>.
func (a Account) attrs() []xmldoc.Attr {
	all := []xmldoc.Attr{xmldoc.Always("name", a.Name)}
	if a.Choose {
		all = append(all, xmldoc.Always("choose", string(Yes)))
	}
	return all
}

// checkUplink checks <vnetd:uplink>, and that the network has nothing which a bridge
// that is part of the LAN can't have.
func checkUplink(c *checker) {
	const path, dev = "network/vnetd:uplink", "network/vnetd:uplink/@dev"
	n := c.n
	switch {
	case n.Uplink == "":
		return
	case c.mode != ModeBridge:
		c.Addf(path, "", "only allowed in mode bridge, not in %s", c.mode)
		return
	case n.Bridge.Name == "":
		c.Add("network/bridge/@name", "", "missing, want the name of the bridge that is made for the uplink")
	case n.Bridge.Name == n.Uplink:
		c.Add(dev, n.Uplink, "the bridge has the same name")
	}
	if problem := deviceName(n.Uplink); problem != "" {
		c.Add(dev, n.Uplink, problem)
	}
	const profile = "not allowed with an uplink: the bridge has no ports with a profile"
	if n.VirtualPort != nil {
		c.Add("network/virtualport", "", profile)
	}
	for i := range n.PortGroups {
		if n.PortGroups[i].VirtualPort != nil {
			c.Add(fmt.Sprintf("network/portgroup[%d]/virtualport", i+1), "", profile)
		}
	}
}

// checkDHCPPolicy checks <vnetd:dhcp>.
func checkDHCPPolicy(c *checker) {
	if c.n.DHCPPolicy != (DHCPPolicy{}) && !c.mode.OwnsBridge() {
		c.Addf("network/vnetd:dhcp", "", "not allowed in mode %s: the network serves no DHCP", c.mode)
	}
}

// checkInbound6 checks <vnetd:ipv6>.
func checkInbound6(c *checker) {
	const path = "network/vnetd:ipv6"
	switch n := c.n; {
	case n.Inbound6 == Unset:
	case c.mode != ModeNAT && c.mode != ModeRoute:
		c.Addf(path, "", "not allowed in mode %s: want nat or route", c.mode)
	case n.Inbound6 == Yes && n.Forward.NAT != nil && n.Forward.NAT.IPv6 == Yes:
		c.Add(path+"/@inbound", string(Yes), "not possible with <nat ipv6='yes'/>, which nobody outside can connect through: want no, or no <nat ipv6>")
	}
}

// checkAccess checks <vnetd:access>.
func checkAccess(c *checker) {
	if c.n.Access == nil {
		return
	}
	checkAccounts(c, "network/vnetd:access/vnetd:user", c.n.Access.Users)
	checkAccounts(c, "network/vnetd:access/vnetd:group", c.n.Access.Groups)
}

// checkAccounts checks names of users or groups.
func checkAccounts(c *checker, path string, accounts []Account) {
	seen := make(map[string]bool)
	for i, account := range accounts {
		name := account.Name
		at := fmt.Sprintf("%s[%d]/@name", path, i+1)
		switch problem := accountName(name); {
		case problem != "":
			c.Add(at, name, problem)
		case seen[name]:
			c.Add(at, name, "want each name once")
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

// guardLevels are the levels of guards, guardKinds the kinds of frames.
var (
	guardLevels = []string{"off", "gateway", "strict"}
	guardKinds  = []string{"control", "mac", "fdb", "vlan", "arp", "nd", "dhcp", "ra", "ip", "rate"}
)

// maxGuardAddresses bounds Guard.Addresses.
const maxGuardAddresses = 65536

// String is the guard as an option of a port has it; "" where nothing is said.
func (g Guard) String() string {
	if g.Kinds == "" {
		return g.Level
	}
	return g.Level + "," + g.Kinds
}

// decodeGuard decodes <vnetd:guard>.
func decodeGuard(e xmldoc.Element) Guard {
	e, ok := ours(e, "guard")
	if !ok {
		return Guard{}
	}
	g := Guard{
		Level:     xmldoc.Value(e, "level", parseWord(guardLevels...)),
		Addresses: xmldoc.Value(e, "addresses", parseUint[int](1, maxGuardAddresses)),
	}
	if _, said := e.Attr("level"); !said {
		e.Fault("@level", "", "missing, want "+strings.Join(guardLevels, " or "))
	}
	var kinds []string
	for _, kind := range guardKinds {
		if level := xmldoc.Value(e, kind, parseWord(guardLevels...)); level != "" {
			kinds = append(kinds, kind+"="+level)
		}
	}
	g.Kinds = strings.Join(kinds, ",")
	return g
}

// printGuard prints <vnetd:guard>.
func printGuard(p *xmldoc.Printer, g Guard) {
	if g == (Guard{}) {
		return
	}
	attrs := []xmldoc.Attr{xmldoc.Always("level", g.Level)}
	for word := range strings.SplitSeq(g.Kinds, ",") {
		if kind, level, ok := strings.Cut(word, "="); ok {
			attrs = append(attrs, xmldoc.Always(kind, level))
		}
	}
	p.Leaf("vnetd:guard", append(attrs, xmldoc.Num("addresses", g.Addresses))...)
}

// checkGuard checks <vnetd:guard>.
func checkGuard(c *checker) {
	if c.n.Guard != (Guard{}) && !c.mode.OwnsBridge() && c.mode != ModeBridge {
		c.Add("network/vnetd:guard", "", fmt.Sprintf("not allowed in mode %s: guests have no ports on a bridge", c.mode))
	}
}
