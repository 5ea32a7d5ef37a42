// Package span has what a document says of a network that spans hosts (<vnetd:span>): its
// number on the wire, the addresses by which hosts reach each other, and who they are. It
// reads and prints the element and finds its faults. It is pure, and knows nothing of a
// network but what Context says.
package span

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vnetd/vnetd/pkg/netdef/schema"
	"github.com/vnetd/vnetd/pkg/netdef/xmldoc"
)

// DefaultPort is that of VXLAN (RFC 7348 section 8).
const DefaultPort = 4789

// What a network may have: VNIs are of 24 bits (RFC 7348 section 5), and what floods is sent
// to each host by itself.
const (
	maxVNI   = 1<<24 - 1
	maxPeers = 256
)

// Overhead is what a tunnel takes of the MTU of what it goes by: headers of VXLAN, UDP and
// IP, and the Ethernet header inside.
func Overhead(underlay netip.Addr) int {
	const inside, vxlan, udp, ip4, ip6 = 14, 8, 8, 20, 40
	if underlay.Is4() {
		return inside + vxlan + udp + ip4
	}
	return inside + vxlan + udp + ip6
}

// Span is a <vnetd:span>: the network is one with those of the same VNI on other hosts.
type Span struct {
	VNI int // 1 to 16777215, the same on all hosts; 0: one that the cluster has free
	// Underlay is the address of this host at which others reach it; invalid: that of Peers
	// which this host has.
	Underlay netip.Addr
	Port     uint16       // of UDP, the same on all hosts
	Peers    []netip.Addr // the hosts, of which this one may be one
	// HostAddress has each host have an address of its own in the network, by which its programs reach
	// guests of all hosts, and these it.
	HostAddress bool

	// Cluster is the name of that whose hosts the network is on, empty for none: it says
	// Underlay, Port and Peers then, and the document does not.
	Cluster string
	Hosts   []string // of the cluster, by their names; nil for all
	Block   int      // how many addresses a host claims at a time, a power of two; 0: as many as fit
}

// Clone returns a copy that shares nothing with s; nil for nil.
func (s *Span) Clone() *Span {
	if s == nil {
		return nil
	}
	c := *s
	c.Peers, c.Hosts = slices.Clone(s.Peers), slices.Clone(s.Hosts)
	return &c
}

// Others are the peers but for this host, whose addresses those are: what it floods to one of
// them would come back.
func (s *Span) Others(own ...netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(s.Peers), func(a netip.Addr) bool { return slices.Contains(own, a) })
}

// Device is the name of the device that is the tunnel's end.
func (s *Span) Device() string { return fmt.Sprintf("vx%d", s.VNI) }

// HostDevice is the name of the link by which this host itself is in the network, and HostPort that of its
// other end, a port of the bridge.
func (s *Span) HostDevice() string { return fmt.Sprintf("vh%d", s.VNI) }

// HostPort is told at HostDevice.
func (s *Span) HostPort() string { return fmt.Sprintf("vhp%d", s.VNI) }

// HostMAC is the address of the card of a host, which the others know by that name.
func (s *Span) HostMAC(host string) net.HardwareAddr {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s", s.VNI, host))
	// Locally administered, and neither a gateway's (02) nor a guest's (52).
	return net.HardwareAddr{0x06, sum[0], sum[1], sum[2], sum[3], sum[4]}
}

// MAC is the address of the gateway on all hosts, which is made of the VNI: what else a host
// knows of the network may be its own. Guests that move know their gateway by it.
func (s *Span) MAC() net.HardwareAddr {
	return net.HardwareAddr{0x02, 'v', 'n', byte(s.VNI >> 16), byte(s.VNI >> 8), byte(s.VNI)}
}

// Auto reports whether the number is still to be chosen.
func (s *Span) Auto() bool { return s != nil && s.VNI == 0 }

// MaxVNI is the largest number that a network can have.
const MaxVNI = maxVNI

