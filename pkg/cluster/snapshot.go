package cluster

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/pkg/cluster/record"
)

// Snapshot is what a store had at a revision, for somebody who looks at it once.
type Snapshot struct{ view *view }

// Read reads a listing of all keys of a cluster. What can't be read counts as absent.
func Read(cluster string, l Listing) Snapshot {
	return Snapshot{read(cluster, l, true)}
}

// Meta is what the cluster is, nil if there is none.
func (s Snapshot) Meta() *record.Meta { return s.view.meta }

// Waiting names the hosts that have not written again what is their own since the store
// lost it, in order.
func (s Snapshot) Waiting() (hosts []string) {
	if s.view.meta != nil {
		hosts = slices.DeleteFunc(slices.Clone(s.view.meta.Await), func(h string) bool { return !s.view.awaits(h) })
	}
	return hosts
}

// HostState is a host as the store has it.
type HostState struct {
	Host   string
	Joined bool // it is a member; otherwise it left keys, or was never there
	Alive  bool
	Member record.Member

	Blocks, Guests, Leases int
}

// Hosts returns all hosts of which there is a key, in order of name.
func (s Snapshot) Hosts() []HostState {
	all := make(map[string]*HostState)
	of := func(host string) *HostState {
		if all[host] == nil {
			_, alive := s.view.alive[host]
			m, joined := s.view.members[host]
			all[host] = &HostState{Host: host, Joined: joined, Alive: alive, Member: m.v}
		}
		return all[host]
	}
	for host := range s.view.members {
		of(host)
	}
	for host := range s.view.alive {
		of(host)
	}
	for g, hosts := range s.view.ports {
		for host := range hosts.all() {
			of(host)
		}
		if host, _ := s.view.winner(g); host != "" {
			of(host).Guests++
		}
	}
	for _, hosts := range s.view.leases {
		for host := range hosts.all() {
			of(host).Leases++
		}
	}
	for _, blocks := range s.view.blocks {
		for _, b := range blocks {
			of(b.v.Host).Blocks++
		}
	}
	names := slices.Sorted(maps.Keys(all))
	list := make([]HostState, 0, len(names))
	for _, name := range names {
		list = append(list, *all[name])
	}
	return list
}

// GuestState is a guest's card as the store has it.
type GuestState struct {
	Guest
	Host      string
	State     record.State // "" if there is a lease, but no port
	Name      string
	Addresses []netip.Addr
}

// Guests returns all cards of which there is a port or a lease, in order of network and
// MAC address: from where they send, and where they are about to move to as well.
func (s Snapshot) Guests() []GuestState {
	var all []GuestState
	for g := range s.view.ports {
		all = append(all, s.ports(g)...)
	}
	for g := range s.view.of {
		if len(s.view.ports[g]) == 0 {
			all = append(all, s.leased(g))
		}
	}
	slices.SortFunc(all, func(a, b GuestState) int { return cmp.Or(a.compare(b.Guest), cmp.Compare(a.Host, b.Host)) })
	return all
}

// ports returns the ports of a card that count.
func (s Snapshot) ports(g Guest) (all []GuestState) {
	winner, _ := s.view.winner(g)
	for host, p := range s.view.ports[g].all() {
		if host != winner && p.v.State != record.Incoming {
			continue
		}
		state := GuestState{Guest: g, Host: host, State: p.v.State, Name: p.v.Name, Addresses: slices.Clone(p.v.Addresses)}
		for a := range s.view.of[g] {
			state.Addresses = append(state.Addresses, a.Addr)
		}
		slices.SortFunc(state.Addresses, netip.Addr.Compare)
		state.Addresses = slices.Compact(state.Addresses)
		all = append(all, state)
	}
	return all
}

// leased returns a card without a port: its leases are told by the host that gave the
// newest of them.
func (s Snapshot) leased(g Guest) GuestState {
	state := GuestState{Guest: g}
	for a := range s.view.of[g] {
		state.Addresses = append(state.Addresses, a.Addr)
	}
	slices.SortFunc(state.Addresses, netip.Addr.Compare)
	for _, addr := range state.Addresses {
		host, l := s.view.newest(Address{g.Network, addr})
		state.Host, state.Name = host, cmp.Or(state.Name, l.v.Name)
	}
	return state
}
