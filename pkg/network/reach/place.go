package reach

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/bridge/path"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose/eval"
)

// place is where packets start or arrive.
type place struct {
	kind string // as that of an api.ReachEnd
	// link is that by which this host sees who is there: a bridge, or one that leads to the
	// LAN; none for the host itself. port is the bridge's port, named eval.Unnamed where it is
	// not known.
	link, port bridge.Link
	network    *Network // whose bridge link is, nil for none
	mac        eval.MAC // zero: not known
	guest      *Guest   // nil: not known, or none
	addr       netip.Addr
}

// fault is why it can't be told, or can't be, before any rule was asked.
type fault struct {
	verdict  api.ReachVerdict
	reason   string
	remedies []string
	kind     string // of a condition
	rule     *api.ReachRule
}

// can't is the fault of what can't be told.
func cannotTell(format string, args ...any) *fault {
	return &fault{verdict: api.ReachUnknown, reason: fmt.Sprintf(format, args...)}
}

// hostPlace is this host.
func hostPlace(a netip.Addr) place { return place{kind: api.ReachHost, addr: a} }

// place is where an end with an address is.
func (w *World) place(e *end, a netip.Addr) (place, *fault) {
	switch {
	case e.kind == api.ReachHost:
		return hostPlace(a), nil
	case e.kind == api.ReachGuest:
		return w.guestPlace(e.network, e.guest, a)
	}
	return w.outsidePlace(a)
}

// guestPlace is the place of a guest with an address on a network; who it is may not be known.
func (w *World) guestPlace(n *Network, g *Guest, a netip.Addr) (place, *fault) {
	switch {
	case n == nil:
		return place{}, cannotTell("the network of the guest at %v is not active", a)
	case n.Bridge == "" || g != nil && g.Parent != "":
		parent := "a device of the host"
		if g != nil && g.Parent != "" {
			parent = g.Parent
		}
		return place{}, cannotTell("guests of network %q are on %s itself: no rule of this host sees what they send", n.Name, parent)
	}
	link, err := w.Links.LookupIndex(n.Index)
	if err != nil {
		return place{}, cannotTell("the bridge of network %q can't be looked at: %v", n.Name, err)
	}
	if g == nil { // known to the host alone, if to anybody
		if card, known, err := w.Neighbours.Card(n.Index, a); err == nil && known {
			g = &Guest{Network: n.Name, Names: []string{a.String()}, MAC: card[:], Addrs: []netip.Addr{a}}
		}
	}
	p := place{kind: api.ReachGuest, link: link, port: bridge.Link{Name: eval.Unnamed}, network: n, guest: g, addr: a}
	if g != nil {
		p.mac = hardware(g.MAC)
		p.port = w.portOf(link, g)
	}
	return p, nil
}

// portOf is the port of a bridge that a guest is on.
func (w *World) portOf(br bridge.Link, g *Guest) bridge.Link {
	if g.Index != 0 {
		if l, err := w.Links.LookupIndex(g.Index); err == nil && l.Master == br.Index {
			return l
		}
	}
	if len(g.MAC) > 0 {
		if at, err := w.Links.FDBPort(br.Index, g.MAC); err == nil && at != 0 && at != br.Index {
			if l, err := w.Links.LookupIndex(at); err == nil {
				return l
			}
		}
	}
	return bridge.Link{Name: eval.Unnamed}
}

// ownLink is the link by which this host itself is in a network, as a guest is, beside its bridge.
type ownLink struct {
	link bridge.Link
	end  place // the other end of it, in the bridge
}

// own is this host's own link in a network, which may be nil; ok is false where there is none.
func (w *World) own(n *Network) (own ownLink, ok bool) {
	if n == nil || n.Rules.Span == nil || n.Rules.Span.Host.Link == "" {
		return ownLink{}, false
	}
	link, err := w.Links.Lookup(n.Rules.Span.Host.Link)
	if err != nil {
		return ownLink{}, false
	}
	br, err1 := w.Links.LookupIndex(n.Index)
	port, err2 := w.Links.LookupIndex(link.Parent)
	if err1 != nil || err2 != nil {
		return ownLink{}, false
	}
	return ownLink{link, place{kind: api.ReachGuest, link: br, port: port, network: n, mac: mac(link)}}, true
}