// Same reports whether two tunnels have the same ends but for their peers.
func (s *Span) Same(o *Span) bool {
	if s == nil || o == nil {
		return s == o
	}
	return s.VNI == o.VNI && s.Underlay == o.Underlay && s.Port == o.Port && s.Cluster == o.Cluster
}

// On reports whether the network is on a host of its cluster.
func (s *Span) On(host string) bool { return s.Hosts == nil || slices.Contains(s.Hosts, host) }

// only is an attribute that takes one value yet, with why.
type only struct{ name, value, why string }

// onlys are the attributes of which the other values need what there is not yet.
var onlys = []only{
	{"egress", "local", "want local: each host lets its own guests out"},
}

// Decode decodes the <vnetd:span> of a <network>; nil if there is none.
func Decode(e xmldoc.Element) *Span {
	e, there := e.OnlyIn(schema.NamespaceVnetd, "vnetd:span")
	if !there {
		return nil
	}
	for _, o := range onlys {
		if value, said := e.Attr(o.name); said && (o.value == "" || value != o.value) {
			e.Fault("@"+o.name, value, o.why)
		}
	}
	s := &Span{VNI: xmldoc.Value(e, "vni", parseVNI), Underlay: xmldoc.Value(e, "underlay", parseAddr), Port: cmp.Or(xmldoc.Value(e, "port", parsePort), DefaultPort)}
	s.HostAddress = xmldoc.Value(e, "host-address", parseYes)
	decodeCluster(e, s)
	switch vni, said := e.Attr("vni"); {
	case s.Cluster != "":
	case !said:
		e.Fault("@vni", "", "missing, "+wantVNI)
	case vni == "auto":
		e.Fault("@vni", vni, "needs a cluster: "+wantVNI)
	}
	for _, p := range e.Children(schema.NamespaceVnetd, "peer") {
		if _, said := p.Attr("underlay"); !said {
			p.Fault("@underlay", "", "missing, want the address of a host")
		}
		s.Peers = append(s.Peers, xmldoc.Value(p, "underlay", parseAddr))
	}
	return s
}

// decodeCluster decodes what a document says of a cluster.
func decodeCluster(e xmldoc.Element, s *Span) {
	s.Cluster, s.Hosts, s.Block = xmldoc.Value(e, "cluster", parseName), xmldoc.Value(e, "hosts", parseHosts), xmldoc.Value(e, "block", parseBlock)
	_, named := e.Attr("cluster")
	for _, name := range []string{"hosts", "block"} {
		if value, said := e.Attr(name); said && !named {
			e.Fault("@"+name, value, "needs a cluster: want cluster='NAME' of a [cluster.NAME] in vnetd.toml")
		}
	}
	for _, name := range []string{"underlay", "port"} {
		if value, said := e.Attr(name); said && s.Cluster != "" {
			e.Fault("@"+name, value, "not allowed with a cluster: the [cluster."+s.Cluster+"] of each host's vnetd.toml says it")
		}
	}
}

// OnCluster is the span of a network on hosts of a cluster: all or, with spaces between, their names.
// vni and block are as in a document; empty: auto.
func OnCluster(cluster, hosts, vni, block string) (*Span, error) {
	var errs []error
	note := func(what, value string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %.80q: %w", what, value, err))
		}
	}
	s := &Span{Port: DefaultPort}
	var err error
	s.Cluster, err = parseName(cluster)
	note("cluster", cluster, err)
	s.Hosts, err = parseHosts(cmp.Or(hosts, "all"))
	note("hosts", hosts, err)
	s.VNI, err = parseVNI(cmp.Or(vni, "auto"))
	note("vni", vni, err)
	s.Block, err = parseBlock(cmp.Or(block, "auto"))
	note("block", block, err)
	return s, errors.Join(errs...)
}

// parseName reads the name of a cluster or of one of its hosts.
func parseName(text string) (string, error) {
	for i, c := range []byte(text) {
		plain := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !plain && (i == 0 || c != '.' && c != '-' && c != '_') {
			return "", errors.New("want letters, digits, '.', '-' and '_', of which the first is a letter or a digit")
		}
	}
	if text == "" || len(text) > 64 {
		return "", errors.New("want 1 to 64 letters and digits")
	}
	return text, nil
}

