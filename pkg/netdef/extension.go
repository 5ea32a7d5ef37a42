package netdef

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/vnetd/vnetd/internal/dnsname"
	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/pkg/netdef/announce"
	"github.com/vnetd/vnetd/pkg/netdef/policy"
	"github.com/vnetd/vnetd/pkg/netdef/schema"
	"github.com/vnetd/vnetd/pkg/netdef/span"
	"github.com/vnetd/vnetd/pkg/netdef/xmldoc"
)

// HostAccess is a macvlan interface of the host on the interface that guests are on.
type HostAccess struct {
	Dev string           // its name
	MAC net.HardwareAddr // nil: made of the network's UUID
}

// String is h's interface and address; empty for none.
func (h *HostAccess) String() string {
	if h == nil {
		return ""
	}
	return strings.TrimSpace(h.Dev + " " + h.MAC.String())
}

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

// Guard is what ports of a network are kept from sending: a level, and the level of
// kinds that have another.
type Guard struct {
	Level string // off, gateway or strict; "": not said
	Kinds string // KIND=LEVEL, with commas between them, in order of the kinds; may be empty
	// Addresses is how many those behind one port may have that have none reserved; 0: as
	// the level says.
	Addresses int
}

// decodeUplink decodes <vnetd:uplink>; "" if there is none.
func decodeUplink(e xmldoc.Element) (dev string, id int) {
	e, ok := ours(e, "uplink")
	if !ok {
		return "", 0
	}
	dev = e.Str("dev")
	if dev == "" {
		e.Fault("@dev", "", "missing, want the name of an interface")
	}
	return dev, xmldoc.Value(e, "vlan", parseUint[int](minVLAN, maxVLAN))
}

// UplinkDevice is the device that is put into the bridge: Uplink, or the VLAN device of
// UplinkVLAN on it, whose name the kernel's bounds may cut short.
func (n *Network) UplinkDevice() string {
	if n.UplinkVLAN == 0 {
		return n.Uplink
	}
	suffix := fmt.Sprintf(".%d", n.UplinkVLAN)
	return n.Uplink[:min(len(n.Uplink), ether.MaxName-len(suffix))] + suffix
}

// HasVLANs reports whether ports of n, or of a group of it, have a <vlan>.
func (n *Network) HasVLANs() bool {
	return n.VLAN != nil || slices.ContainsFunc(n.PortGroups, func(g PortGroup) bool { return g.VLAN != nil })
}

// BridgePolicy is what a bridge does with multicast and with tags; what is Unset is the
// kernel's default.
type BridgePolicy struct {
	Snooping    Tristate // multicast goes to those alone who asked for it
	Querier     Tristate // the bridge asks who wants which
	FilterVLANs Tristate // the bridge looks at tags: Yes also with a <vlan> of the network or a group
}

// decodeBridgePolicy decodes <vnetd:bridge>.
func decodeBridgePolicy(e xmldoc.Element) BridgePolicy {
	e, ok := ours(e, "bridge")
	if !ok {
		return BridgePolicy{}
	}
	return BridgePolicy{
		Snooping:    xmldoc.Value(e, "multicast-snooping", parseTristate),
		Querier:     xmldoc.Value(e, "querier", parseTristate),
		FilterVLANs: xmldoc.Value(e, "vlan-filtering", parseTristate),
	}
}

// decodeHostAccess decodes <vnetd:host-access>; nil if there is none.
func decodeHostAccess(e xmldoc.Element) *HostAccess {
	e, ok := ours(e, "host-access")
	if !ok {
		return nil
	}
	h := &HostAccess{Dev: e.Str("dev"), MAC: xmldoc.Value(e, "mac", parseMAC)}
	if h.Dev == "" {
		e.Fault("@dev", "", "missing, want the name of the interface that the host shall have")
	}
	return h
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
	opens := len(n.PortForwards) > 0 || len(n.Peers) > 0 || !n.Rules.IsZero()
	holds := n.BridgePolicy != (BridgePolicy{}) || n.DHCPPolicy != (DHCPPolicy{}) || n.Guard != (Guard{}) || n.Inbound6 != Unset || n.Offload != Unset
	others := knownBeyond(n) || n.Uplink != "" || n.HostAccess != nil || n.Access != nil
	return others || opens || holds || len(n.Records) > 0 || n.Chosen != "" || slices.ContainsFunc(n.IPs, IP.extended)
}

// knownBeyond reports whether n says that other hosts or routers know of it.
func knownBeyond(n *Network) bool { return n.Span != nil || n.Announce != nil }