// outsidePlace is where what is beyond this host comes from: by the link that leads there.
func (w *World) outsidePlace(a netip.Addr) (place, *fault) {
	way, err := w.Ways.Lookup(path.Packet{To: a})
	if err != nil {
		return place{}, &fault{verdict: api.ReachNo, reason: fmt.Sprintf("this host has no way to %v: %v", a, err), remedies: []string{"ip route get " + a.String()}}
	}
	link, err := w.Links.LookupIndex(way.Out)
	if err != nil {
		return place{}, cannotTell("the link that leads to %v can't be looked at: %v", a, err)
	}
	p := w.beyond(link, a)
	next := a
	if way.Via.IsValid() {
		next = way.Via
	}
	w.locate(&p, next)
	return p, nil
}

// locate finds the card of a machine or router on a link, and of a bridge the port that it is
// behind. It may be a guest whose address this host alone knows, and not by a lease.
func (w *World) locate(p *place, next netip.Addr) {
	if p.link.Kind == "bridge" {
		p.port = bridge.Link{Name: eval.Unnamed}
	}
	card, known, err := w.Neighbours.Card(p.link.Index, next)
	if err != nil || !known {
		return
	}
	p.mac = card
	if p.link.Kind != "bridge" {
		return
	}
	at, err := w.Links.FDBPort(p.link.Index, card[:])
	if err != nil || at == 0 || at == p.link.Index {
		return
	}
	l, err := w.Links.LookupIndex(at)
	if err != nil {
		return
	}
	p.port = l
	for i := range w.Guests {
		if g := &w.Guests[i]; g.Index == at && p.network != nil && g.Network == p.network.Name {
			p.kind, p.guest = api.ReachGuest, g
		}
	}
}

// beyond is the place of what is behind a link.
func (w *World) beyond(link bridge.Link, a netip.Addr) place {
	p := place{kind: api.ReachOutside, link: link, network: w.onBridge(link.Index), addr: a}
	if link.Kind == "bridge" {
		p.port = w.uplinkOf(link)
	}
	return p
}

// uplinkOf is the port of a bridge that leads to the LAN: the only one that is no guest's.
func (w *World) uplinkOf(br bridge.Link) bridge.Link {
	members, _ := w.Links.Members(br.Index)
	members = slices.DeleteFunc(members, func(l bridge.Link) bool {
		return l.Kind == "tun" || slices.ContainsFunc(w.Guests, func(g Guest) bool { return g.Index == l.Index })
	})
	if len(members) == 1 {
		return members[0]
	}
	return bridge.Link{Name: eval.Unnamed}
}

// inBridge is the link's name if it is a bridge, empty for others.
func inBridge(l bridge.Link) string {
	if l.Kind == "bridge" {
		return l.Name
	}
	return ""
}

// device is the name of the device by which frames of the place come and go.
func (p *place) device() string {
	if p.link.Kind == "bridge" {
		return p.port.Name
	}
	return p.link.Name
}

// same reports whether both are one place.
func (p *place) same(o *place) bool {
	return p.kind == o.kind && p.link.Index == o.link.Index && p.port.Name == o.port.Name
}

// who names who is there.
func (p *place) who() string {
	switch {
	case p.kind == api.ReachHost:
		return "this host"
	case p.kind == api.ReachGuest && p.guest != nil && len(p.guest.Names) > 0:
		return p.guest.Names[0]
	case p.kind == api.ReachGuest && p.guest != nil && len(p.guest.MAC) > 0:
		return p.guest.MAC.String()
	case p.addr == outside4, p.addr == outside6:
		return "the outside"
	}
	return p.addr.String()
}

// ownOn reports whether an address is this host's on a link.
func ownOn(link bridge.Link, a netip.Addr) bool {
	ifi, err := net.InterfaceByIndex(link.Index)
	if err != nil {
		return false
	}
	all, _ := ifi.Addrs()
	return slices.ContainsFunc(all, func(of net.Addr) bool {
		p, err := netip.ParsePrefix(of.String())
		return err == nil && p.Addr() == a
	})
}

// addressOn is the address of IPv4 that packets get which are masqueraded where they leave by
// a link on their way to a router or neighbour (inet_select_addr of net/ipv4/devinet.c).
func addressOn(index int, next netip.Addr) (first netip.Addr) {
	ifi, err := net.InterfaceByIndex(index)
	if err != nil {
		return netip.Addr{}
	}
	all, _ := ifi.Addrs()
	for _, a := range all {
		p, err := netip.ParsePrefix(a.String())
		if err != nil || !p.Addr().Is4() {
			continue
		}
		if p.Contains(next) {
			return p.Addr()
		}
		if !first.IsValid() {
			first = p.Addr()
		}
	}
	return first
}
