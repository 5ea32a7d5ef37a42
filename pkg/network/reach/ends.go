package reach

import (
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge/path"
)

// What stands for all that is beyond this host: a.root-servers.net. No packet is sent there.
var (
	outside4 = netip.MustParseAddr("198.41.0.4")
	outside6 = netip.MustParseAddr("2001:503:ba3e::2:30")
)

// The words for ends that are no guests.
const (
	wordHost    = "host"
	wordOutside = "outside"
)

// end is who stands at one end of a connection.
type end struct {
	kind    string
	guest   *Guest       // nil: not known, or none
	network *Network     // of a guest
	addrs   []netip.Addr // of the host: none where any would do
	text    string       // as it was asked for
}

// find finds the end that a text names.
func (w *World) find(text string) (end, error) {
	switch text {
	case "":
		return end{}, api.Errorf(api.Invalid, "an end is not named: want a guest, NETWORK:GUEST, a MAC or IP address, host or outside")
	case wordHost:
		return end{kind: api.ReachHost, text: text}, nil
	case wordOutside:
		return end{kind: api.ReachOutside, addrs: []netip.Addr{outside4, outside6}, text: text}, nil
	}
	if a, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		return w.at(a.Unmap(), text)
	}
	found := w.named(text)
	switch {
	case len(found) == 0:
		return end{}, api.Errorf(api.NotFound, "no guest is known as %.80q: want a name, NETWORK:NAME, a MAC address, the device of a port, an IP address, host or outside", text)
	case len(found) > 1:
		var all []string
		for _, g := range found {
			all = append(all, g.Network+":"+text)
		}
		return end{}, api.Errorf(api.Conflict, "%d guests are known as %.80q: name one as %s", len(found), text, strings.Join(all, " or "))
	}
	g := found[0]
	if len(g.Addrs) == 0 {
		return end{}, api.Errorf(api.NotFound, "guest %.80q of network %q has no address that is known here: give its address instead", text, g.Network)
	}
	return end{kind: api.ReachGuest, guest: g, network: w.network(g.Network), addrs: g.Addrs, text: text}, nil
}

// at is who has an address.
func (w *World) at(a netip.Addr, text string) (end, error) {
	if a.Zone() != "" || a.IsMulticast() || a.IsUnspecified() {
		return end{}, api.Errorf(api.Invalid, "address %.80q is none of one machine: want one without a zone that is neither a group's nor 0", text)
	}
	e := end{addrs: []netip.Addr{a}, text: text}
	switch n := w.containing(a); {
	case w.owns(a):
		e.kind = api.ReachHost
	case w.holder(a) != nil:
		e.kind, e.guest = api.ReachGuest, w.holder(a)
		e.network = w.network(e.guest.Network)
	case n != nil:
		e.kind, e.network = api.ReachGuest, n
	default:
		e.kind = api.ReachOutside
	}
	return e, nil
}

// named lists the guests that a text names: one of each network.
func (w *World) named(text string) (found []*Guest) {
	mac, _ := net.ParseMAC(text)
	network, name, qualified := strings.Cut(text, ":")
	qualified = qualified && mac == nil && w.network(network) != nil
	for i := range w.Guests {
		g := &w.Guests[i]
		var is bool
		switch {
		case mac != nil:
			is = g.MAC.String() == mac.String()
		case qualified:
			is = g.Network == network && g.called(name, w.network(network).Domain)
		default:
			is = g.called(text, "") || w.network(g.Network) != nil && g.called(text, w.network(g.Network).Domain)
		}
		if !is {
			continue
		}
		at := slices.IndexFunc(found, func(o *Guest) bool { return o.Network == g.Network })
		switch {
		case at < 0:
			found = append(found, g)
		case better(g, found[at]):
			found[at] = g
		}
	}
	return found
}

// better reports whether a tells more than b of the guest that both name.
func better(a, b *Guest) bool {
	if (a.IfName != "") != (b.IfName != "") {
		return a.IfName != ""
	}
	return len(a.Addrs) > len(b.Addrs)
}

// called reports whether the guest has that name, in its network's domain or without, or is
// the one of that port.
func (g *Guest) called(name, domain string) bool {
	if name == "" {
		return false
	}
	if name == g.IfName || name == g.UUID {
		return true
	}
	return slices.ContainsFunc(g.Names, func(n string) bool {
		return strings.EqualFold(n, name) || domain != "" && strings.EqualFold(n+"."+domain, name)
	})
}

// describe is the end for the outside.
func (e *end) describe() api.ReachEnd {
	d := api.ReachEnd{Kind: e.kind, Name: e.text, Addresses: append([]netip.Addr{}, e.addrs...)}
	if e.network != nil {
		d.Network = e.network.Name
	}
	if g := e.guest; g != nil {
		d.MAC, d.IfName = g.MAC.String(), g.IfName
		if len(g.Names) > 0 {
			d.Name = g.Names[0]
		}
	}
	return d
}

// families are those in which a connection between two ends can be, IPv4 first.
func families(from, to *end) (v6 []bool) {
	for _, six := range []bool{false, true} {
		if from.has(six) && to.has(six) {
			v6 = append(v6, six)
		}
	}
	return v6
}

// has reports whether the end has an address of a family, or may have any.
func (e *end) has(v6 bool) bool {
	return len(e.addrs) == 0 || slices.ContainsFunc(e.addrs, func(a netip.Addr) bool { return a.Is6() == v6 })
}

// addr is the end's first address of a family, invalid for none.
func (e *end) addr(v6 bool) netip.Addr {
	for _, a := range e.addrs {
		if a.Is6() == v6 && !(a.Is6() && a.IsLinkLocalUnicast()) {
			return a
		}
	}
	for _, a := range e.addrs {
		if a.Is6() == v6 {
			return a
		}
	}
	return netip.Addr{}
}

// hostAddr is the address of this host by which the other end knows it: that of the guest's
// network, or of the link that leads there.
func (w *World) hostAddr(other *end, v6 bool) netip.Addr {
	if other.network != nil {
		if a := other.network.gateway(v6); a.IsValid() {
			return a
		}
	}
	to := outside4
	if v6 {
		to = outside6
	}
	if a := other.addr(v6); a.IsValid() && !w.owns(a) {
		to = a
	}
	way, err := w.Ways.Lookup(path.Packet{To: to})
	if err != nil {
		return netip.Addr{}
	}
	return way.Source
}