// parseHosts reads names of hosts; nil for all.
func parseHosts(text string) (hosts []string, err error) {
	if text == "all" {
		return nil, nil
	}
	for name := range strings.FieldsSeq(text) {
		if _, err := parseName(name); err != nil {
			return nil, fmt.Errorf("%.80q: %w", name, err)
		}
		if !slices.Contains(hosts, name) {
			hosts = append(hosts, name)
		}
	}
	if len(hosts) == 0 || len(hosts) > maxPeers {
		return nil, fmt.Errorf("want all, or the names of 1 to %d hosts with spaces between", maxPeers)
	}
	return hosts, nil
}

// Blocks are as large as a host can use and no larger than a subnet is cut into.
const (
	minBlock = 4
	maxBlock = 1 << 16
)

func parseBlock(text string) (int, error) {
	if text == "auto" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 17)
	if err != nil || n < minBlock || n > maxBlock || n&(n-1) != 0 {
		return 0, fmt.Errorf("want auto, or a power of two from %d to %d", minBlock, maxBlock)
	}
	return int(n), nil
}

// wantVNI says what a VNI is.
var wantVNI = fmt.Sprintf("want a number from 1 to %d, the same on all hosts", maxVNI)

func parseVNI(text string) (int, error) {
	if text == "auto" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 24)
	if err != nil || n == 0 {
		return 0, errors.New(wantVNI)
	}
	return int(n), nil
}

// served are the ports of UDP that networks serve themselves: DNS, DHCP, TFTP and DHCPv6.
var served = []uint64{53, 67, 68, 69, 546, 547}

func parsePort(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	switch {
	case err != nil || n == 0:
		return 0, errors.New("want a port of UDP from 1 to 65535")
	case slices.Contains(served, n):
		return 0, fmt.Errorf("is for DNS, DHCP or TFTP, want another, the same on all hosts, or none for %d", DefaultPort)
	}
	return uint16(n), nil
}

func parseYes(text string) (bool, error) {
	if text != "yes" && text != "no" {
		return false, errors.New("want yes or no")
	}
	return text == "yes", nil
}

func parseAddr(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return netip.Addr{}, errors.New("not an IP address, want one like 192.0.2.1 or 2001:db8::1")
	case a.Zone() != "" || a.Is4In6():
		return netip.Addr{}, errors.New("want an IP address without a zone, and not one of IPv4 in IPv6")
	}
	return a, nil
}

// Print prints s; nothing for nil.
func Print(p *xmldoc.Printer, s *Span) {
	if s == nil {
		return
	}
	port := s.Port
	if port == DefaultPort {
		port = 0
	}
	own := ""
	if s.HostAddress {
		own = "yes"
	}
	if s.Cluster != "" {
		p.Elem("vnetd:span", func() {}, xmldoc.Opt("cluster", s.Cluster), xmldoc.Opt("hosts", strings.Join(s.Hosts, " ")), xmldoc.Num("vni", s.VNI), xmldoc.Num("block", s.Block), xmldoc.Opt("host-address", own))
		return
	}
	p.Elem("vnetd:span", func() {
		for _, a := range s.Peers {
			p.Leaf("vnetd:peer", xmldoc.Always("underlay", a.String()))
		}
	}, xmldoc.Num("vni", s.VNI), xmldoc.Addr("underlay", s.Underlay), xmldoc.Num("port", port), xmldoc.Opt("host-address", own))
}

// Context is what of a network its span must go with.
type Context struct {
	Mode string
	// Owns says that the network makes a bridge that does not lead to the LAN.
	Owns bool
	// VLANs says that the bridge looks at tags.
	VLANs   bool
	Bridge  string // its name; may be empty
	Subnets []netip.Prefix
	// Gives says that there are addresses of which a host may have one.
	Gives bool
	// Isolated says that guests do not reach each other.
	Isolated bool
}

