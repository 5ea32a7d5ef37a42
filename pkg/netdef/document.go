package netdef

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"github.com/vnetd/vnetd/internal/dnsname"
	"github.com/vnetd/vnetd/pkg/netdef/announce"
	"github.com/vnetd/vnetd/pkg/netdef/span"
	"github.com/vnetd/vnetd/pkg/netdef/xmldoc"
)

// Parse reads a <network> document. The error is of type Faults: either one
// fault with its line if the text is not acceptable XML, or every value that
// can't be read together with everything that Validate finds in the rest.
// Unknown elements and attributes are dropped and listed in Ignored. Without an
// error the network may still be invalid: see Validate. Values beyond the
// bounds of documents (4 MiB, 64 levels) are refused.
func Parse(src []byte) (*Network, error) {
	root, err := xmldoc.ParseTree(src)
	if err != nil {
		return nil, Faults{xmldoc.AsFault(err)}
	}
	if root.Name != "network" || root.Space != "" {
		return nil, Faults{{Problem: "the document is a <" + xmldoc.OneLine(root.QName) + ">, want <network>"}}
	}
	return decodeNetwork(root)
}

// decodeNetwork decodes a <network>, wherever it stands. Its errors are Parse's.
func decodeNetwork(root *xmldoc.Node) (*Network, error) {
	var faults Faults
	e := xmldoc.Element{Node: root, Faults: &faults}
	n := decodeDefinition(e)
	faultUnknown(e)
	if len(faults) > xmldoc.MaxFaults { // what can't be read is enough
		return nil, faults
	}
	if len(faults) > 0 {
		return nil, faults.Merge(n.validate(false))
	}
	n.Ignored = root.Unused(nil)
	return n, nil
}

// ParseStatus reads the <networkstatus> document that libvirt keeps of an active
// network in /run/libvirt/network, and returns the <network> in it: what the
// network is, whatever its definition says. What else libvirt notes there, traffic
// classes and how to take down its rules, is of no use to others. The error is that
// of Parse.
func ParseStatus(src []byte) (*Network, error) {
	root, err := xmldoc.ParseTree(src)
	if err != nil {
		return nil, Faults{xmldoc.AsFault(err)}
	}
	if root.Name != "networkstatus" || root.Space != "" {
		return nil, Faults{{Problem: "the document is a <" + xmldoc.OneLine(root.QName) + ">, want <networkstatus>"}}
	}
	for _, kid := range root.Kids {
		if kid.Name == "network" && kid.Space == "" {
			n, err := decodeNetwork(kid)
			if err == nil {
				n.forgetFunctions()
			}
			return n, err
		}
	}
	return nil, Faults{{Problem: "the document has no <network>"}}
}

// forgetFunctions drops what libvirt has found of a <pf>, which stands beside it in what an
// active network is.
func (n *Network) forgetFunctions() {
	if f := n.Forward; f != nil && f.PF != "" {
		f.Dev, f.Interfaces, f.Addresses = "", nil, nil
	}
}

// Validate returns every value in n that can't work, as Faults; nil if there
// is none. It needs no Complete: an empty UUID, MAC or bridge name is fine.
func (n *Network) Validate() error { return n.validate(false).Err() }

// validate is Validate with the faults' own type, and with all of them.
func (n *Network) validate(all bool) Faults {
	c := &checker{n: n, mode: n.Mode(), all: all}
	checkName(c)
	checkIdentity(c)
	checkForward(c)
	checkBridge(c)
	checkForwardMode(c)
	checkUplink(c)
	checkHostAccess(c)
	checkBridgePolicy(c)
	checkAccess(c)
	checkDHCPPolicy(c)
	checkGuard(c)
	checkInbound6(c)
	checkOffload(c)
	checkPortForwards(c)
	checkPolicy(c)
	checkSpan(c)
	checkAnnounce(c)
	checkSubnet(c)
	checkMTU(c)
	checkDomain(c)
	checkDNS(c)
	checkRecords(c)
	checkDnsmasq(c)
	checkAddresses(c)
	checkPorts(c)
	checkFragments(c)
	return c.Faults
}

