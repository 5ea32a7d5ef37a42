// Package translate turns the document of a network into what each leaf is asked
// for, and into the plan of all that. It is pure: it reads documents and touches
// nothing. The documents are valid and complete unless a function says otherwise.
package translate

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// Unsupported lists what n asks for that can't be given yet. It is parsed, kept
// and printed, and keeps the network from starting: a network that silently
// lacks what its document says would be worse than none.
func Unsupported(n *netdef.Network) error {
	var missing []error
	for _, feature := range []struct {
		asked bool
		path  string
	}{
		{n.VLAN != nil && !hasVLANs(n, n.VirtualPort) && !hasBridge(n), "network/vlan"},
		{checkVirtualPort(n, &netdef.Port{VirtualPort: n.VirtualPort}) != nil, "network/virtualport of type " + virtualPortType(n)},
	} {
		if feature.asked {
			missing = append(missing, api.Errorf(api.Unsupported, "%s is not available in this version of vnetd", feature.path))
		}
	}
	return errors.Join(missing...)
}

// maxLearned is how many addresses a bridge learns at most: a thousand ports with as many
// each as a guard lets through at once. It bounds what guests without a guard cost.
const maxLearned = 1 << 16

// Bridge is what n asks of pkg/bridge; the caller adds the alias.
func Bridge(n *netdef.Network) bridge.Config {
	c := bridge.Config{
		Name:         n.Bridge.Name,
		MAC:          n.MAC,
		STP:          n.Bridge.STP,
		ForwardDelay: time.Duration(n.Bridge.Delay) * time.Second,
		MTU:          DeviceMTU(n),
		MACTable:     ManagesMACs(n),
		MaxLearned:   maxLearned,
		FilterVLANs:  FiltersVLANs(n),
		Snooping:     snooping(n),
		Querier:      switchOf(n.BridgePolicy.Querier),
	}
	c.Forward4, c.Forward6 = Forwards(n)
	for i := range n.PortForwards {
		f := &n.PortForwards[i]
		if f.AnyAddress() || f.Address.IsLoopback() {
			c.Loopback4, c.Loopback6 = c.Loopback4 || f.Covers(true), c.Loopback6 || f.Covers(false)
		}
	}
	for i := range n.IPs {
		c.Addrs = append(c.Addrs, n.IPs[i].Prefix())
	}
	for i := range n.Routes {
		r := &n.Routes[i]
		c.Routes = append(c.Routes, bridge.Route{Prefix: r.Prefix(), Gateway: r.Gateway, Metric: uint32(r.Metric)})
	}
	return c
}

// ManagesMACs reports whether vnetd, not the kernel, keeps the bridge's table of
// guests' MAC addresses.
func ManagesMACs(n *netdef.Network) bool { return n.Bridge.MACTableManager == "libvirt" }

// Forwards tells which families the host must forward for n: those it has
// addresses of, unless it is isolated and nothing says that its guests reach others.
func Forwards(n *netdef.Network) (v4, v6 bool) {
	if !Reaches(n) {
		return false, false
	}
	for i := range n.IPs {
		if n.IPs[i].Address.Is4() {
			v4 = true
		} else {
			v6 = true
		}
	}
	return v4, v6
}

// Firewall is what n asks of pkg/firewall.
func Firewall(n *netdef.Network) firewall.Network {
	f := firewall.Network{Name: n.Name, Bridge: n.Bridge.Name, Mode: firewall.Mode(n.Mode()), IPv6: n.IPv6, Isolated: n.Isolated == netdef.Yes, Zone: n.Bridge.Zone}
	if n.Forward != nil {
		f.Dev = n.Forward.Dev
		if nat := n.Forward.NAT; nat != nil {
			f.NATIPv6 = nat.IPv6 == netdef.Yes
			if nat.Port != nil {
				f.NATPorts = firewall.PortRange{Start: nat.Port.Start, End: nat.Port.End}
			}
			if nat.Address != nil {
				f.NATAddrs = firewall.AddrRange{Start: nat.Address.Start, End: nat.Address.End}
			}
		}
	}
	f.NoInboundIPv6 = n.Inbound6 == netdef.No
	switch n.Offload {
	case netdef.Yes:
		f.Offload = firewall.OffloadOn
	case netdef.No:
		f.Offload = firewall.OffloadOff
	}
	f.Span = firewallSpan(n, Gateways(n))
	f.NoDNS = n.DNS != nil && n.DNS.Enable == netdef.No
	for i := range n.IPs {
		ip := &n.IPs[i]
		f.Subnets = append(f.Subnets, ip.Prefix())
		if ip.Address.Is4() {
			f.DHCP = f.DHCP || ServesDHCP(ip)
			f.TFTP = f.TFTP || ip.TFTPRoot != ""
		} else {
			f.DHCPv6 = f.DHCPv6 || ServesDHCP(ip)
		}
	}
	return f
}

// Reachable are the subnets of IPv6 of n, of mode nat, whose guests may be connected to
// from outside, unless the document says so, or what becomes of what is opened to guests.
func Reachable(n *netdef.Network) (all []netip.Prefix) {
	f := Firewall(n)
	if f.Mode != firewall.ModeNAT || f.Closed(firewall.IPv6) || n.Inbound6 != netdef.Unset || n.Rules.Ingress != "" {
		return nil
	}
	return slices.DeleteFunc(f.SubnetsOf(firewall.IPv6), func(p netip.Prefix) bool { return p.Addr().IsLinkLocalUnicast() })
}

// Gateways are the addresses of n's <ip> elements.
func Gateways(n *netdef.Network) []netip.Addr {
	var all []netip.Addr
	for i := range n.IPs {
		all = append(all, n.IPs[i].Address)
	}
	return all
}

// HasIPv6 reports whether n has an IPv6 address, and so advertises itself.
func HasIPv6(n *netdef.Network) bool {
	return slices.ContainsFunc(n.IPs, func(ip netdef.IP) bool { return ip.Address.Is6() })
}
