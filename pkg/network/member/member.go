// Package member is this host as one of the hosts of clusters, in the hub's terms: what
// documents, ports and leases are to pkg/cluster, and what that knows as documents, tunnels,
// DHCP and DNS take it. It knows no network but by its document, and runs nothing by itself.
package member

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge/vxlan"
	"github.com/vnetd/vnetd/pkg/cluster"
	"github.com/vnetd/vnetd/pkg/cluster/record"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dnsd"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// Cluster is this host in one cluster.
type Cluster struct {
	Name, Host string
	Underlay   netip.Addr   // of this host, at which the others reach it
	Port       uint16       // of UDP, of all tunnels
	Stores     []netip.Addr // of etcd, where the configuration has its addresses
	Version    string       // of this vnetd
	Member     *cluster.Member
	Runner     *cluster.Runner

	arrivals chan string
	spanning sync.Mutex // held while Member is told which networks are the cluster's

	ledger
	shown
}

// Clusters are those that this host is in. The methods of a nil *Clusters know none.
type Clusters struct {
	all []*Cluster
	log *slog.Logger
}

// mostArrivals is how many guests may come at a time without one of them waiting for the next look.
const mostArrivals = 64

// New makes them known, in order of name.
func New(all []*Cluster, log *slog.Logger) *Clusters {
	slices.SortFunc(all, func(a, b *Cluster) int { return cmp.Compare(a.Name, b.Name) })
	for _, c := range all {
		c.arrivals = make(chan string, mostArrivals)
	}
	return &Clusters{all, log}
}

// All lists them.
func (cs *Clusters) All() []*Cluster {
	if cs == nil {
		return nil
	}
	return cs.all
}

// Of is the cluster whose hosts a network is on; nil for none, and for one that this host is
// not in.
func (cs *Clusters) Of(doc *netdef.Network) *Cluster {
	if doc == nil || doc.Span == nil || doc.Span.Cluster == "" {
		return nil
	}
	for _, c := range cs.All() {
		if c.Name == doc.Span.Cluster {
			return c
		}
	}
	return nil
}

// Absent is the error of a document whose network is of a cluster that this host is not in.
func (cs *Clusters) Absent(doc *netdef.Network) error {
	if doc.Span == nil || doc.Span.Cluster == "" || cs.Of(doc) != nil {
		return nil
	}
	return api.Errorf(api.Unsupported, "network/vnetd:span/@cluster: '%s': this host is not in that cluster: want a [cluster.%[1]s] in its vnetd.toml", doc.Span.Cluster)
}

// Check refuses a document that can't be on this host as one of its cluster's.
func (cs *Clusters) Check(doc *netdef.Network) error {
	if doc.Span == nil || doc.Span.Cluster == "" {
		return nil
	}
	if err := cs.Absent(doc); err != nil {
		return err
	}
	c := cs.Of(doc)
	if !doc.Span.On(c.Host) {
		return api.Errorf(api.Invalid, "network/vnetd:span/@hosts: this host is %q, which is not among them", c.Host)
	}
	if err := record.CheckNetwork(doc.Name); err != nil {
		return api.Errorf(api.Invalid, "network/name: %w", err)
	}
	if err := c.reaches(doc); err != nil {
		return err
	}
	_, err := spanOf(doc)
	return err
}

// reaches refuses a document by which this host would not reach the others or etcd any more.
func (c *Cluster) reaches(doc *netdef.Network) error {
	own := func(p netip.Prefix, what string) error {
		if p = p.Masked(); p.Contains(c.Underlay) {
			return api.Errorf(api.Invalid, "network/vnetd:span/@cluster: '%s': the hosts reach each other by %v, which is in the network's own %s %v", c.Name, c.Underlay, what, p)
		}
		if i := slices.IndexFunc(c.Stores, p.Contains); i >= 0 {
			return api.Errorf(api.Invalid, "network/vnetd:span/@cluster: '%s': etcd is at %v, which is in the network's own %s %v", c.Name, c.Stores[i], what, p)
		}
		return nil
	}
	var errs []error
	for i := range doc.IPs {
		errs = append(errs, own(doc.IPs[i].Prefix(), "subnet"))
	}
	for i := range doc.Routes {
		errs = append(errs, own(doc.Routes[i].Prefix(), "route"))
	}
	return errors.Join(errs...)
}