// Check finds what can't be of s, nil for none.
func Check(c Context, s *Span, add func(path, value, problem string)) {
	const path = "network/vnetd:span"
	switch {
	case s == nil:
		return
	case !c.Owns:
		add(path, "", "not allowed in mode "+c.Mode+": want nat, route, open or no <forward>, with a bridge that vnetd makes")
		return
	case c.VLANs:
		add(path, "", "not possible with VLANs: tags don't go from host to host")
	}
	if s.VNI != 0 && c.Bridge == s.Device() {
		add(path+"/@vni", strconv.Itoa(s.VNI), "the tunnel's device would have the name of the bridge, "+c.Bridge)
	}
	checkHost(c, path, s, add)
	if s.Cluster != "" {
		checkCluster(c, path, s, add)
		return
	}
	if s.Underlay.IsValid() {
		checkAddr(c, path+"/@underlay", s.Underlay, add)
	}
	checkPeers(c, path, s, add)
}

// checkHost checks whether hosts can have addresses of their own.
func checkHost(c Context, path string, s *Span, add func(path, value, problem string)) {
	const at, yes = "/@host-address", "yes"
	switch {
	case !s.HostAddress:
	case !c.Gives:
		add(path+at, yes, "needs addresses to take one from: want an <ip> of IPv4 with a <range>, or one of IPv6 with prefix 64")
	case c.Isolated:
		add(path+at, yes, "not possible with <port isolated='yes'/>: from other hosts nothing reaches an isolated port")
	case s.VNI != 0 && (c.Bridge == s.HostDevice() || c.Bridge == s.HostPort()):
		add(path+at, yes, "the host's link would have the name of the bridge, "+c.Bridge)
	}
}

// checkCluster checks what the hosts of a cluster have to say of each other.
func checkCluster(c Context, path string, s *Span, add func(path, value, problem string)) {
	if len(s.Peers) > 0 {
		add(path+"/vnetd:peer", "", "not allowed with a cluster, which knows the hosts: want hosts='all', or their names")
	}
}

// checkPeers checks who the hosts are.
func checkPeers(c Context, path string, s *Span, add func(path, value, problem string)) {
	switch least := 2; {
	case len(s.Peers) > maxPeers:
		add(path, "", fmt.Sprintf("%d peers, want at most %d", len(s.Peers), maxPeers))
		return
	case s.Underlay.IsValid() && len(s.Others(s.Underlay)) == 0:
		add(path+"/vnetd:peer", "", "missing, want the address of at least one other host")
	case !s.Underlay.IsValid() && len(s.Peers) < least:
		add(path+"/@underlay", "", "missing, want the address of this host, or all hosts with this one among <vnetd:peer>")
	}
	family := s.Underlay
	for i, a := range s.Peers {
		at := fmt.Sprintf("%s/vnetd:peer[%d]/@underlay", path, i+1)
		if !a.IsValid() {
			continue // a fault of its own
		}
		if !family.IsValid() {
			family = a
		}
		switch {
		case slices.Contains(s.Peers[:i], a):
			add(at, a.String(), "want each host once")
		case a.Is4() != family.Is4():
			add(at, a.String(), "is of another family than "+family.String()+": want all hosts by IPv4, or all by IPv6")
		}
		checkAddr(c, at, a, add)
	}
}

// thisNetwork are addresses of IPv4 by which none is reached (RFC 1122 section 3.2.1.3).
var thisNetwork = netip.PrefixFrom(netip.IPv4Unspecified(), 8)

// checkAddr finds addresses that no host has for others, and those inside of the network.
func checkAddr(c Context, path string, a netip.Addr, add func(path, value, problem string)) {
	if !a.IsGlobalUnicast() || thisNetwork.Contains(a) {
		add(path, a.String(), "want the address of a host, that others reach")
	}
	for _, p := range c.Subnets {
		if p.Masked().Contains(a) {
			add(path, a.String(), "is in the network's own subnet "+p.Masked().String()+": want an address of the hosts' own network")
		}
	}
}
