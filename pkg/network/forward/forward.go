// Package forward knows to which addresses the forwards of a network lead. A forward
// names its guest; which address that has, its ports, leases and reservations tell. It
// is pure, but for Clash, which looks for programs that have the ports.
package forward

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// Guest is what is known of one guest of a network.
type Guest struct {
	Name string   // may be empty
	MACs []string // of its cards, in canonical form
	// Leased are the addresses that it has by a lease, Reserved those set aside for it: it
	// has them as soon as it asks, or without asking.
	Leased, Reserved []netip.Addr
}

// Guests are those of a network, as different witnesses know them.
type Guests struct {
	// Ports are guests by the ports that vnetd made for them, Leases by what they leased
	// themselves: whose name a guest chose.
	Ports, Leases []Guest
	// Learned are addresses of IPv6 that guests have made for themselves, as far as this
	// host has heard of them from their cards.
	Learned []Guest
	// Deaf says that Learned can't be told yet.
	Deaf bool
	// Made reports whether guests may have made an address for themselves; nil: none have.
	Made func(netip.Addr) bool
	// Unknown says that leases can't be told now: forwards lead where they did.
	Unknown bool
}

// Resolve are the forwards of doc that lead somewhere, those that did not before ahead of
// the others. former are those before: of guests of which nothing tells them apart, the one
// that was stays.
func Resolve(doc *netdef.Network, guests Guests, former []firewall.Forward) []firewall.Forward {
	was := make(map[way]int, len(former))
	for i := range former {
		was[wayOf(&former[i])] = i
	}
	known := append(slices.Clone(guests.Ports), Reserved(doc)...)
	var added []firewall.Forward
	kept := make([]*firewall.Forward, len(former))
	for i := range doc.PortForwards {
		for _, f := range to(doc, &doc.PortForwards[i], witnesses{guests, known}, former, was) {
			if at, is := was[wayOf(&f)]; is && former[at].Equal(&f) {
				kept[at] = &f
			} else {
				added = append(added, f)
			}
		}
	}
	for _, f := range kept {
		if f != nil {
			added = append(added, *f)
		}
	}
	return added
}

// way is what tells a forward of a network from the others, of one family.
type way struct {
	protocol string
	address  netip.Addr
	ports    firewall.PortRange
	is4      bool
}

func wayOf(f *firewall.Forward) way { return way{f.Protocol, f.Address, f.Ports, f.To.Is4()} }

// witnesses are guests, and of them those whose names and addresses are known for certain.
type witnesses struct {
	Guests
	known []Guest
}

// to is where one forward of doc leads, at most one address of each family; none while
// its guest has none.
func to(doc *netdef.Network, f *netdef.PortForward, w witnesses, former []firewall.Forward, was map[way]int) (all []firewall.Forward) {
	for _, is4 := range []bool{true, false} {
		if !f.Covers(is4) {
			continue
		}
		lead := firewall.Forward{
			Protocol: f.Protocol, Ports: firewall.PortRange{Start: f.Ports.Start, End: f.Ports.End}, From: f.From, ToPort: f.ToPort,
		}
		if lead.ToPort == 0 {
			lead.ToPort = f.Ports.Start
		}
		if !f.AnyAddress() {
			lead.Address = f.Address
		}
		var before netip.Addr
		if at, is := was[way{lead.Protocol, lead.Address, lead.Ports, is4}]; is {
			before = former[at].To
		}
		if lead.To = w.target(doc, f, before, is4); lead.To.IsValid() {
			all = append(all, lead)
		}
	}
	return all
}

// target is the address of a family of the guest that f is for, zero for none. It is in
// a subnet of doc.
func (w witnesses) target(doc *netdef.Network, f *netdef.PortForward, was netip.Addr, is4 bool) netip.Addr {
	addr, mac, name := f.Target()
	usable := func(a netip.Addr) bool {
		return a.Is4() == is4 && slices.ContainsFunc(doc.IPs, func(ip netdef.IP) bool { return ip.Address != a && ip.Prefix().Masked().Contains(a) })
	}
	if addr.IsValid() {
		if usable(addr) {
			return addr
		}
		return netip.Addr{}
	}
	if w.Unknown && was.IsValid() && usable(was) {
		return was
	}
	for _, candidates := range w.addresses(doc, mac, name, was) {
		candidates = slices.DeleteFunc(candidates, func(a netip.Addr) bool { return !usable(a) })
		switch {
		case slices.Contains(candidates, was):
			return was
		case len(candidates) > 0:
			return candidates[0]
		}
	}
	return netip.Addr{}
}