// Resolve is a document with what its cluster says of its span: where this host and the others
// are. A document without a cluster is returned as it is, and none is changed.
func (cs *Clusters) Resolve(doc *netdef.Network) *netdef.Network {
	c := cs.Of(doc)
	if c == nil {
		return doc
	}
	next := *doc
	next.Span = doc.Span.Clone()
	next.Span.Underlay, next.Span.Port, next.Span.Peers = c.Underlay, c.Port, nil
	for _, p := range c.Member.Peers() {
		if next.Span.On(p.Host) && p.Underlay.Is4() == c.Underlay.Is4() && !slices.Contains(next.Span.Peers, p.Underlay) {
			next.Span.Peers = append(next.Span.Peers, p.Underlay)
		}
	}
	return &next
}

// Cards are the cards of a network's guests on other hosts of the network. One that has a port on this
// host as well is among them until its guest is here, and again once it has gone.
func (cs *Clusters) Cards(doc *netdef.Network) []vxlan.Card {
	c := cs.Of(doc)
	if c == nil {
		return nil
	}
	var cards []vxlan.Card
	for mac, at := range c.Member.Remote(doc.Name) {
		if at.Underlay.Is4() != c.Underlay.Is4() || !doc.Span.On(at.Host) {
			continue
		}
		card := vxlan.Card{MAC: mac, Peer: at.Underlay}
		switch has, p := c.port(doc.Name, mac); {
		case !has || at.Lost:
		case p.Here:
			continue
		case p.plugged:
			card.Hold = vxlan.Loose
		default:
			card.Hold = vxlan.Unsaid // libvirt tells the bridge of it, and fails where that knows of it
		}
		cards = append(cards, card)
	}
	slices.SortFunc(cards, func(a, b vxlan.Card) int { return slices.Compare(a.MAC[:], b.MAC[:]) })
	return cards
}

// Elsewhere are the names of a network's guests on other hosts.
func (cs *Clusters) Elsewhere(doc *netdef.Network) []dnsd.Host {
	c := cs.Of(doc)
	if c == nil {
		return nil
	}
	var hosts []dnsd.Host
	for name, addrs := range c.Member.Names(doc.Name) {
		for _, a := range addrs {
			hosts = append(hosts, dnsd.Host{Name: name, Addr: a})
		}
	}
	return hosts
}

// movesWithin is how long is waited for an answer of the store before a guest may move here.
const movesWithin = 2 * time.Second

// Admit refuses a port for a card that another guest has on another host, and for a guest that moves here
// while the store does not answer: the error is Busy then. It asks, as a store may be away for seconds
// before that shows.
func (cs *Clusters) Admit(ctx context.Context, doc *netdef.Network, mac []byte, owner string) error {
	c := cs.Of(doc)
	if c == nil || len(mac) != len(record.MAC{}) {
		return nil
	}
	g := cluster.Guest{Network: doc.Name, MAC: record.MAC(mac)}
	moves, kind := c.movesHere(g, owner), api.Conflict
	err := c.Member.Admit(g, cluster.Port{Owner: owner, Here: !moves})
	if err == nil && moves {
		if err = c.Runner.Answers(ctx, movesWithin); err != nil {
			err = fmt.Errorf("a guest can't move here while the cluster is away: %w", err)
		}
	}
	if err == nil {
		if moves {
			c.expect(g, time.Now())
		}
		return nil
	}
	if moves {
		kind = api.Busy
	}
	return api.Errorf(kind, "cluster %s: %w", c.Name, err)
}

// Stands is how a port of this host stands to the guest whose card is on it: the guest is about to
// move here, or has gone to another host. Neither is so where it sends by the port.
func (cs *Clusters) Stands(doc *netdef.Network, mac []byte) (coming, gone bool) {
	c := cs.Of(doc)
	if c == nil || len(mac) != len(record.MAC{}) {
		return false, false
	}
	g := cluster.Guest{Network: doc.Name, MAC: record.MAC(mac)}
	has, p := c.port(g.Network, g.MAC)
	if !has {
		return false, false
	}
	at := c.Member.Where(g)
	gone = at.Lost && at.Underlay.IsValid()
	return !p.Here && !gone, gone
}

// Noticed takes in that the bridge of a network knows something new of a card: a guest that is about
// to move to this host may have sent its first frame. It returns at once.
func (cs *Clusters) Noticed(doc *netdef.Network, mac []byte) {
	if coming, _ := cs.Stands(doc, mac); coming {
		c := cs.Of(doc)
		select {
		case c.arrivals <- doc.Name:
		default: // they are all looked at now and then
		}
	}
}

// Arrivals has the names of networks to which a guest has perhaps come.
func (c *Cluster) Arrivals() <-chan string { return c.arrivals }

// movesHere reports whether a guest that is about to have a port here runs on another host.
func (c *Cluster) movesHere(g cluster.Guest, owner string) bool {
	at := c.Member.Where(g)
	return owner != "" && at.Host != "" && at.Host != c.Host
}

