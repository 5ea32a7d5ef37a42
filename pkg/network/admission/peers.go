// Package admission knows which connections guests may open: what peerings of networks come to
// once both have their say, what rules are in the firewall's terms, and the addresses of names
// in rules, as guests learn them. It touches nothing.
package admission

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/netdef/policy"
)

// everything is the service that all are part of.
var everything = policy.Service{}

// Granted are the services that guests of one network may open to those of another, none for
// nothing, and {""} for everything. Each network says what of its own it lets out or in. Where
// the same accounts own both, what either says is granted, but that an isolated one must name
// the other; otherwise what one asks for and the
// other lets.
func Granted(from, to *netdef.Network) (all []policy.Service) {
	out, in := said(from, to.Name, policy.Out), said(to, from.Name, policy.In)
	if len(out)+len(in) == 0 || !joinable(from, to) {
		return nil
	}
	both := slices.Concat(out, in)
	alone := sameOwner(from, to) && hasSay(from, to.Name) && hasSay(to, from.Name)
	for i, s := range both {
		other := in
		if i >= len(out) {
			other = out
		}
		agreed := alone || covered(s, other)
		if agreed && !covered(s, all) {
			all = append(all, s)
		}
	}
	if slices.Contains(all, everything) {
		return []policy.Service{everything}
	}
	return all
}

// hasSay reports whether n needs not name a peer itself: an isolated network has its guests reach
// nobody until it does.
func hasSay(n *netdef.Network, peer string) bool {
	return n.Mode() != netdef.ModeIsolated || slices.ContainsFunc(n.Peers, func(p policy.Peer) bool { return p.Network == peer })
}

// said are the services that n says to open to or from a network of that name.
func said(n *netdef.Network, peer, direction string) (all []policy.Service) {
	for i := range n.Peers {
		p := &n.Peers[i]
		switch {
		case p.Network != peer || !p.Opens(direction):
		case len(p.Services) == 0:
			all = append(all, everything)
		default:
			all = append(all, p.Services...)
		}
	}
	return all
}

// covered reports whether one of all covers s.
func covered(s policy.Service, all []policy.Service) bool {
	return slices.ContainsFunc(all, func(o policy.Service) bool { return o.Covers(s) })
}

// sameOwner reports whether the same accounts own both networks: those of <vnetd:access>, or
// those who manage all networks.
func sameOwner(a, b *netdef.Network) bool {
	return maps.Equal(owners(a), owners(b))
}

// owners are the accounts that may use a network beside those who manage all.
func owners(n *netdef.Network) map[string]bool {
	all := make(map[string]bool)
	if n.Access == nil {
		return all
	}
	for _, u := range n.Access.Users {
		all["user "+u.Name] = true
	}
	for _, g := range n.Access.Groups {
		all["group "+g.Name] = true
	}
	return all
}

// joinable reports whether guests of two networks can reach each other by rules.
func joinable(a, b *netdef.Network) bool {
	return routed(a) && routed(b) && overlap(a, b) == ""
}

// routed reports whether rules decide who reaches guests of n.
func routed(n *netdef.Network) bool { return netdef.PolicyContext(n).Routed }

// overlap names subnets of both networks that have addresses in common; "" for none.
func overlap(a, b *netdef.Network) string {
	for i := range a.IPs {
		for j := range b.IPs {
			p, o := a.IPs[i].Prefix().Masked(), b.IPs[j].Prefix().Masked()
			if p.Overlaps(o) {
				return fmt.Sprintf("%s and %s", p, o)
			}
		}
	}
	return ""
}

// Peers are the networks whose guests may open something to those of n, in the firewall's
// terms.
func Peers(n *netdef.Network, others []*netdef.Network) (all []firewall.Peer) {
	for _, o := range others {
		granted := Granted(o, n)
		if o.Name == n.Name || len(granted) == 0 {
			continue
		}
		p := firewall.Peer{Bridge: o.Bridge.Name, Name: o.Name, Subnets: subnets(o)}
		if granted[0] != everything {
			p.Services = services(granted)
		}
		all = append(all, p)
	}
	return all
}

// SamePeers reports whether two lists are the same.
func SamePeers(a, b []firewall.Peer) bool {
	return slices.EqualFunc(a, b, func(a, b firewall.Peer) bool {
		return a.Bridge == b.Bridge && a.Name == b.Name && slices.Equal(a.Subnets, b.Subnets) && slices.Equal(a.Services, b.Services)
	})
}

// subnets are those of n.
func subnets(n *netdef.Network) (all []netip.Prefix) {
	for i := range n.IPs {
		all = append(all, n.IPs[i].Prefix().Masked())
	}
	return all
}

// services are some in the firewall's terms.
func services(all []policy.Service) (out []firewall.Service) {
	for _, s := range all {
		out = append(out, firewall.Service{Protocol: s.Protocol, Ports: firewall.PortRange{Start: s.Ports.Start, End: s.Ports.End}})
	}
	return out
}

// Known is what is known of a network that a peering names.
type Known struct {
	Doc    *netdef.Network // nil: there is none
	Active bool
}

// Waiting is why a peering of n does not hold, or not whole; "" where it does.
func Waiting(n *netdef.Network, p *policy.Peer, other Known) string {
	switch o := other.Doc; {
	case o == nil:
		return fmt.Sprintf("network %q does not exist", p.Network)
	case !other.Active:
		return fmt.Sprintf("network %q is not active", p.Network)
	case !routed(o):
		return fmt.Sprintf("network %q is of mode %s, want nat, route, or isolated", p.Network, o.Mode())
	case overlap(n, o) != "":
		return fmt.Sprintf("the subnets %s of the two networks overlap", overlap(n, o))
	}
	var missing []string
	for _, way := range []struct{ mine, theirs string }{{policy.Out, policy.In}, {policy.In, policy.Out}} {
		if !p.Opens(way.mine) {
			continue
		}
		if left := refused(n, p, other.Doc, way.mine); len(left) > 0 {
			missing = append(missing, agreement(n.Name, way.theirs, left))
		}
	}
	if len(missing) == 0 {
		return ""
	}
	return fmt.Sprintf("network %q does not agree: it would need %s", p.Network, strings.Join(missing, " and "))
}

// refused are the services of a peering, in one of its directions, that the other does not let.
func refused(n *netdef.Network, p *policy.Peer, other *netdef.Network, direction string) (left []policy.Service) {
	from, to := n, other
	if direction == policy.In {
		from, to = other, n
	}
	asked, granted := p.Services, Granted(from, to)
	if len(asked) == 0 {
		asked = []policy.Service{everything}
	}
	if direction == policy.In && slices.ContainsFunc(granted, func(s policy.Service) bool { return covered(s, asked) }) {
		return nil // it lets in more than the other asks for
	}
	return slices.DeleteFunc(slices.Clone(asked), func(s policy.Service) bool { return covered(s, granted) })
}

// agreement is the element that a network lacks.
func agreement(peer, direction string, left []policy.Service) string {
	ports := ""
	if left[0] != everything {
		ports = " ports='" + policy.JoinServices(left) + "'"
	}
	return fmt.Sprintf("<vnetd:peer network='%s'%s direction='%s'/>", peer, ports, direction)
}
