package change

import (
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// element is a part of a network's document that an active network can become
// without the others.
type element struct {
	path string
	// set makes it in one document what it is in another, which may share it then.
	set func(doc, from *netdef.Network)
	// harms reports whether the change cuts off a guest that is at work, or can't be
	// made without a restart.
	harms func(live, next *netdef.Network) bool
}

// elements lists the whole document but for the name and the UUID, which are the
// network's for good. What a network can't have yet (see translate.Unsupported) is as much a
// part as the rest.
func elements() []element {
	return []element{
		{"title, description, metadata", setDescription, never},
		{"@ipv6", func(d, f *netdef.Network) { d.IPv6 = f.IPv6 }, func(l, n *netdef.Network) bool { return l.IPv6 && !n.IPv6 }},
		{"@trustGuestRxFilters", func(d, f *netdef.Network) { d.TrustGuestRxFilters = f.TrustGuestRxFilters }, never},
		{"forward", func(d, f *netdef.Network) { d.Forward = f.Forward }, forwardHarms},
		{"bridge/@name", func(d, f *netdef.Network) { d.Bridge.Name = f.Bridge.Name }, func(l, n *netdef.Network) bool { return l.Bridge.Name != n.Bridge.Name }},
		{"bridge/@zone", func(d, f *netdef.Network) { d.Bridge.Zone = f.Bridge.Zone }, func(l, n *netdef.Network) bool { return l.Bridge.Zone != n.Bridge.Zone }},
		{"bridge/@stp, @delay", func(d, f *netdef.Network) { d.Bridge.STP, d.Bridge.Delay = f.Bridge.STP, f.Bridge.Delay }, never},
		{"bridge/@macTableManager", func(d, f *netdef.Network) { d.Bridge.MACTableManager = f.Bridge.MACTableManager }, never},
		{"mtu", func(d, f *netdef.Network) { d.MTU = f.MTU }, never},
		// The guests know their gateway by it.
		{"mac", func(d, f *netdef.Network) { d.MAC = f.MAC }, func(l, n *netdef.Network) bool { return l.MAC.String() != n.MAC.String() }},
		{"domain", func(d, f *netdef.Network) { d.Domain = f.Domain }, never},
		{"dns", func(d, f *netdef.Network) { d.DNS = f.DNS }, func(l, n *netdef.Network) bool { return dnsEnabled(l) && !dnsEnabled(n) }},
		{"vlan", func(d, f *netdef.Network) { d.VLAN = f.VLAN }, never},
		{"bandwidth", func(d, f *netdef.Network) { d.Bandwidth = f.Bandwidth }, never},
		{"port/@isolated", func(d, f *netdef.Network) { d.Isolated = f.Isolated }, func(l, n *netdef.Network) bool { return l.Isolated != netdef.Yes && n.Isolated == netdef.Yes }},
		{"ip of IPv4", func(d, f *netdef.Network) { setIPs(d, f, netip.Addr.Is4) }, func(l, n *netdef.Network) bool { return ipsHarm(l, n, netip.Addr.Is4) }},
		{"ip of IPv6", func(d, f *netdef.Network) { setIPs(d, f, netip.Addr.Is6) }, func(l, n *netdef.Network) bool { return ipsHarm(l, n, netip.Addr.Is6) }},
		{"route", func(d, f *netdef.Network) { d.Routes = f.Routes }, routesHarm},
		{"virtualport", func(d, f *netdef.Network) { d.VirtualPort = f.VirtualPort }, never},
		{"portgroup", func(d, f *netdef.Network) { d.PortGroups = f.PortGroups }, never}, // for ports to come
		{"dnsmasq:options", func(d, f *netdef.Network) { d.Dnsmasq = f.Dnsmasq }, never},
		{"vnetd:uplink", func(d, f *netdef.Network) { d.Uplink = f.Uplink }, func(l, n *netdef.Network) bool { return l.Uplink != n.Uplink }},
		{"vnetd:access", func(d, f *netdef.Network) { d.Access = f.Access }, never}, // of ports to come
		{"vnetd:record", func(d, f *netdef.Network) { d.Records = f.Records }, never},
		{"vnetd:guard", func(d, f *netdef.Network) { d.Guard = f.Guard }, never},
		{"vnetd:ipv6", func(d, f *netdef.Network) { d.Inbound6 = f.Inbound6 }, inbound6Harms},
		{"vnetd:dhcp", func(d, f *netdef.Network) { d.DHCPPolicy = f.DHCPPolicy }, never},
	}
}

// never is of what harms nobody.
func never(_, _ *netdef.Network) bool { return false }

// setDescription sets what is there for people and other programs.
func setDescription(doc, from *netdef.Network) {
	doc.Title, doc.Description, doc.Metadata = from.Title, from.Description, from.Metadata
	doc.Ignored = from.Ignored
}

// forwardHarms reports whether connections that <forward> of live lets through may
// end with that of next. An isolated network has none. NAT is chosen by a
// connection's first packet, so its addresses and ports are for those to come.
func forwardHarms(live, next *netdef.Network) bool {
	if is, was := next.Mode(), live.Mode(); is != was {
		return was != netdef.ModeIsolated || !is.OwnsBridge()
	}
	if live.Forward == nil {
		return false
	}
	was, is := live.Forward, next.Forward
	return is.Dev != "" && is.Dev != was.Dev || natIPv6(was) != natIPv6(is)
}

// inbound6Harms reports whether connections that are under way may end because nobody
// outside may begin one any more. Those of a network of mode nat are known to the kernel.
func inbound6Harms(live, next *netdef.Network) bool {
	return live.Inbound6 != netdef.No && next.Inbound6 == netdef.No && live.Mode() == netdef.ModeRoute && translate.HasIPv6(live)
}

func natIPv6(f *netdef.Forward) bool { return f.NAT != nil && f.NAT.IPv6 == netdef.Yes }

// dnsEnabled reports whether n wants names to be served.
func dnsEnabled(n *netdef.Network) bool { return n.DNS == nil || n.DNS.Enable != netdef.No }

// ipsHarm reports whether the <ip> elements of a family take something from guests:
// their gateway's address, their subnet, or the DHCP that renews their addresses.
func ipsHarm(live, next *netdef.Network, family func(netip.Addr) bool) bool {
	return slices.ContainsFunc(live.IPs, func(was netdef.IP) bool {
		if !family(was.Address) {
			return false
		}
		i := slices.IndexFunc(next.IPs, func(is netdef.IP) bool { return is.Prefix() == was.Prefix() })
		return i < 0 || translate.ServesDHCP(&was) && !translate.ServesDHCP(&next.IPs[i])
	})
}

// setIPs replaces the <ip> elements of a family. They stand in the order of from,
// or, where from has not all that are kept, in the place of those replaced.
func setIPs(doc, from *netdef.Network, family func(netip.Addr) bool) {
	of := func(ip netdef.IP) bool { return family(ip.Address) }
	place := func(ip netdef.IP) int {
		return slices.IndexFunc(from.IPs, func(o netdef.IP) bool { return o.Prefix() == ip.Prefix() })
	}
	at := slices.IndexFunc(doc.IPs, of)
	kept := slices.DeleteFunc(doc.IPs, of)
	if at < 0 {
		at = len(kept)
	}
	inFrom := !slices.ContainsFunc(kept, func(ip netdef.IP) bool { return place(ip) < 0 })
	doc.IPs = slices.Insert(kept, at, slices.DeleteFunc(slices.Clone(from.IPs), func(ip netdef.IP) bool { return !of(ip) })...)
	if inFrom {
		slices.SortStableFunc(doc.IPs, func(a, b netdef.IP) int { return place(a) - place(b) })
	}
}

// routesHarm reports whether a destination is reached otherwise, or not any more.
func routesHarm(live, next *netdef.Network) bool {
	return slices.ContainsFunc(live.Routes, func(was netdef.Route) bool {
		return !slices.ContainsFunc(next.Routes, func(is netdef.Route) bool {
			return is.Prefix() == was.Prefix() && is.Gateway == was.Gateway
		})
	})
}