// maxName bounds a name: it is part of file names, which end at 255 bytes.
const maxName = 200

// checkName checks the network's name, which is a file's name too.
func checkName(c *checker) {
	const path = "network/name"
	switch name := c.n.Name; {
	case name == "":
		c.Add(path, "", "missing, want a name")
	case name == "." || name == "..":
		c.Add(path, name, "not a name for a file, which it becomes")
	case strings.Contains(name, "/"):
		c.Add(path, name, "want a name without '/'")
	case strings.ContainsFunc(name, unicode.IsControl):
		c.Add(path, name, "want a name without line breaks and control characters")
	case len(name) > maxName:
		c.Addf(path, name, "the name has %d bytes, want at most %d", len(name), maxName)
	}
}

// checkIdentity checks what else tells the network from others.
func checkIdentity(c *checker) {
	if u := c.n.UUID; u != "" {
		if canonical, err := parseUUID(u); err != nil || canonical != u {
			c.Add("network/uuid", u, "not a UUID in canonical form")
		}
	}
	if strings.Contains(c.n.Title, "\n") {
		c.Add("network/title", c.n.Title, "want a title on one line")
	}
	checkMAC(c, "network/mac/@address", c.n.MAC)
}

// checkBridge checks the bridge of a network. Where the bridge is the host's, how
// it runs is not the network's to say.
func checkBridge(c *checker) {
	const path = "network/bridge"
	b := c.n.Bridge
	name := b.Name
	if c.mode.OwnsBridge() {
		// A template's number has one to three digits; Complete sees to the length.
		name = strings.Replace(name, "%d", "0", 1)
	}
	if problem := deviceName(name); problem != "" {
		c.Add(path+"/@name", b.Name, problem)
	}
	if c.mode.OwnsBridge() || !knownMode(c.mode) {
		return
	}
	if b.Delay != 0 && !c.n.OwnsBridge() {
		c.Addf(path+"/@delay", fmt.Sprint(b.Delay), "not allowed in mode %s: the bridge is the host's", c.mode)
	}
	if b.Zone != "" {
		c.Addf(path+"/@zone", b.Zone, "not allowed in mode %s: its traffic is not the network's to filter", c.mode)
	}
	if c.mode == ModeBridge {
		return
	}
	if b.Name != "" {
		c.Addf(path+"/@name", b.Name, "not allowed in mode %s, which uses no bridge", c.mode)
	}
	if b.MACTableManager != "" {
		c.Addf(path+"/@macTableManager", b.MACTableManager, "not allowed in mode %s, which uses no bridge", c.mode)
	}
}

// checkMTU checks the MTU against the kernel's bounds for a bridge and against
// IPv6: "every link in the Internet have an MTU of 1280 octets or greater"
// (RFC 8200 section 5).
func checkMTU(c *checker) {
	const path = "network/mtu/@size"
	mtu := c.n.MTU
	switch {
	case mtu == 0:
	case mtu < 68 || mtu > 65535:
		c.Add(path, fmt.Sprint(mtu), "want 68 to 65535")
	case mtu < 1280 && c.hasIPv6():
		c.Add(path, fmt.Sprint(mtu), "want at least 1280, which the network's IPv6 needs")
	}
}

// checkSpan checks <vnetd:span>.
func checkSpan(c *checker) {
	n := c.n
	at := span.Context{Mode: string(c.mode), Owns: c.mode.OwnsBridge(), VLANs: n.BridgePolicy.FilterVLANs == Yes || n.HasVLANs(), Bridge: n.Bridge.Name, Isolated: n.Isolated == Yes}
	for i := range n.IPs {
		at.Subnets = append(at.Subnets, n.IPs[i].Prefix())
	}
	at.Gives = len(HostSubnets(n)) > 0 || n.Chosen != ""
	span.Check(at, n.Span, c.Add)
}