// Blocks of an automatic size are such a part of the pool, and so large.
const (
	autoParts = 16
	autoLeast = 4
	autoMost  = 64
	autoMost6 = 4096 // of IPv6, so that a host seldom needs another
)

// spanOf is a document as pkg/cluster has it.
func spanOf(doc *netdef.Network) (cluster.Span, error) {
	s := cluster.Span{Network: doc.Name}
	served, _ := doc.Served()
	var errs []error
	if translate.DHCPIP(served) != nil {
		cfg := translate.DHCP(served)
		errs = append(errs, share(&s, &cfg.Settings, doc.Span.Block))
	}
	if translate.DHCP6IP(served) != nil {
		cfg := translate.DHCP6(served)
		errs = append(errs, share(&s, &cfg.Settings, doc.Span.Block))
	}
	return s, errors.Join(errs...)
}

// share adds what a server of DHCP gives to a span. block is the document's, 0 for one that is
// chosen.
func share(s *cluster.Span, cfg *dhcpd.Settings, block int) error {
	s.Reserved = append(s.Reserved, reserved(cfg.Reservations)...)
	switch len(cfg.Ranges) {
	case 0:
		return nil
	case 1:
	default:
		return api.Errorf(api.Unsupported, "network/ip/dhcp/range[2]: the hosts of a cluster share one range of each family: want one <range>")
	}
	p := cluster.Pool{First: cfg.Ranges[0].Start, Last: cfg.Ranges[0].End, Excluded: []netip.Addr{cfg.Server}}
	for i := range s.Reserved {
		if a := s.Reserved[i].Addr; a.Is4() == p.First.Is4() && !slices.Contains(p.Excluded, a) {
			p.Excluded = append(p.Excluded, a)
		}
	}
	subnet := cfg.Prefix.Masked()
	for _, a := range []netip.Addr{subnet.Addr(), record.Last(subnet)} {
		if subnet.Bits() < 31 && !slices.Contains(p.Excluded, a) {
			p.Excluded = append(p.Excluded, a)
		}
	}
	size, most := uint64(block), uint64(autoMost)
	if !p.First.Is4() {
		most = autoMost6
	}
	if size == 0 {
		size = min(max(cfg.Ranges[0].Size()/autoParts, autoLeast), most)
	}
	p.Bits = p.First.BitLen() + 1 - bits.Len64(size)
	s.Pools = append(s.Pools, p)
	return nil
}

// reserved are reservations as pkg/cluster has them.
func reserved(all []dhcpd.Reservation) (out []cluster.Reservation) {
	for i := range all {
		r := &all[i]
		if !r.Addr.IsValid() {
			continue
		}
		one := cluster.Reservation{Addr: r.Addr, Open: r.ByName() || len(r.DUID) > 0 || r.Mask != nil}
		if mac := dhcpd.DUIDAddr(r.DUID); mac != (dhcpd.HWAddr{}) {
			one.Cards = append(one.Cards, record.MAC(mac)) // as most clients have it
		}
		for _, c := range append([]dhcpd.Card{{MAC: r.MAC, Mask: r.Mask}}, r.Cards...) {
			if one.Open = one.Open || c.Mask != nil; len(c.MAC) == len(record.MAC{}) && c.Mask == nil {
				one.Cards = append(one.Cards, record.MAC(c.MAC))
			}
		}
		out = append(out, one)
	}
	return out
}

// SetNetworks says which networks of this host are its cluster's: all that list lists, while none
// begins or ends to become that. Those that are no more are forgotten, with their ports and leases.
func (c *Cluster) SetNetworks(list func() []*netdef.Network) (errs []error) {
	c.spanning.Lock()
	defer c.spanning.Unlock()
	known := make(map[string]bool)
	for _, network := range c.joiners() {
		known[network] = true
	}
	for _, doc := range list() {
		s, err := spanOf(doc)
		if err == nil {
			err = c.Member.SetSpan(s)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("network %q: %w", doc.Name, err))
			continue
		}
		known[doc.Name] = true
	}
	for _, network := range c.replaced(known) {
		c.SetPorts(network, nil)
		c.endAll(network)
		c.Member.DropSpan(network)
	}
	return errs
}

// Run keeps in step with the cluster until ctx ends. What this host has was told before.
func (c *Cluster) Run(ctx context.Context) {
	c.begin()
	var all sync.WaitGroup
	all.Go(func() { c.Runner.Run(ctx) })
	all.Go(func() { c.forgetNeeds(ctx) })
	all.Wait()
}

// forgetNeeds has guests that went without an address be forgotten, until ctx ends.
func (c *Cluster) forgetNeeds(ctx context.Context) {
	t := time.NewTicker(needFor / 4)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		c.tellNeed(c.satisfied(time.Now()))
	}
}
