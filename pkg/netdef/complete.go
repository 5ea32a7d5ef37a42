package netdef

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/pkg/netdef/span"
	"github.com/vnetd/vnetd/pkg/netdef/subnet"
	"github.com/vnetd/vnetd/pkg/netdef/xmldoc"
)

// Completion is what Complete can't know by itself.
type Completion struct {
	// Rand is where UUIDs and MAC addresses come from; nil is crypto/rand.
	Rand io.Reader
	// BridgeTaken reports whether a device or another network has that name;
	// nil means that no name is taken.
	BridgeTaken func(name string) bool
	// SubnetTaken reports whether some of a subnet is in use; nil means that none is.
	SubnetTaken func(subnet netip.Prefix) bool
}

// maxBridge is the highest number in a bridge name made from a template, as in
// libvirt.
const maxBridge = 256

// Complete fills in what libvirt fills in when a network is defined: a random
// UUID, the forward mode, and for a mode that owns its bridge the bridge's name
// and MAC address. Beside these it fills in the subnets that n leaves to be chosen.
// What is there stays. The errors are those of c.Rand, and that no bridge name or
// subnet is free; n is then partly filled in.
func (n *Network) Complete(c Completion) error {
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if n.UUID == "" {
		u, err := ether.NewUUID(c.Rand)
		if err != nil {
			return fmt.Errorf("making a uuid for network %q: %w", n.Name, err)
		}
		n.UUID = u.String()
	}
	if n.Forward != nil {
		n.Forward.Mode = n.Mode()
	}
	if !n.Mode().OwnsBridge() {
		return nil
	}
	completeSpan(n)
	if n.MAC == nil {
		mac, err := ether.NewMAC(c.Rand)
		if err != nil {
			return fmt.Errorf("making a MAC address for network %q: %w", n.Name, err)
		}
		n.MAC = mac
	}
	if err := completeSubnets(n, c); err != nil {
		return fmt.Errorf("choosing a subnet for network %q: %w", n.Name, err)
	}
	return n.completeBridge(c.BridgeTaken)
}

// usualMTU is that of Ethernet.
const usualMTU = 1500

// completeSpan fills in what a network that spans hosts has otherwise than others: the same MAC
// address on all of them, an MTU that fits into a tunnel, and a bridge that is told where cards
// are, so that no frame of a guest makes it believe that another host's is here.
func completeSpan(n *Network) {
	s := n.Span
	if s == nil {
		return
	}
	if n.MAC == nil {
		n.MAC = s.MAC()
	}
	if n.MTU == 0 && len(s.Peers) > 0 {
		n.MTU = usualMTU - span.Overhead(s.Peers[0])
	}
	n.Bridge.MACTableManager = cmp.Or(n.Bridge.MACTableManager, "libvirt")
}

// Families are families of addresses.
type Families string

// The values of Families; "" is none.
const (
	IPv4         Families = "ipv4"
	IPv6         Families = "ipv6"
	BothFamilies Families = "both"
)

// decodeSubnet decodes <vnetd:subnet>, which is for both families unless it says one, and
// the length of the prefix, which it says for one family alone.
func decodeSubnet(e xmldoc.Element) (of Families, bits int) {
	e, ok := ours(e, "subnet")
	if !ok {
		return "", 0
	}
	auto := xmldoc.Value(e, "auto", parseTristate)
	family := xmldoc.Value(e, "family", parseWord(string(IPv4), string(IPv6)))
	bits = xmldoc.Value(e, "prefix", parseBits(family))
	if _, written := e.Attr("auto"); !written {
		e.Fault("@auto", "", "missing, want yes or no")
		return "", 0
	}
	if auto != Yes {
		return "", 0
	}
	return cmp.Or(Families(family), BothFamilies), bits
}

// What chosen subnets may be: those that a network can have to itself.
const minChosen, maxChosen4, maxChosen6 = 8, 30, 126

// parseBits returns the parser of the length of a prefix of a family.
func parseBits(family string) func(string) (int, error) {
	most := map[string]int{string(IPv4): maxChosen4, string(IPv6): maxChosen6}[family]
	return func(text string) (int, error) {
		if most == 0 {
			return 0, errors.New("only with family='ipv4' or family='ipv6'")
		}
		if n, err := strconv.Atoi(text); err == nil && n >= minChosen && n <= most {
			return n, nil
		}
		return 0, fmt.Errorf("want a number from %d to %d", minChosen, most)
	}
}