// HostSubnets are the subnets of n in which a host can have an address of its own, where n spans hosts: of
// IPv4 the one of which DHCP gives addresses, of IPv6 those in which cards make their own.
func HostSubnets(n *Network) (all []netip.Prefix) {
	four := false
	for i := range n.IPs {
		switch ip := &n.IPs[i]; {
		case ip.Address.Is6() && ip.Prefix().Bits() == slaacBits:
			all = append(all, ip.Prefix())
		case ip.Address.Is4() && !four && ip.DHCP != nil && len(ip.DHCP.Ranges) > 0:
			four = true
			all = append(all, ip.Prefix())
		}
	}
	return all
}

// checkAnnounce checks <vnetd:announce>.
func checkAnnounce(c *checker) {
	at := announce.Context{Mode: string(c.mode), Routed: c.mode == ModeRoute || c.mode == ModeOpen, Spans: c.n.Span != nil, Addresses: len(c.n.IPs) > 0 || c.n.Chosen != ""}
	announce.Check(at, c.n.Announce, c.Add)
}

// checkDomain checks the DNS domain.
func checkDomain(c *checker) {
	d := c.n.Domain
	if d == nil {
		return
	}
	c.dnsRule("network/domain/@name", d.Name, dnsname.Host)
	if d.Register == Yes && d.LocalOnly != Yes {
		c.Add("network/domain/@register", "yes", "only allowed with localOnly='yes'")
	}
}

// checkForward checks the values of <forward>, whatever the mode.
func checkForward(c *checker) {
	f := c.n.Forward
	if f == nil {
		return
	}
	if !knownMode(c.mode) {
		c.Addf("network/forward/@mode", string(c.mode), "unknown forward mode, want one of %s", strings.Join(modes(), ", "))
	}
	if f.Dev != "" && len(f.Interfaces) > 0 && f.Interfaces[0] != f.Dev {
		c.Addf("network/forward/@dev", f.Dev, "want the same device as the first <interface>, '%s'", f.Interfaces[0])
	}
	checkInterfaces(c, f)
	checkPool(c, f)
	checkNAT(c, f.NAT)
}

// checkInterfaces checks the devices of the host that a <forward> names.
func checkInterfaces(c *checker, f *Forward) {
	seen := make(map[string]bool)
	for i, dev := range f.Interfaces {
		path := fmt.Sprintf("network/forward/interface[%d]/@dev", i+1)
		if i == 0 && dev == f.Dev && dev != "" {
			path = "network/forward/@dev"
		}
		checkDevice(c, path, dev)
		if seen[dev] {
			c.Add(path, dev, "want each interface once")
		}
		seen[dev] = true
	}
}

// checkNAT checks <nat>.
func checkNAT(c *checker, n *NAT) {
	if n == nil {
		return
	}
	const path = "network/forward/nat"
	if a := n.Address; a != nil {
		checkNATAddress(c, path+"/address", *a)
	}
	if r := n.Port; r != nil && r.Start >= r.End {
		problem := fmt.Sprintf("want a port after the start %d: ", r.Start)
		if r.Start == r.End {
			// iptables takes start-end in --to-ports, and libvirt fails at start.
			problem += "a range of a single port can't serve a network"
		} else {
			problem += "the range is reversed"
		}
		c.Add(path+"/port/@end", fmt.Sprint(r.End), problem)
	}
}

// checkNATAddress checks the source addresses of NAT.
func checkNATAddress(c *checker, path string, a AddressRange) {
	if !c.present(path, a.Start, a.End) {
		return
	}
	switch {
	case !a.Start.Is4():
		c.Add(path+"/@start", a.Start.String(), "want an IPv4 address: IPv6 is translated to the interface's own")
	case !a.End.Is4():
		c.Add(path+"/@end", a.End.String(), "want an IPv4 address: IPv6 is translated to the interface's own")
	default:
		c.order(path, a)
	}
}

