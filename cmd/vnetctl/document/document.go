// Package document writes the documents of networks for people who do not: new ones,
// copies, and changes in a few words. What comes of them is libvirt's XML, which vnetd
// checks as any other.
package document

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/netdef/span"
)

// Document is the document of a network.
type Document struct{ n *netdef.Network }

// New returns that of an isolated network without addresses.
func New(name string) *Document {
	return &Document{&netdef.Network{Name: name, Bridge: netdef.Bridge{STP: true}}}
}

// Read reads the document of a network of vnetd.
func Read(xml string) (*Document, error) {
	n, err := netdef.Parse([]byte(xml))
	if err != nil {
		return nil, fmt.Errorf("reading the network's document: %w", err)
	}
	return &Document{n}, nil
}

// XML is the document as text.
func (d *Document) XML() string { return string(d.n.XML()) }

// Subnets lists the subnets that the network has.
func (d *Document) Subnets() []string {
	var all []string
	for i := range d.n.IPs {
		all = append(all, d.n.IPs[i].Prefix().Masked().String())
	}
	return all
}

// Copy makes the document that of another network, with an identity, a bridge and
// subnets of its own, which vnetd chooses for the families that it has. It returns what
// was left out because it goes with the subnets of the other, with ports of the host
// that it has, or with its number on other hosts.
func (d *Document) Copy(name string) (left []string) {
	n := d.n
	n.Name, n.UUID, n.MAC = name, "", nil
	if !n.Mode().OwnsBridge() {
		return nil
	}
	n.Bridge.Name = ""
	left = d.bound()
	for _, family := range []netdef.Families{netdef.IPv4, netdef.IPv6} {
		if slices.ContainsFunc(n.IPs, of(family)) {
			d.choose(family, true)
		}
	}
	if n.DNS != nil {
		n.DNS.Hosts = slices.DeleteFunc(n.DNS.Hosts, func(h netdef.DNSHost) bool { return d.has(h.IP) })
	}
	_ = d.Unspan() // there may be none
	n.IPs, n.Routes, n.PortForwards = nil, nil, nil
	return left
}

// bound tells what goes with the subnets of the network.
func (d *Document) bound() []string {
	var left []string
	add := func(count int, one, more string) {
		if count > 0 {
			left = append(left, fmt.Sprintf("%d %s", count, map[bool]string{true: one, false: more}[count == 1]))
		}
	}
	reserved, boots := 0, 0
	for i := range d.n.IPs {
		r, b := kept(&d.n.IPs[i])
		reserved, boots = reserved+r, boots+b
	}
	add(reserved, "reserved address", "reserved addresses")
	add(boots, "boot server", "boot servers")
	if d.n.DNS != nil {
		add(len(slices.DeleteFunc(slices.Clone(d.n.DNS.Hosts), func(h netdef.DNSHost) bool { return !d.has(h.IP) })), "name of DNS", "names of DNS")
	}
	add(len(d.n.Routes), "route", "routes")
	add(len(d.n.PortForwards), "forward", "forwards")
	if d.n.Span != nil {
		left = append(left, fmt.Sprintf("the span to other hosts with VNI %d", d.n.Span.VNI))
	}
	return left
}

// kept counts the reserved addresses and the ways to boot that an <ip> has.
func kept(ip *netdef.IP) (reserved, boots int) {
	if ip.TFTPRoot != "" {
		boots++
	}
	if ip.DHCP == nil {
		return 0, boots
	}
	if ip.DHCP.Bootp != nil {
		boots++
	}
	return len(ip.DHCP.Hosts), boots + len(ip.DHCP.Boots)
}

// has reports whether an address is in one of the network's subnets.
func (d *Document) has(a netip.Addr) bool {
	return slices.ContainsFunc(d.n.IPs, func(ip netdef.IP) bool { return ip.Prefix().Contains(a) })
}