// printSubnet prints <vnetd:subnet>.
func printSubnet(p *xmldoc.Printer, n *Network) {
	switch n.Chosen {
	case "":
	case BothFamilies:
		p.Leaf("vnetd:subnet", xmldoc.Always("auto", string(Yes)))
	default:
		p.Leaf("vnetd:subnet", xmldoc.Always("auto", string(Yes)), xmldoc.Always("family", string(n.Chosen)), xmldoc.Num("prefix", n.ChosenBits))
	}
}

// checkSubnet checks <vnetd:subnet>.
func checkSubnet(c *checker) {
	if c.n.Chosen != "" && !c.mode.OwnsBridge() {
		c.Addf("network/vnetd:subnet", "", "not allowed in mode %s: the network has no addresses", c.mode)
	}
}

// lacks reports whether a subnet of that family is to be chosen for n: it has no <ip> of it.
func lacks(n *Network, family Families) bool {
	if n.Chosen != family && n.Chosen != BothFamilies {
		return false
	}
	return !slices.ContainsFunc(n.IPs, func(ip IP) bool { return ip.Address.Is4() == (family == IPv4) })
}

// InheritSubnets gives n what from has of the families for which a subnet is to be
// chosen: a document that leaves it to be chosen means the same subnet each time.
func (n *Network) InheritSubnets(from *Network) {
	four, six := lacks(n, IPv4), lacks(n, IPv6)
	for _, ip := range from.Clone().IPs {
		if is4 := ip.Address.Is4(); is4 && four || !is4 && six {
			n.IPs = append(n.IPs, ip)
		}
	}
}

// completeSubnets chooses the subnets that n leaves to be chosen.
func completeSubnets(n *Network, c Completion) error {
	taken := c.SubnetTaken
	if taken == nil {
		taken = func(netip.Prefix) bool { return false }
	}
	if lacks(n, IPv4) {
		p, err := subnet.Choose4(cmp.Or(n.ChosenBits, subnet.Bits4), taken)
		if err != nil {
			return err
		}
		n.IPs = append(n.IPs, SubnetIP(p))
	}
	if lacks(n, IPv6) {
		p, err := subnet.Choose6(c.Rand, cmp.Or(n.ChosenBits, subnet.Bits6), taken)
		if err != nil {
			return err
		}
		n.IPs = append(n.IPs, SubnetIP(p))
	}
	n.Chosen, n.ChosenBits = "", 0
	return nil
}

// What SubnetIP hands out in a subnet of IPv6, by the last two octets.
const (
	firstGuest6 = 0x100
	lastGuest6  = 0xffff
)

// SubnetIP is the <ip> of a network that has the subnet p to itself: the first address
// is the host's, guests are given the rest by DHCP, or 65280 of them in IPv6. A subnet
// without room for a guest has no DHCP.
func SubnetIP(p netip.Prefix) IP {
	p = p.Masked()
	host := p.Addr().Next()
	if p.Addr().Is6() {
		ip := IP{Family: string(IPv6), Address: host, PrefixLength: p.Bits()}
		if p.Bits() <= 112 {
			first, last := p.Addr().As16(), p.Addr().As16()
			binary.BigEndian.PutUint16(first[14:], firstGuest6)
			binary.BigEndian.PutUint16(last[14:], lastGuest6)
			ip.DHCP = &DHCP{Ranges: []DHCPRange{{Start: netip.AddrFrom16(first), End: netip.AddrFrom16(last)}}}
		}
		return ip
	}
	mask := net.CIDRMask(p.Bits(), 32)
	ip := IP{Address: host, Netmask: netip.AddrFrom4([4]byte(mask))}
	last := binary.BigEndian.Uint32(p.Addr().AsSlice()) | ^binary.BigEndian.Uint32(mask)
	var end [4]byte
	binary.BigEndian.PutUint32(end[:], last-1) // the last one is for broadcasts
	if first, end := host.Next(), netip.AddrFrom4(end); first.Compare(end) <= 0 {
		ip.DHCP = &DHCP{Ranges: []DHCPRange{{Start: first, End: end}}}
	}
	return ip
}

// completeBridge names the bridge if it has no name yet.
func (n *Network) completeBridge(taken func(string) bool) error {
	template := n.Bridge.Name
	if template == "" {
		template = "virbr%d"
	}
	if !strings.Contains(template, "%d") {
		return nil
	}
	for i := range maxBridge + 1 {
		name := strings.Replace(template, "%d", strconv.Itoa(i), 1)
		if deviceName(name) != "" {
			break
		}
		if taken == nil || !taken(name) {
			n.Bridge.Name = name
			return nil
		}
	}
	return fmt.Errorf("naming the bridge of network %q: no name like %q is free", n.Name, template)
}