// checkForwardMode checks what the mode needs and what it has no place for.
func checkForwardMode(c *checker) {
	interfaces := 0
	if c.n.Forward != nil {
		interfaces = len(c.n.Forward.Interfaces)
	}
	switch c.mode {
	case ModeNAT, ModeRoute:
		if len(c.n.IPs) == 0 && c.n.Chosen == "" {
			c.Addf("network/forward/@mode", string(c.mode), "needs an <ip>, and the network has none")
		}
		if interfaces > 1 {
			c.Addf("network/forward/interface[2]/@dev", c.n.Forward.Interfaces[1], "only one interface is allowed in mode %s", c.mode)
		}
	case ModeOpen:
		if interfaces > 0 {
			c.Add("network/forward/@dev", c.n.Forward.Interfaces[0], "not allowed in mode open, which limits no traffic to an interface")
		}
	case ModeBridge:
		checkBridgeMode(c, interfaces)
		checkHostMode(c)
	case ModePrivate, ModeVEPA, ModePassthrough, ModeHostdev:
		checkHostMode(c)
	}
}

// checkBridgeMode checks that a network in mode bridge has one source of ports. It
// may have none: a network of Open vSwitch, as libvirt has it.
func checkBridgeMode(c *checker, interfaces int) {
	f, name := c.n.Forward, c.n.Bridge.Name
	if name != "" && (interfaces > 0 || f.PF != "") {
		c.Add("network/bridge/@name", name, "want either a bridge name or a forward interface in mode bridge, not both")
	}
}

// checkHostMode checks that a network on devices of the host has nothing that needs
// a bridge of its own.
func checkHostMode(c *checker) {
	problem := "not allowed in mode %s: the network has no bridge of its own"
	if c.n.OwnsBridge() {
		problem = "not allowed in mode %s with an uplink: addresses, names and services are the LAN's"
	}
	refuse := func(there bool, path string) {
		if there {
			c.Addf(path, "", problem, c.mode)
		}
	}
	n := c.n
	for i := range n.IPs {
		refuse(true, fmt.Sprintf("network/ip[%d]", i+1))
	}
	for i := range n.Routes {
		refuse(true, fmt.Sprintf("network/route[%d]", i+1))
	}
	refuse(n.MAC != nil, "network/mac")
	refuse(n.DNS != nil && len(n.DNS.TXT)+len(n.DNS.SRV)+len(n.DNS.Hosts) > 0, "network/dns")
	refuse(n.Domain != nil, "network/domain")
	refuse(n.MTU != 0 && !n.OwnsBridge(), "network/mtu")
}

// Served returns n as far as it can be served, which is n itself where Validate
// accepts it, and the faults of what was left out: single names and records that
// Validate refuses, and that stand in a document all the same because an earlier
// version took them. The rest of a network must not suffer from one of them.
func (n *Network) Served() (*Network, Faults) {
	c := &checker{n: n, mode: n.Mode()}
	checkDomain(c)
	checkDNS(c)
	checkRecords(c)
	checkDHCPNames(c)
	checkDnsmasq(c)
	if len(c.Faults) == 0 {
		return n, nil
	}
	served := n.Clone()
	served.dropDomain()
	served.Dnsmasq.DHCP.Refused = nil // it has no effect
	if served.DNS != nil {
		served.DNS.dropFaulty(served)
	}
	if !sound(served, checkRecords) {
		served.dropFaultyRecords()
	}
	for i := range served.IPs {
		if d := served.IPs[i].DHCP; d != nil {
			d.dropFaulty(served.IPs[i].Address)
		}
	}
	return served, c.Faults
}

// checkDnsmasq checks that lines about DHCP are understood. Others have no effect, of
// which a network's conditions tell.
func checkDnsmasq(c *checker) {
	for _, r := range c.n.Dnsmasq.DHCP.Refused {
		c.Add(fmt.Sprintf("network/dnsmasq:options/dnsmasq:option[%d]/@value", r.Line+1), c.n.Dnsmasq.Lines[r.Line], r.Want)
	}
}