// of tells addresses of a family.
func of(family netdef.Families) func(netdef.IP) bool {
	return func(ip netdef.IP) bool { return ip.Address.Is4() == (family == netdef.IPv4) }
}

// choose has vnetd choose a subnet of the family, or not.
func (d *Document) choose(family netdef.Families, on bool) {
	other := map[netdef.Families]netdef.Families{netdef.IPv4: netdef.IPv6, netdef.IPv6: netdef.IPv4}[family]
	has := d.n.Chosen == other || d.n.Chosen == netdef.BothFamilies
	d.n.ChosenBits = 0
	switch {
	case on && has:
		d.n.Chosen = netdef.BothFamilies
	case on:
		d.n.Chosen = family
	case has:
		d.n.Chosen = other
	default:
		d.n.Chosen = ""
	}
}

// SetDevice has the network use a device of the host: as the only way out, or in mode
// bridge as the bridge that guests are plugged into, or as the uplink of one that the
// network makes, where the device is no bridge.
func (d *Document) SetDevice(dev string, isBridge bool) error {
	switch n := d.n; {
	case n.Mode() == netdef.ModeIsolated || n.Mode() == netdef.ModeOpen:
		return fmt.Errorf("a device is not possible in mode %s: want nat, route or bridge", word(n.Mode()))
	case n.Mode() != netdef.ModeBridge:
		n.Forward.Dev, n.Forward.Interfaces = dev, []string{dev}
	case isBridge:
		n.Bridge.Name, n.Uplink = dev, ""
	default:
		n.Uplink = dev
		n.Bridge.Name = cmp.Or(n.Bridge.Name, bridgeFor(dev))
	}
	return nil
}

// maxName is how long the name of a device may be (IFNAMSIZ).
const maxName = 15

// bridgeFor names a bridge after its uplink.
func bridgeFor(dev string) string {
	name := "br-" + dev
	return name[:min(len(name), maxName)]
}

// ErrSpans is the error of a network that spans hosts already, ErrNoSpan of one that does not.
var (
	ErrSpans  = errors.New("it spans hosts already: vnetctl edit changes how")
	ErrNoSpan = errors.New("it spans no hosts")
)

// Span has the network be one on hosts of a cluster, on all if none are named. vni and block are as in a
// document; empty: the cluster, and vnetd, choose.
func (d *Document) Span(cluster string, hosts []string, vni, block string) error {
	if d.n.Span != nil {
		return ErrSpans
	}
	s, err := span.OnCluster(cluster, strings.Join(hosts, " "), vni, block)
	if err == nil {
		d.n.Span = s
	}
	return err
}

// MTU is that of a network of which nothing is said.
const MTU = 1500

// Unspan has the network be on this host alone. Its MAC address stays, by which guests know their
// gateway. An MTU that is what a tunnel leaves of Ethernet's goes: guests may have more by now.
func (d *Document) Unspan() error {
	if d.n.Span == nil {
		return ErrNoSpan
	}
	if left := MTU - d.n.MTU; left == span.Overhead(netip.IPv4Unspecified()) || left == span.Overhead(netip.IPv6Unspecified()) {
		d.n.MTU = 0
	}
	d.n.Span = nil
	return nil
}

// word is a mode as Set takes it.
func word(mode netdef.Mode) string {
	if mode == netdef.ModeIsolated {
		return "isolated"
	}
	return string(mode)
}

// Modes lists the modes that Set takes.
func Modes() []string { return []string{"nat", "route", "isolated", "open", "bridge"} }

// oneOf is the error of a value that is none of those wanted.
func oneOf(value string, wanted ...string) error {
	return fmt.Errorf("%q is none, want one of %s", value, strings.Join(wanted, ", "))
}

// Definition is a document without what a network has while it is active: where it has no definition its
// document tells how many ports it has, and forwards of those. What is no document is as it was.
func Definition(xml string) string {
	n, err := netdef.Parse([]byte(xml))
	if err != nil {
		return xml
	}
	n.DropHeld()
	return string(n.XML())
}
