package network

import (
	"context"
	"net/netip"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/announce"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/port"
)

// Announcements are what routers are told of networks.
type Announcements struct{ catalog *catalog }

// AnnouncementsOf are what routers are told of the networks of m.
func AnnouncementsOf(m *Manager) Announcements { return Announcements{m.catalog} }

// How soon is looked at what of networks is to be announced.
const (
	announceSoon   = 10 * time.Millisecond // after something happened, for others that follow
	announceEvery  = time.Second
	announceMoving = 50 * time.Millisecond // where guests move from host to host, which nothing tells of
)

// Status is how this host stands to routers; nil where none is told.
func (a Announcements) Status() *api.BGP { return a.catalog.env.Announcements.Status() }

// Run has what active networks announce be announced until ctx ends. Load must have returned:
// routers forget what they are not told of in the beginning. Nothing is withdrawn at the end.
func (a Announcements) Run(ctx context.Context) {
	keeper := a.catalog.env.Announcements
	if keeper == nil {
		return
	}
	events := make(chan struct{}, 1)
	cancel := a.catalog.env.Events.Subscribe(func(e env.Event) {
		if e.Kind != env.ConditionsChanged {
			select {
			case events <- struct{}{}:
			default:
			}
		}
	})
	defer cancel()
	for ctx.Err() == nil {
		every := announceEvery
		keeper.Follow(func() map[string][]netip.Prefix {
			all, moving := a.look()
			if moving {
				every = announceMoving
			}
			return all
		})
		select {
		case <-ctx.Done():
		case <-events:
			select {
			case <-ctx.Done():
			case <-time.After(announceSoon):
			}
		case <-time.After(every):
		}
	}
}

// look is what is to be announced of each network, and whether guests of one may move.
func (a Announcements) look() (all map[string][]netip.Prefix, moving bool) {
	all = make(map[string][]netip.Prefix)
	a.catalog.eachLive(func(n *Network, live *netdef.Network) {
		if live.Announce == nil || n.Info().State == api.Stopping {
			return
		}
		var guests []announce.Guest
		if live.Announce.Guests(live.Span != nil) {
			guests = a.guests(n, live)
			moving = moving || a.catalog.env.Clusters.Of(live) != nil
		}
		all[n.Name()] = announce.Prefixes(live, guests)
	})
	return all, moving
}

// guests are the guests of a network that are on this host. One that has a port here and sends
// from another host is there.
func (a Announcements) guests(n *Network, live *netdef.Network) (all []announce.Guest) {
	held, err := n.Leases()
	if err != nil {
		a.catalog.env.Logger.Error("addresses of guests are not announced as they are not known", env.KeyNetwork, n.Name(), env.KeyError, err)
	}
	leased := make(map[string][]netip.Addr)
	for _, l := range held {
		leased[string(l.MAC)] = append(leased[string(l.MAC)], l.Addr)
	}
	for _, p := range a.catalog.ports.Registry().On(n.Name(), port.Own, port.External) {
		card := p.CardAddr()
		if !a.catalog.env.Clusters.SendsHere(live, card) {
			delete(leased, string(card))
			continue
		}
		g := announce.Guest{MAC: card, Name: p.Name}
		g.Addresses = append(append(append(g.Addresses, p.Addrs...), p.Status().Held...), leased[string(card)]...)
		delete(leased, string(card))
		all = append(all, g)
	}
	if live.Span != nil {
		return all // leases of others are of guests that went to other hosts
	}
	for mac, addrs := range leased {
		all = append(all, announce.Guest{MAC: []byte(mac), Addresses: addrs})
	}
	return all
}

// wanted lists the active networks that are to be announced.
func (a Announcements) wanted() (networks []string) {
	a.catalog.eachLive(func(n *Network, live *netdef.Network) {
		if live.Announce != nil {
			networks = append(networks, n.Name())
		}
	})
	return networks
}