// extended reports whether ip has something in vnetd's namespace.
func (ip IP) extended() bool {
	return ip.RA != (RAPolicy{}) || ip.DHCP != nil && len(ip.DHCP.Boots) > 0
}

// faultUnknown adds a fault for all that no decoder has read of vnetd's
// namespace, and inside its elements.
func faultUnknown(e xmldoc.Element) {
	for _, a := range e.Attrs {
		if !a.Used && (a.Space == schema.NamespaceVnetd || e.Space == schema.NamespaceVnetd) {
			e.Fault("@"+a.QName, a.Value, "the attribute is not known to this version of vnetd")
		}
	}
	for _, kid := range e.Kids {
		switch {
		case kid.Path == "" && (kid.Space == schema.NamespaceVnetd || e.Space == schema.NamespaceVnetd):
			e.Fault(kid.QName, "", "the element is not known to this version of vnetd")
		case kid.Path != "" && !kid.KeepRaw:
			faultUnknown(xmldoc.Element{Node: kid, Faults: e.Faults})
		}
	}
}

// printExtensions prints what is in vnetd's namespace.
func printExtensions(p *xmldoc.Printer, n *Network) {
	if n.Uplink != "" {
		p.Leaf("vnetd:uplink", xmldoc.Always("dev", n.Uplink), xmldoc.Num("vlan", n.UplinkVLAN))
	}
	if b := n.BridgePolicy; b != (BridgePolicy{}) {
		p.Leaf("vnetd:bridge", xmldoc.Opt("multicast-snooping", b.Snooping), xmldoc.Opt("querier", b.Querier), xmldoc.Opt("vlan-filtering", b.FilterVLANs))
	}
	if h := n.HostAccess; h != nil {
		p.Leaf("vnetd:host-access", xmldoc.Always("dev", h.Dev), xmldoc.Opt("mac", h.MAC.String()))
	}
	if n.DHCPPolicy != (DHCPPolicy{}) {
		p.Leaf("vnetd:dhcp", xmldoc.Opt("identity", n.DHCPPolicy.Identity), xmldoc.Opt("probe", n.DHCPPolicy.Probe))
	}
	printGuard(p, n.Guard)
	if n.Inbound6 != Unset {
		p.Leaf("vnetd:ipv6", xmldoc.Always("inbound", string(n.Inbound6)))
	}
	printOffload(p, n.Offload)
	printRecords(p, n)
	printPortForwards(p, n)
	policy.PrintPeers(p, n.Peers)
	policy.PrintRules(p, &n.Rules)
	span.Print(p, n.Span)
	announce.Print(p, n.Announce)
	printSubnet(p, n)
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
	if n.UplinkVLAN != 0 && n.Bridge.Name == n.UplinkDevice() {
		c.Add(dev, n.UplinkDevice(), "the bridge has the name of the VLAN of the uplink")
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

// checkHostAccess checks <vnetd:host-access>. Only macvlan interfaces in mode bridge reach
// each other, and only those on one parent.
func checkHostAccess(c *checker) {
	const path = "network/vnetd:host-access"
	n := c.n
	if n.HostAccess == nil {
		return
	}
	if c.mode != ModeBridge || n.PortPlug() != PlugDirect {
		c.Addf(path, "", "only allowed in mode bridge with <forward dev>: in mode %s the host and its guests are not on one interface that lets them reach each other", c.mode)
		return
	}
	if f := n.Forward; len(f.Interfaces) != 1 || f.PF != "" {
		c.Add(path, "", "want one interface in <forward>, which the host is on, too")
	} else if f.Interfaces[0] == n.HostAccess.Dev {
		c.Add(path+"/@dev", n.HostAccess.Dev, "the interface that guests are on has the same name")
	}
	if problem := deviceName(n.HostAccess.Dev); problem != "" && n.HostAccess.Dev != "" {
		c.Add(path+"/@dev", n.HostAccess.Dev, problem)
	}
	checkMAC(c, path+"/@mac", n.HostAccess.MAC)
}

// checkBridgePolicy checks <vnetd:bridge>.
func checkBridgePolicy(c *checker) {
	const path = "network/vnetd:bridge"
	switch n, b := c.n, c.n.BridgePolicy; {
	case b == (BridgePolicy{}):
	case !n.OwnsBridge():
		c.Addf(path, "", "not allowed in mode %s without <vnetd:uplink>: the network makes no bridge", c.mode)
	case b.Querier == Yes && b.Snooping == No:
		c.Add(path+"/@querier", string(Yes), "not possible with multicast-snooping='no': nobody hears the answers")
	case b.Querier == Yes && (b.FilterVLANs == Yes || n.HasVLANs()):
		c.Add(path+"/@querier", string(Yes), "not possible with VLANs: the bridge asks those without a tag alone, and all others would lose IPv6")
	case b.FilterVLANs == No && n.HasVLANs():
		c.Add(path+"/@vlan-filtering", string(No), "not possible with a <vlan>: want yes, or leave it out")
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
	if plug := c.n.PortPlug(); c.n.Guard != (Guard{}) && plug != PlugNetwork && plug != PlugBridge {
		c.Add("network/vnetd:guard", "", fmt.Sprintf("not allowed in mode %s without a bridge: what a guest sends does not enter the host", c.mode))
	}
}

// PolicyContext is what peerings and rules of n, and rules of its ports, must go with.
func PolicyContext(n *Network) policy.Context {
	mode := n.Mode()
	c := policy.Context{
		Name: n.Name, Mode: string(mode), Routed: mode == ModeNAT || mode == ModeRoute || mode == ModeIsolated,
		DNS: n.DNS == nil || n.DNS.Enable != No,
	}
	if n.Domain != nil {
		c.Domain = n.Domain.Name
	}
	return c
}

// checkPolicy checks <vnetd:peer> and <vnetd:rules>.
func checkPolicy(c *checker) { policy.Check(PolicyContext(c.n), c.n.Peers, &c.n.Rules, c.Add) }

// maxPortForwards bounds those of one network, and maxForwardRules what they take together:
// the time that the kernel takes to write them grows with its square.
const (
	maxPortForwards = 4096
	maxForwardRules = 8192
)

// decodePortForwards decodes all <vnetd:forward>.
func decodePortForwards(e xmldoc.Element) (all []PortForward) {
	for _, f := range e.Children(schema.NamespaceVnetd, "forward") {
		all = append(all, decodePortForward(f))
	}
	return all
}

// decodePortForward decodes one.
func decodePortForward(e xmldoc.Element) PortForward {
	f := PortForward{
		Protocol: xmldoc.Value(e, "proto", parseWord("tcp", "udp", "sctp")), Ports: xmldoc.Value(e, "port", ParsePortRange),
		Address: xmldoc.Value(e, "address", parseAddr), To: e.Str("to"), ToPort: xmldoc.Value(e, "to-port", parseUint[uint16](1, 65535)),
		From: xmldoc.Value(e, "from", ParsePrefixes), Holder: e.Str("holder"),
	}
	for _, need := range []struct{ name, want string }{{"proto", "tcp, udp or sctp"}, {"port", "a port of this host or a range of them"}} {
		if _, said := e.Attr(need.name); !said {
			e.Fault("@"+need.name, "", "missing, want "+need.want)
		}
	}
	return f
}

// ParsePrefixes reads subnets and addresses with blanks between them.
func ParsePrefixes(s string) (all []netip.Prefix, err error) {
	for word := range strings.FieldsSeq(s) {
		p, err := netip.ParsePrefix(word)
		if a, is := netip.ParseAddr(word); is == nil && a.Zone() == "" {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil || p.Addr().Is4In6() {
			return nil, fmt.Errorf("%s is no subnet, want such as 198.51.100.0/24 with blanks between", xmldoc.OneLine(word))
		}
		all = append(all, p.Masked())
	}
	return all, nil
}

// printPortForwards prints them.
func printPortForwards(p *xmldoc.Printer, n *Network) {
	for i := range n.PortForwards {
		printPortForward(p, &n.PortForwards[i])
	}
}

// printPortForward prints one.
func printPortForward(p *xmldoc.Printer, f *PortForward) {
	var from []string
	for _, prefix := range f.From {
		from = append(from, prefix.String())
	}
	p.Leaf("vnetd:forward", xmldoc.Always("proto", f.Protocol), xmldoc.Always("port", f.Ports.String()), xmldoc.Addr("address", f.Address),
		xmldoc.Always("to", f.To), xmldoc.Num("to-port", f.ToPort), xmldoc.Opt("from", strings.Join(from, " ")), xmldoc.Opt("holder", f.Holder))
}

// checkPortForwards checks all <vnetd:forward>.
func checkPortForwards(c *checker) {
	const path = "network/vnetd:forward"
	all := c.n.PortForwards
	switch {
	case len(all) == 0:
		return
	case c.mode != ModeNAT && c.mode != ModeRoute:
		c.Addf(path, "", "not allowed in mode %s: want nat or route", c.mode)
	case len(all) > maxPortForwards:
		c.Addf(path, "", "%d forwards, want at most %d", len(all), maxPortForwards)
		return
	}
	rules := 0
	for i := range all {
		rules += all[i].Rules()
	}
	if rules > maxForwardRules {
		c.Addf(path, "", "%d rules for all forwards, want at most %d: each takes one for each of its senders, one to other ports as many for each of its ports", rules, maxForwardRules)
		return
	}
	ports := indexPorts(all)
	for i := range all {
		at := fmt.Sprintf("%s[%d]", path, i+1)
		checkPortForward(c, at, &all[i])
		if j := ports.clashing(&all[i])[0]; j < i {
			c.Addf(at+"/@port", all[i].Ports.String(), "is forwarded by vnetd:forward[%d] already, to %s", j+1, xmldoc.OneLine(all[j].To))
		}
	}
}

// checkPortForward checks one.
func checkPortForward(c *checker, path string, f *PortForward) {
	if last := int(f.ToPort) + int(f.Ports.End-f.Ports.Start); f.ToPort != 0 && last > 65535 {
		c.Addf(path+"/@to-port", strconv.Itoa(int(f.ToPort)), "the last port would be %d: want at most %d", last, 65535-int(f.Ports.End-f.Ports.Start))
	}
	if f.Address.Is4In6() || f.Address.IsMulticast() {
		c.Add(path+"/@address", f.Address.String(), "want an address of this host")
	}
	checkForwardTarget(c, path+"/@to", f)
	checkForwardPorts(c, path+"/@port", f)
	for _, p := range f.From {
		if !f.Covers(p.Addr().Is4()) {
			c.Addf(path+"/@from", p.String(), "is of another family than the address %s", f.Address)
		}
	}
}

// checkForwardTarget checks that To can be a guest of the network.
func checkForwardTarget(c *checker, path string, f *PortForward) {
	addr, mac, name := f.Target()
	switch {
	case f.To == "":
		c.Add(path, "", "missing, want the name, the MAC address or the IP address of a guest")
	case addr.IsValid() && !f.Covers(addr.Is4()):
		c.Addf(path, f.To, "is of another family than the address %s", f.Address)
	case addr.IsValid() && !slices.ContainsFunc(c.n.IPs, func(ip IP) bool { return ip.Prefix().Masked().Contains(addr) && ip.Address != addr }):
		c.Add(path, f.To, "want the address of a guest, in a subnet of the network")
	case name != "" && mac == "":
		c.dnsRule(path, name, dnsname.Host)
	}
}

// checkForwardPorts checks that the ports are for a guest to have: not those at which the
// guests of all networks find their services, nor those that <nat> has for connections of
// guests.
func checkForwardPorts(c *checker, path string, f *PortForward) {
	own := slices.ContainsFunc(c.n.IPs, func(ip IP) bool { return ip.Address == f.Address })
	for _, s := range []struct {
		protocol, what string
		port           uint16
	}{{"udp", "DNS", 53}, {"tcp", "DNS", 53}, {"udp", "DHCP", 67}, {"udp", "TFTP", 69}, {"udp", "DHCPv6", 547}} {
		if (own || f.AnyAddress()) && s.protocol == f.Protocol && f.Ports.overlaps(PortRange{s.port, s.port}) {
			c.Addf(path, f.Ports.String(), "guests find %s at port %d of their gateway: want an address of this host that is none of a network's", s.what, s.port)
		}
	}
	if r, ok := c.n.natPorts(); ok && f.Ports.overlaps(r) {
		c.Addf(path, f.Ports.String(), "overlaps the ports %s of network/forward/nat/port, which connections of guests get", r)
	}
}

// decodeOffload decodes <vnetd:offload>: without an attribute it says yes.
func decodeOffload(e xmldoc.Element) Tristate {
	e, ok := ours(e, "offload")
	if !ok {
		return Unset
	}
	if _, written := e.Attr("enabled"); !written {
		return Yes
	}
	return xmldoc.Value(e, "enabled", parseTristate)
}

// printOffload prints <vnetd:offload>.
func printOffload(p *xmldoc.Printer, offload Tristate) {
	switch offload {
	case Yes:
		p.Leaf("vnetd:offload")
	case No:
		p.Leaf("vnetd:offload", xmldoc.Always("enabled", string(No)))
	}
}

// checkOffload checks <vnetd:offload>.
func checkOffload(c *checker) {
	if c.n.Offload != Unset && c.mode != ModeNAT && c.mode != ModeRoute && c.mode != ModeOpen {
		c.Addf("network/vnetd:offload", "", "only allowed in modes nat, route and open: in mode %s this host forwards nothing of guests", c.mode)
	}
}
