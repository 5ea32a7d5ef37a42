// Package graph draws what networks hang together: uplinks, bridges, ports and guests,
// peers and forwards.
package graph

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/api"
)

// Kind is what a node stands for.
type Kind string

// The kinds, from the outside to the guests.
const (
	Outside Kind = "outside" // what networks lead to: an interface of the host, or any
	Network Kind = "network"
	Guest   Kind = "guest" // behind a port, or known by its lease alone
)

// Node is one thing, and what hangs on it.
type Node struct {
	Kind  Kind     `json:"kind"`
	ID    string   `json:"id"`    // unique among all nodes
	Name  string   `json:"name"`  // what it is called
	Notes []string `json:"notes"` // what there is to say of it
	Bad   bool     `json:"bad"`   // it is not as it should be
	On    []*Node  `json:"on"`
}

// Link is what two things have to do with each other beside that.
type Link struct {
	From    string `json:"from"` // of a node, or "host"
	To      string `json:"to"`   // of a node
	Label   string `json:"label"`
	Waiting bool   `json:"waiting"` // it does not hold now
}

// Graph is all of a host's networks.
type Graph struct {
	Roots []*Node `json:"roots"`
	Links []Link  `json:"links"`
}

// Of is the graph of what vnetd tells.
func Of(s api.Status) Graph {
	var g Graph
	outside := make(map[string]*Node)
	for i := range s.Networks {
		n := &s.Networks[i]
		node := network(n)
		for _, name := range ways(n) {
			o := outside[name]
			if o == nil {
				o = &Node{Kind: Outside, ID: "outside " + name, Name: name}
				outside[name] = o
				g.Roots = append(g.Roots, o)
			}
			o.On = append(o.On, node)
		}
		g.Links = append(g.Links, links(n)...)
	}
	slices.SortStableFunc(g.Roots, func(a, b *Node) int { return cmp.Compare(rank(a.Name), rank(b.Name)) })
	return g
}

// What networks are on that no interface is named for.
const (
	anywhere = "by the host's routes"
	nowhere  = "to nowhere"
)

// rank puts interfaces first, by name, and what is none last.
func rank(name string) string {
	if name == anywhere || name == nowhere {
		return "\uffff" + name
	}
	return name
}

// ways are what leads packets of a network out of the host.
func ways(n *api.NetworkStatus) []string {
	switch {
	case len(n.Parents) > 0:
		return n.Parents
	case n.Uplink != "":
		return []string{n.Uplink}
	case n.Mode == "none":
		return []string{nowhere}
	case n.Mode == "bridge":
		return []string{n.Bridge}
	default:
		return []string{anywhere}
	}
}

// network is a network with what hangs on it.
func network(n *api.NetworkStatus) *Node {
	node := &Node{Kind: Network, ID: "network " + n.Name, Name: n.Name, Bad: n.State == api.Degraded || n.State == api.Failed}
	node.Notes = append(node.Notes, mode(n.Mode))
	if n.Bridge != "" {
		node.Notes = append(node.Notes, n.Bridge)
	}
	for _, a := range n.Addresses {
		node.Notes = append(node.Notes, a.String())
	}
	if n.State != api.Active {
		node.Notes = append(node.Notes, string(n.State))
	}
	shown := make(map[string]bool)
	for i := range n.Ports {
		p := &n.Ports[i]
		shown[strings.ToLower(p.MAC)] = true
		node.On = append(node.On, port(n, p))
	}
	for i := range n.Leases {
		if l := &n.Leases[i]; !shown[strings.ToLower(l.MAC)] {
			shown[strings.ToLower(l.MAC)] = true
			node.On = append(node.On, leased(n, l.MAC))
		}
	}
	return node
}

// mode is the mode as people call it.
func mode(m string) string {
	if m == "none" {
		return "isolated"
	}
	return m
}

// port is a guest behind a port.
func port(n *api.NetworkStatus, p *api.Port) *Node {
	node := &Node{Kind: Guest, ID: "port " + p.UUID, Name: cmp.Or(p.Name, hostname(n, p.MAC), p.MAC)}
	node.Notes = append(node.Notes, p.IfName)
	for _, a := range p.Addresses {
		node.Notes = append(node.Notes, a.String())
	}
	if p.Isolated {
		node.Notes = append(node.Notes, "isolated")
	}
	if p.VLAN != "" {
		node.Notes = append(node.Notes, "VLAN "+p.VLAN)
	}
	return node
}

// leased is a guest of which only leases tell.
func leased(n *api.NetworkStatus, mac string) *Node {
	node := &Node{Kind: Guest, ID: "guest " + n.Name + " " + mac, Name: cmp.Or(hostname(n, mac), mac)}
	for _, l := range n.Leases {
		if l.MAC == mac {
			node.Notes = append(node.Notes, l.Address.String())
		}
	}
	return node
}

// hostname is what a guest calls itself.
func hostname(n *api.NetworkStatus, mac string) string {
	i := slices.IndexFunc(n.Leases, func(l api.Lease) bool { return strings.EqualFold(l.MAC, mac) && l.Hostname != "" })
	if i < 0 {
		return ""
	}
	return n.Leases[i].Hostname
}

// host is what forwards come from.
const host = "host"

// links are the peers and the forwards of a network.
func links(n *api.NetworkStatus) (all []Link) {
	from := "network " + n.Name
	for _, p := range n.Peers {
		what := "everything"
		if len(p.Services) > 0 {
			what = strings.Join(p.Services, " ")
		}
		all = append(all, Link{From: from, To: "network " + p.Network, Label: fmt.Sprintf("peer %s, %s", p.Direction, what), Waiting: p.State != api.PeerActive})
	}
	for i := range n.Forwards {
		f := &n.Forwards[i]
		at := cmp.Or(f.Address, "this host")
		all = append(all, Link{
			From: host, To: target(n, f), Waiting: f.State != api.ForwardActive,
			Label: fmt.Sprintf("%s %s/%s to port %d", at, f.Protocol, f.Ports, f.ToPort),
		})
	}
	return all
}

// target is the node that a forward leads to: its guest's, or its network's while that is
// not known.
func target(n *api.NetworkStatus, f *api.Forward) string {
	for i := range n.Ports {
		p := &n.Ports[i]
		for _, a := range p.Addresses {
			if slices.Contains(f.Targets, a) {
				return "port " + p.UUID
			}
		}
	}
	for _, l := range n.Leases {
		if slices.Contains(f.Targets, l.Address) {
			return "guest " + n.Name + " " + l.MAC
		}
	}
	return "network " + n.Name
}
