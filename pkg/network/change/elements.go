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
		{"vlan", func(d, f *netdef.Network) { d.VLAN = f.VLAN }, vlanHarms},
		{"bandwidth", func(d, f *netdef.Network) { d.Bandwidth = f.Bandwidth }, never},
		{"port/@isolated", func(d, f *netdef.Network) { d.Isolated = f.Isolated }, func(l, n *netdef.Network) bool { return l.Isolated != netdef.Yes && n.Isolated == netdef.Yes }},
		{"ip of IPv4", func(d, f *netdef.Network) { setIPs(d, f, netip.Addr.Is4) }, func(l, n *netdef.Network) bool { return ipsHarm(l, n, netip.Addr.Is4) }},
		{"ip of IPv6", func(d, f *netdef.Network) { setIPs(d, f, netip.Addr.Is6) }, func(l, n *netdef.Network) bool { return ipsHarm(l, n, netip.Addr.Is6) }},
		{"route", func(d, f *netdef.Network) { d.Routes = f.Routes }, routesHarm},
		{"virtualport", func(d, f *netdef.Network) { d.VirtualPort = f.VirtualPort }, never},
		{"portgroup", func(d, f *netdef.Network) { d.PortGroups = f.PortGroups }, groupsHarm},
		{"dnsmasq:options", func(d, f *netdef.Network) { d.Dnsmasq = f.Dnsmasq }, never},
		{"vnetd:uplink", func(d, f *netdef.Network) { d.Uplink, d.UplinkVLAN = f.Uplink, f.UplinkVLAN }, func(l, n *netdef.Network) bool { return l.Uplink != n.Uplink || l.UplinkVLAN != n.UplinkVLAN }},
		{"vnetd:bridge", func(d, f *netdef.Network) { d.BridgePolicy = f.BridgePolicy }, filterHarms},
		{"vnetd:host-access", func(d, f *netdef.Network) { d.HostAccess = f.HostAccess }, hostAccessHarms},
		{"vnetd:access", func(d, f *netdef.Network) { d.Access = f.Access }, never}, // of ports to come
		{"vnetd:record", func(d, f *netdef.Network) { d.Records = f.Records }, never},
		// Who is led by one that goes is meant to be.
		{"vnetd:forward", setForwards, never},
		// Who loses something by peerings and rules is meant to.
		{"vnetd:peer", func(d, f *netdef.Network) { d.Peers = f.Peers }, never},
		{"vnetd:rules", func(d, f *netdef.Network) { d.Rules = f.Rules }, never},
		{"vnetd:guard", func(d, f *netdef.Network) { d.Guard = f.Guard }, never},
		{"vnetd:ipv6", func(d, f *netdef.Network) { d.Inbound6 = f.Inbound6 }, inbound6Harms},
		{"vnetd:offload", func(d, f *netdef.Network) { d.Offload = f.Offload }, never},
		{PathSpan, func(d, f *netdef.Network) { d.Span = f.Span }, spanHarms},
		// Who is reached no more by one that goes is meant to be.
		{"vnetd:announce", func(d, f *netdef.Network) { d.Announce = f.Announce }, never},
		{"vnetd:dhcp", func(d, f *netdef.Network) { d.DHCPPolicy = f.DHCPPolicy }, never},
	}
}

// vlanHarms reports whether ports are in other VLANs by the network's own.
func vlanHarms(live, next *netdef.Network) bool {
	return live.VLAN.String() != next.VLAN.String() || filterHarms(live, next)
}

// groupsHarm reports whether ports that are there are in other VLANs by their groups: they
// leave those among whom they are, which an admin who says so with --now, or by an update,
// may want.
func groupsHarm(live, next *netdef.Network) bool {
	same := *next
	same.VLAN = live.VLAN // another element
	return filterHarms(live, next) || slices.ContainsFunc(append([]netdef.PortGroup{{}}, live.PortGroups...), func(was netdef.PortGroup) bool {
		return translate.PortVLAN(live, was.Name, nil).String() != translate.PortVLAN(&same, was.Name, nil).String()
	})
}

// filterHarms reports whether the bridge looks at tags from now on, which drops what guests
// send with a tag of their own.
func filterHarms(live, next *netdef.Network) bool {
	return translate.FiltersVLANs(live) != translate.FiltersVLANs(next)
}

// PathSpan is the path of what says whether a network spans hosts.
const PathSpan = "vnetd:span"

// spanHarms reports whether guests lose those on other hosts, or the network would be one with
// others that have their gateway at another card.
func spanHarms(live, next *netdef.Network) bool {
	if live.Span == nil {
		return next.Span != nil && live.MAC.String() != next.MAC.String()
	}
	return !live.Span.Same(next.Span)
}

// never is of what harms nobody.
func never(_, _ *netdef.Network) bool { return false }

// setDescription sets what is there for people and other programs.
func setDescription(doc, from *netdef.Network) {
	doc.Title, doc.Description, doc.Metadata = from.Title, from.Description, from.Metadata
	doc.Ignored = from.Ignored
}

// setForwards sets the forwards, but for those that somebody holds.
func setForwards(doc, from *netdef.Network) {
	held := func(f netdef.PortForward) bool { return f.Holder != "" }
	theirs := slices.DeleteFunc(slices.Clone(doc.PortForwards), func(f netdef.PortForward) bool { return !held(f) })
	doc.PortForwards = append(slices.DeleteFunc(slices.Clone(from.PortForwards), held), theirs...)
}

// WithHeld is next, which an active network shall become, with the forwards of it that
// somebody holds; those that clash with what next has end.
func WithHeld(next, live *netdef.Network) *netdef.Network {
	next = next.Clone()
	for _, f := range live.PortForwards {
		clashes := func(o netdef.PortForward) bool { return f.Clashes(&o) }
		if f.Holder != "" && !slices.ContainsFunc(next.PortForwards, clashes) {
			next.PortForwards = append(next.PortForwards, f)
		}
	}
	return next
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
	if !live.Mode().OwnsBridge() {
		return was.PF != is.PF || !hasAll(is.Interfaces, was.Interfaces) || !hasAll(is.Addresses, was.Addresses)
	}
	return is.Dev != "" && is.Dev != was.Dev || natIPv6(was) != natIPv6(is)
}

// inbound6Harms reports whether connections that are under way may end because nobody
// outside may begin one any more. Those of a network of mode nat are known to the kernel.
func inbound6Harms(live, next *netdef.Network) bool {
	return live.Inbound6 != netdef.No && next.Inbound6 == netdef.No && live.Mode() == netdef.ModeRoute && translate.HasIPv6(live)
}

// hasAll reports whether a list has all of another: of a pool nothing goes.
func hasAll[T comparable](list, all []T) bool {
	return !slices.ContainsFunc(all, func(v T) bool { return !slices.Contains(list, v) })
}

// hostAccessHarms reports whether the host loses its interface beside guests.
func hostAccessHarms(live, next *netdef.Network) bool {
	return live.HostAccess != nil && live.HostAccess.String() != next.HostAccess.String()
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