// addresses are those of the guest with a MAC address or a name, by who knows
// them, the most trustworthy first: a guest that only says that its name is that of
// another comes after those that are known, and what it made for itself after what it was
// given. was is where a forward to it led.
func (w witnesses) addresses(doc *netdef.Network, mac, name string, was netip.Addr) (all [][]netip.Addr) {
	var made [][]netip.Addr
	for _, list := range [][]Guest{w.known, w.Leases} {
		list = slices.DeleteFunc(slices.Clone(list), func(guest Guest) bool { return !guest.is(doc, mac, name) })
		var leased, reserved []netip.Addr
		var cards []string
		for _, guest := range list {
			cards = append(cards, guest.MACs...)
			leased = append(leased, guest.Leased...)
			for _, other := range w.Leases {
				if slices.ContainsFunc(other.MACs, func(m string) bool { return slices.Contains(guest.MACs, m) }) {
					leased = append(leased, other.Leased...)
				}
			}
			reserved = append(reserved, guest.Reserved...)
		}
		all = append(all, leased, reserved)
		made = append(made, w.made(cards, was))
	}
	if mac != "" {
		if w.Deaf {
			made = append(made, w.made([]string{mac}, was))
		} else {
			made = append(made, w.made([]string{mac}, netip.Addr{}))
		}
	}
	return append(all, made...)
}

// made are the addresses that the guest with those cards has made for itself. The kernel
// forgets those that it has not heard of for long: where it knows none, the guest has the one
// that it had, unless somebody else has that now or it was given to the guest.
func (w witnesses) made(cards []string, was netip.Addr) (all []netip.Addr) {
	elsewhere := false
	for _, l := range w.Learned {
		if slices.ContainsFunc(l.MACs, func(m string) bool { return slices.Contains(cards, m) }) {
			all = append(all, l.Leased...)
		} else {
			elsewhere = elsewhere || slices.Contains(l.Leased, was)
		}
	}
	if len(all) == 0 && len(cards) > 0 && was.Is6() && !elsewhere && w.wasMade(was) {
		all = append(all, was)
	}
	return all
}

// wasMade reports whether a guest made an address for itself, which nobody was given since.
func (w witnesses) wasMade(a netip.Addr) bool {
	given := func(g Guest) bool { return slices.Contains(g.Leased, a) || slices.Contains(g.Reserved, a) }
	return w.Made != nil && w.Made(a) && !slices.ContainsFunc(w.known, given) && !slices.ContainsFunc(w.Leases, given)
}

// is reports whether the guest is the one with that MAC address or that name, in the
// domain of doc or without.
func (g *Guest) is(doc *netdef.Network, mac, name string) bool {
	if mac != "" {
		return slices.Contains(g.MACs, mac)
	}
	return g.Name != "" && strings.EqualFold(plain(doc, g.Name), plain(doc, name))
}

// plain is a name without the domain of doc.
func plain(doc *netdef.Network, name string) string {
	name = strings.TrimSuffix(name, ".")
	if doc.Domain == nil || doc.Domain.Name == "" {
		return name
	}
	domain := "." + strings.TrimSuffix(doc.Domain.Name, ".")
	if at := len(name) - len(domain); at > 0 && strings.EqualFold(name[at:], domain) {
		return name[:at]
	}
	return name
}

// Makes reports whether a forward of doc may lead to an address of IPv6 that a guest has made
// for itself.
func Makes(doc *netdef.Network) bool {
	return slices.ContainsFunc(doc.IPs, func(ip netdef.IP) bool { return ip.Address.Is6() }) &&
		slices.ContainsFunc(doc.PortForwards, func(f netdef.PortForward) bool {
			addr, _, _ := f.Target()
			return f.Covers(false) && !addr.IsValid()
		})
}

// Made reports whether a guest of doc that has an address has made it for itself: it is in
// no range, and set aside for nobody.
func Made(doc *netdef.Network, a netip.Addr) bool {
	for i := range doc.IPs {
		dhcp := doc.IPs[i].DHCP
		if dhcp == nil {
			continue
		}
		if slices.ContainsFunc(dhcp.Ranges, func(r netdef.DHCPRange) bool { return r.Start.Compare(a) <= 0 && a.Compare(r.End) <= 0 }) {
			return false
		}
	}
	return a.Is6()
}

// Reserved are the guests that doc has addresses set aside for.
func Reserved(doc *netdef.Network) (all []Guest) {
	for i := range doc.IPs {
		if doc.IPs[i].DHCP == nil {
			continue
		}
		for _, h := range doc.IPs[i].DHCP.Hosts {
			g := Guest{Name: h.Name, Reserved: []netip.Addr{h.IP}}
			if h.MAC != nil {
				g.MACs = []string{h.MAC.String()}
			}
			all = append(all, g)
		}
	}
	return all
}