// checkDHCPNames checks the names and identifiers of all static hosts.
func checkDHCPNames(c *checker) {
	for i := range c.n.IPs {
		ip := &c.n.IPs[i]
		if ip.DHCP == nil {
			continue
		}
		for j, h := range ip.DHCP.Hosts {
			path := fmt.Sprintf("network/ip[%d]/dhcp/host[%d]", i+1, j+1)
			checkDHCPHostName(c, path+"/@name", h.Name)
			checkDHCPHostID(c, path+"/@id", h.ID, ip.Address)
		}
	}
}

// sound reports whether check finds no fault in an entry of n.
func sound(n *Network, check func(*checker)) bool {
	c := &checker{n: n, mode: n.Mode()}
	check(c)
	return len(c.Faults) == 0
}

// dropDomain drops a domain whose name can't be one, or what it may not have.
func (n *Network) dropDomain() {
	if sound(n, checkDomain) {
		return
	}
	if n.Domain.Register = Unset; !sound(n, checkDomain) {
		n.Domain = nil
	}
}

// dropFaulty drops each record of d, which is that of n, that has a fault.
func (d *DNS) dropFaulty(n *Network) {
	if d.Enable == No {
		*d = DNS{Enable: No}
	}
	d.Forwarders = slices.DeleteFunc(d.Forwarders, func(f Forwarder) bool { return !sound(n, func(c *checker) { checkForwarder(c, "", f) }) })
	d.TXT = slices.DeleteFunc(d.TXT, func(t TXT) bool { return !sound(n, func(c *checker) { checkTXT(c, "", t) }) })
	d.SRV = slices.DeleteFunc(d.SRV, func(s SRV) bool { return !sound(n, func(c *checker) { checkSRV(c, "", s) }) })
	for i := range d.Hosts {
		d.Hosts[i].dropFaulty(n)
	}
	d.Hosts = slices.DeleteFunc(d.Hosts, func(h DNSHost) bool { return !sound(n, func(c *checker) { checkDNSHost(c, "", h) }) })
}

// dropFaulty drops each name of h, which is of n, that can't be one.
func (h *DNSHost) dropFaulty(n *Network) {
	h.Hostnames = slices.DeleteFunc(h.Hostnames, func(name string) bool {
		return !sound(n, func(c *checker) { checkHostname(c, "", name) })
	})
}

// dropFaultyRecords drops each <vnetd:record> that has a fault, by itself or beside those
// that stand before it.
func (n *Network) dropFaultyRecords() {
	var kept []Record
	for _, r := range n.Records {
		n.Records = append(slices.Clip(kept), r)
		if sound(n, checkRecords) {
			kept = n.Records
		}
	}
	n.Records = kept
}

// dropFaulty empties names and identifiers of d, on the address server, that no
// client can have.
func (d *DHCP) dropFaulty(server netip.Addr) {
	for i := range d.Hosts {
		h := &d.Hosts[i]
		if !sound(&Network{}, func(c *checker) { checkDHCPHostName(c, "", h.Name) }) {
			h.Name = ""
		}
		if !sound(&Network{}, func(c *checker) { checkDHCPHostID(c, "", h.ID, server) }) {
			h.ID = ""
		}
	}
}

// Anonymous reports whether there is nothing that a client would be known by.
func (h *DHCPHost) Anonymous() bool { return h.MAC == nil && h.ID == "" && h.Name == "" }

// Runnable returns what keeps n from being active, as Faults; nil if nothing
// does. It is Validate without the faults of what Served leaves out.
func (n *Network) Runnable() error {
	served, faults := n.Served()
	if len(faults) == 0 {
		return n.Validate()
	}
	for i := range served.IPs {
		if d := served.IPs[i].DHCP; d != nil {
			d.Hosts = slices.DeleteFunc(d.Hosts, func(h DHCPHost) bool { return h.Anonymous() })
		}
	}
	return served.Validate()
}
