package translate

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/bridge/hostlink"
	"github.com/vnetd/vnetd/pkg/bridge/vxlan"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/netdef/span"
)

// Underlays are the addresses of which this host has the one by which the other hosts of n, which
// spans hosts, reach it.
func Underlays(n *netdef.Network) []netip.Addr {
	if n.Span.Underlay.IsValid() {
		return []netip.Addr{n.Span.Underlay}
	}
	return n.Span.Peers
}

// ethernetMTU is what guests send at most that listen to nobody.
const ethernetMTU = 1500

// DeviceMTU is that of the bridge of n and of its ports, 0 for the kernel's. Where n spans hosts, guests
// are told of less than what a tunnel takes on the way; those that do not listen, or had more before
// the network spanned hosts, go on with each other and with the outside, as a bridge drops without
// a word what is too large for a port.
func DeviceMTU(n *netdef.Network) int {
	if n.Span == nil || n.MTU == 0 {
		return n.MTU
	}
	return max(ethernetMTU, n.MTU)
}

// GuestMTU is what a guest of n is to send at most by a device with that MTU.
func GuestMTU(n *netdef.Network, device int) int {
	if n.Span == nil || n.MTU == 0 {
		return device
	}
	return min(n.MTU, device)
}

// TunnelMTU is what the MTU of the tunnel's end must be at least for n, which spans hosts: that
// of what it goes by. The tunnel itself then tells guests whose packets are larger than the
// network's MTU, which a bridge would drop without a word.
func TunnelMTU(n *netdef.Network) int {
	return max(ethernetMTU, n.MTU+overhead(n))
}

// overhead is what the tunnel of n takes; where it is not known by which family it goes, the more.
func overhead(n *netdef.Network) int {
	if all := Underlays(n); len(all) > 0 {
		return span.Overhead(all[0])
	}
	return span.Overhead(netip.IPv6Unspecified())
}

// UnderlayMTU is what the MTU of the link must be by which the tunnel of n goes.
func UnderlayMTU(n *netdef.Network) int { return n.MTU + overhead(n) }

// FittingMTU is the MTU of n, which spans hosts, where that of what the tunnel goes by is
// known.
func FittingMTU(n *netdef.Network, underlay int) int {
	return underlay - overhead(n)
}

// Tunnel is what n, which spans hosts, asks of pkg/bridge/vxlan on a host that the others reach
// at at.Addr; the caller adds the alias, and the cards of a cluster's guests. Hosts that know no more
// of each other than their addresses learn from frames who is behind which.
func Tunnel(n *netdef.Network, at vxlan.Underlay) vxlan.Config {
	return vxlan.Config{
		Name: n.Span.Device(), VNI: n.Span.VNI, Local: at.Addr, Port: n.Span.Port, Peers: n.Span.Others(append(at.Own, at.Addr)...), Learning: n.Span.Cluster == "",
	}
}

// TunnelPort is how the tunnel's end is plugged into the bridge of n. What the bridge has heard
// by the tunnel it sends there, and floods there what it knows nothing of. Where it hears nothing by
// ports, and the cluster tells where guests are, it hears nothing by the tunnel.
func TunnelPort(n *netdef.Network) bridge.PortConfig {
	return bridge.PortConfig{MTU: TunnelMTU(n), Isolated: n.Isolated == netdef.Yes, NoLearning: n.Span.Cluster != "" && ManagesMACs(n)}
}

// hostTables is what the number of a network is added to for that of the table of routes by which this host reaches it.
const hostTables = 1_000_000_000

// HasHostLink reports whether this host is in n by a link of its own.
func HasHostLink(n *netdef.Network) bool { return n.Span != nil && n.Span.HostAddress }

// HostRange is the subnet of n of which DHCP gives this host's address of IPv4; ok is false where there is none.
func HostRange(n *netdef.Network) (p netip.Prefix, ok bool) {
	for _, p := range netdef.HostSubnets(n) {
		if p.Addr().Is4() {
			return p, true
		}
	}
	return p, false
}

// HostLink is what n, which has this host in it by a link of its own, asks of pkg/bridge/hostlink; the caller
// adds the alias. mac is that of this host's card, and given its address of IPv4, invalid while it is not known.
func HostLink(n *netdef.Network, mac net.HardwareAddr, given netip.Addr) hostlink.Config {
	c := hostlink.Config{
		Name: n.Span.HostDevice(), Port: n.Span.HostPort(), MAC: mac, PortMAC: slices.Concat([]byte{0xfe}, mac[1:]), MTU: DeviceMTU(n),
		Bridge: n.Bridge.Name, Table: hostTables + uint32(n.Span.VNI),
	}
	for _, p := range netdef.HostSubnets(n) {
		a := given
		if p.Addr().Is6() {
			a = ether.AutoAddr(mac, p)
		} else if c.Unsettled4 = !p.Contains(given); c.Unsettled4 {
			continue
		}
		c.Ways = append(c.Ways, hostlink.Way{Subnet: p, Addr: a, MTU: n.MTU})
	}
	return c
}

// HostRules are what the rules of a network are to know of this host's link.
func HostRules(c *hostlink.Config) firewall.SpanHost {
	h := firewall.SpanHost{Link: c.Name}
	for _, w := range c.Ways {
		h.Addrs = append(h.Addrs, w.Addr)
		if own := ether.LinkLocal(c.MAC); w.Addr.Is6() && !slices.Contains(h.Addrs, own) {
			h.Addrs = append(h.Addrs, own)
		}
	}
	return h
}

// firewallSpan is what the span of n, which has those addresses, asks of pkg/firewall; nil where
// it has none.
func firewallSpan(n *netdef.Network, gateways []netip.Addr) *firewall.Span {
	if n.Span == nil {
		return nil
	}
	s := &firewall.Span{Device: n.Span.Device(), MAC: n.MAC, Gateways: gateways, Peers: n.Span.Peers, Port: n.Span.Port}
	if len(n.MAC) == 6 && slices.ContainsFunc(gateways, netip.Addr.Is6) {
		s.Gateways = append(s.Gateways, ether.LinkLocal(n.MAC))
	}
	return s
}

// SpanRules are the rules of n, which may span hosts, in words, a line each.
func SpanRules(n *netdef.Network) []string {
	if n.Span == nil {
		return nil
	}
	lines := []string{
		fmt.Sprintf("between hosts, by %s: no ARP and no neighbour discovery of the gateway, no DHCP, no router advertisements, nothing that bridges tell each other", n.Span.Device()),
		fmt.Sprintf("to port %d of UDP of this host: from its peers alone; to that of its peers: nothing of guests", n.Span.Port),
	}
	if HasHostLink(n) {
		lines = append(lines, fmt.Sprintf("by %s, this host's own link: nothing is forwarded, and nothing reaches but its address there", n.Span.HostDevice()))
	}
	return lines
}

// Span is what of n, which spans hosts, people are told beside where the tunnel goes.
func Span(n *netdef.Network) *api.Span {
	if n.Span == nil {
		return nil
	}
	return &api.Span{VNI: n.Span.VNI, Device: n.Span.Device(), Port: n.Span.Port, Underlay: n.Span.Underlay, Peers: n.Span.Others(n.Span.Underlay)}
}
