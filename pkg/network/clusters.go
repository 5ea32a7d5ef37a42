package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/cluster"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/live"
	"github.com/vnetd/vnetd/pkg/network/member"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// Clusters are what networks share with other hosts.
type Clusters struct {
	catalog *catalog
	// define defines the document that choose returns while nothing else is defined; nil: none.
	define func(ctx context.Context, choose chooser) error
	read   func(xml []byte) (*netdef.Network, error)
}

// chooser says what is defined, nil for nothing, and how.
type chooser func() (*netdef.Network, api.DefineOptions, error)

// Status is how this host stands to the others of each, in order of name.
func (cs Clusters) Status() []api.Cluster {
	all := []api.Cluster{}
	for _, c := range cs.catalog.env.Clusters.All() {
		all = append(all, c.Status())
	}
	return all
}

// Restore has this host write anew what is its own into the store of a cluster, which lost it,
// or forgot this host: it begins at once, and goes on until it is done. Errors have the kinds
// NotFound and InvalidState.
func (cs Clusters) Restore(name string) error {
	for _, c := range cs.catalog.env.Clusters.All() {
		if c.Name != name {
			continue
		}
		if err := c.Member.Restore(); err != nil {
			return &api.Error{Kind: api.InvalidState, Err: err}
		}
		return nil
	}
	return api.Errorf(api.NotFound, "this host is in no cluster %q", name)
}

// Run keeps networks in step with their clusters until ctx ends. Load must have returned:
// what this host has is told before anything is asked. Without a cluster it returns at once.
func (cs Clusters) Run(ctx context.Context) error {
	all := cs.catalog.env.Clusters.All()
	if len(all) == 0 {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, c := range all {
		s := &sharing{catalog: cs.catalog, define: cs.define, read: cs.read, c: c, untold: make(map[string]string), dirty: make(map[string]bool), names: make(map[cluster.Guest]string), moving: make(map[string]bool), renamed: make(map[string]bool), halfway: make(map[string]bool), events: make(chan struct{}, 1)}
		cancel := cs.catalog.env.Events.Subscribe(s.note)
		defer cancel()
		s.begin()
		g.Go(func() error { c.Run(ctx); return nil })
		g.Go(func() error { s.run(ctx); return nil })
	}
	return g.Wait()
}

// How often is looked at what changes all the time.
const (
	restFor      = 20 * time.Millisecond // after each look
	namesEvery   = 100 * time.Millisecond
	movingEvery  = 10 * time.Millisecond // whether guests that move here have sent something
	countedAfter = 200 * time.Microsecond
	lookEvery    = time.Second
	receiveEvery = 10 * time.Second // definitions that could not be taken over
)

// sharing has the networks of this host and a cluster follow one another. But for note it is
// for one goroutine.
type sharing struct {
	*catalog
	define func(ctx context.Context, choose chooser) error
	read   func(xml []byte) (*netdef.Network, error)
	c      *member.Cluster

	events chan struct{} // capacity 1: dirty has something
	mu     sync.Mutex    // guards what follows
	dirty  map[string]bool
	all    bool                     // it may be others that are the cluster's
	names  map[cluster.Guest]string // that guests without a name of their port call themselves

	phase   cluster.Phase
	adopted []cluster.Address // leases that DHCP has still to take over
	moving  map[string]bool   // networks to which a guest is about to move here
	renamed map[string]bool   // networks with other names of guests elsewhere
	halfway map[string]bool   // networks that were left halfway to or from the cluster by the vnetd before
	untold  map[string]string // networks whose definition is to be compared with the cluster's, and why that failed last
	next    time.Time         // when what failed of that is tried again
}

// note takes in what happens on this host. It returns quickly.
func (s *sharing) note(e env.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch e.Kind {
	case env.NetworkDefined, env.NetworkChanged, env.NetworkUndefined:
		s.all = true
	case env.PortAdded, env.PortChanged, env.PortRemoved:
		s.dirty[e.Network.Name] = true
	case env.LeaseChanged:
		if !s.call(e.Network.Name, e.Lease.Lease) {
			return
		}
		s.dirty[e.Network.Name] = true
	default:
		return
	}
	select {
	case s.events <- struct{}{}:
	default:
	}
}

// call takes in what a guest calls itself, and reports whether that is new. The caller holds
// s.mu.
func (s *sharing) call(network string, l dhcpd.Lease) (news bool) {
	if len(l.MAC) != dhcpd.HWAddrLen || l.Hostname == "" {
		return false
	}
	g := cluster.Guest{Network: network}
	copy(g.MAC[:], l.MAC)
	news = s.names[g] != l.Hostname
	s.names[g] = l.Hostname
	return news
}

// begin tells of all that there is.
func (s *sharing) begin() {
	for _, n := range s.networks() {
		s.tellLeases(n)
		if live, def := n.Live(), n.Definition(); live != nil && def != nil && s.env.Clusters.Of(live) != s.env.Clusters.Of(def) {
			s.halfway[n.Name()] = true
		}
	}
	s.tellNetworks()
}

// networks are those of the cluster.
func (s *sharing) networks() []*live.Network {
	return s.where(s.shares)
}

// shares reports whether a network is one of the cluster's.
func (s *sharing) shares(n *live.Network) bool {
	return slices.ContainsFunc(n.Definitions(), func(doc *netdef.Network) bool { return s.env.Clusters.Of(doc) == s.c })
}

// document is what a network of the cluster is, or will be, as one of the cluster's.
func (s *sharing) document(n *live.Network) *netdef.Network {
	for _, doc := range n.Definitions() {
		if s.env.Clusters.Of(doc) == s.c {
			return doc
		}
	}
	return n.Document()
}

// tellLeases tells what guests of a network have: DHCP does so itself where it runs.
func (s *sharing) tellLeases(n *live.Network) {
	held, err := n.Leases()
	if err != nil {
		s.env.Logger.Error("the leases of a network are not known to its cluster", env.KeyNetwork, n.Name(), env.KeyError, err)
		return
	}
	var all []dhcpd.Lease
	s.mu.Lock()
	for _, l := range held {
		s.call(n.Name(), l.Lease)
		all = append(all, l.Lease)
	}
	s.mu.Unlock()
	open := n.Services().Servers()
	if open.DHCP == nil {
		s.c.Tell(n.Name(), true, all)
	}
	if open.DHCP6 == nil {
		s.c.Tell(n.Name(), false, all)
	}
}

// tellNetworks tells which networks are the cluster's, and all their ports.
func (s *sharing) tellNetworks() {
	var networks []*live.Network
	for _, err := range s.c.SetNetworks(func() (docs []*netdef.Network) {
		networks = s.networks()
		for _, n := range networks {
			docs = append(docs, s.document(n))
		}
		return docs
	}) {
		s.env.Logger.Error("a network is not shared with the cluster", "cluster", s.c.Name, env.KeyError, err)
	}
	for _, n := range networks {
		s.tellPorts(n)
	}
}

// tellPorts tells which cards are on ports of a network.
func (s *sharing) tellPorts(n *live.Network) {
	var cards []member.Card
	for _, p := range s.ports.Registry().On(n.Name(), port.Own, port.External) {
		cards = append(cards, s.card(n, p))
	}
	delete(s.moving, n.Name())
	incoming, news := s.c.SetPorts(n.Name(), cards)
	if len(incoming) > 0 {
		s.moving[n.Name()] = true
	}
	if news {
		live.FollowCluster(n, live.News{Cards: true})
	}
}

// sends reports whether the guest on a port has sent anything by it.
func (s *sharing) sends(p *port.Port) bool {
	counters, err := s.env.Links.Counters()
	return err == nil && counters[p.Status().IfName].RxPackets > 0 // that the device got
}

// plugged reports whether the device of a port is there, and libvirt, if that made it, has told the bridge
// what it tells of it: it fails where somebody else did.
func (s *sharing) plugged(n *Network, p *port.Port) bool {
	index, doc := p.Status().Index, n.Live()
	if index == 0 || doc == nil || p.Kind != port.External || !translate.ManagesMACs(doc) {
		return index != 0
	}
	on, err := s.env.Links.FDBPort(n.BridgeIndex(), p.CardAddr())
	return err == nil && on == index
}

// card is that on a port.
func (s *sharing) card(n *Network, p *port.Port) member.Card {
	c := member.Card{MAC: p.CardAddr(), UUID: p.UUID, Owner: p.OwnerUUID, Name: p.Name, Addresses: p.Addrs, Plugged: func() bool { return s.plugged(n, p) }, Sends: func() bool { return s.sends(p) }}
	if doc := p.Document(); doc != nil {
		c.Owner = doc.Owner.UUID
	}
	g := cluster.Guest{Network: n.Name()}
	copy(g.MAC[:], c.MAC)
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.Name == "" {
		c.Name = s.names[g]
	}
	return c
}

// run follows both sides until ctx ends.
func (s *sharing) run(ctx context.Context) {
	for _, n := range s.networks() {
		s.renamed[n.Name()] = true
	}
	moving, look := time.NewTicker(movingEvery), time.NewTicker(lookEvery)
	defer moving.Stop()
	defer look.Stop()
	var named time.Time
	for {
		watched := moving.C
		if len(s.moving) == 0 {
			watched = nil
		}
		select {
		case <-ctx.Done():
			return
		case <-s.c.Member.News():
			s.follow(s.c.Member.Changes())
			s.receive(false)
		case <-s.events:
		case <-s.c.Member.Moves():
			s.follow(s.c.Member.Changes())
		case name := <-s.c.Arrivals():
			s.arrived(name)
		case <-watched:
			for name := range s.moving {
				s.suspect(name)
			}
		case <-look.C:
			s.c.Look(time.Now())
			s.adopt()
			if now := time.Now(); now.After(s.next) {
				s.receive(true)
				s.next = now.Add(receiveEvery)
			}
		}
		s.tell()
		if time.Since(named) >= namesEvery {
			s.tellNames()
			named = time.Now()
		}
		s.rest(ctx)
	}
}

// rest waits, or until ctx ends. But for guests that move nothing has to be at once.
func (s *sharing) rest(ctx context.Context) {
	over := time.NewTimer(restFor)
	defer over.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-over.C:
			return
		case <-s.c.Member.Moves():
			s.follow(s.c.Member.Changes())
		case name := <-s.c.Arrivals():
			s.arrived(name)
		}
	}
}

// suspect has the ports of a network be told again.
func (s *sharing) suspect(network string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirty[network] = true
}

// arrived looks whether a guest has come to a network by a port that is there. The kernel counts
// a frame after its bridge has had it.
func (s *sharing) arrived(network string) {
	time.Sleep(countedAfter)
	s.suspect(network)
	s.tell()
}

// tell tells the cluster what is new on this host.
func (s *sharing) tell() {
	s.mu.Lock()
	all, dirty := s.all, s.dirty
	s.all, s.dirty = false, make(map[string]bool)
	s.mu.Unlock()
	if all {
		s.tellNetworks()
	}
	for name := range dirty {
		if n := s.find(name); n != nil && s.shares(n) {
			s.tellPorts(n)
		}
	}
}

// follow has networks follow what is new of the cluster.
func (s *sharing) follow(c cluster.Changes) {
	news := make(map[string]live.News)
	for _, g := range c.Guests {
		n := news[g.Network]
		n.Cards = true
		news[g.Network] = n
		s.renamed[g.Network] = true
	}
	for _, name := range c.Names {
		s.renamed[name.Network] = true
	}
	for _, a := range c.Addresses {
		s.renamed[a.Network] = true
	}
	for _, n := range s.networks() {
		is := news[n.Name()]
		is.Peers, is.Pool = c.Peers, c.Pools || len(c.Conceded) > 0
		if is != (live.News{}) {
			live.FollowCluster(n, is)
		}
	}
	s.adopted = append(s.adopted, c.Adopted...)
	s.adopt()
	for _, a := range c.GivenUp {
		s.giveUp(a)
	}
	for _, b := range c.Conceded {
		s.env.Logger.Warn("addresses of this host are another's since the cluster was restored", "cluster", s.c.Name, env.KeyNetwork, b.Network, "block", b.Prefix.String())
	}
	for _, name := range c.Networks {
		s.untold[name] = ""
	}
	if st := s.c.Member.Status(); c.State && st.Phase != s.phase {
		if s.phase = st.Phase; s.phase == cluster.Joined {
			s.compare()
		}
		s.env.Logger.Info("cluster "+string(st.Phase), "cluster", s.c.Name, "revision", st.Revision)
	}
}

// compare has all definitions of the cluster be compared with this host's.
func (s *sharing) compare() {
	for _, name := range s.c.Member.Defined() {
		s.untold[name] = ""
	}
	for _, n := range s.networks() {
		if _, revision := s.c.Member.Definition(n.Name()); revision != 0 || !n.Persistent() {
			continue
		}
		if _, told := s.untold[n.Name()]; !told {
			s.c.SetProblem(n.Name(), errors.New("it is defined on this host alone: define it again, or undefine it"))
		}
	}
}

// receive makes networks what the cluster has them be, where that is new or retry says so.
func (s *sharing) receive(retry bool) {
	if s.c.Member.Status().Phase != cluster.Joined {
		return
	}
	for name := range s.c.Problems() {
		if _, told := s.untold[name]; told {
			continue
		}
		if n := s.find(name); n == nil || !s.shares(n) {
			s.c.SetProblem(name, nil) // of a network that is gone
		}
	}
	ctx := member.Received(s.env.Tasks.Context())
	for name, why := range s.untold {
		if why != "" && !retry {
			continue // it can't be as long as nothing else has changed
		}
		err := s.receiveOne(ctx, name)
		if s.c.SetProblem(name, err); err == nil {
			delete(s.untold, name)
			continue
		}
		if s.untold[name] = err.Error(); err.Error() != why {
			s.env.Logger.Warn("a network is not what its cluster says", "cluster", s.c.Name, env.KeyNetwork, name, env.KeyError, err)
		}
	}
}

// receiveOne makes a network what the cluster has it be. One that is not the cluster's on this host
// is left alone.
func (s *sharing) receiveOne(ctx context.Context, name string) error {
	_, revision := s.c.Member.Definition(name)
	n := s.find(name)
	if n != nil && !s.shares(n) {
		switch own := n.Definition(); {
		case revision == 0 || s.c.Apart(name):
			return nil
		case own == nil || !s.c.Resumes(own):
			return api.Errorf(api.Exists, "this host has a network of its own by that name: rename or undefine that")
		}
	}
	if had := s.had(name); had != nil && s.env.Clusters.Of(had) == s.c && s.c.Left(had) {
		s.env.Logger.Info("the network is not on this host any more, as another host says", env.KeyNetwork, name, "cluster", s.c.Name)
		if err := n.Undefine(ctx); err != nil {
			return err
		}
	}
	if revision == 0 {
		return nil
	}
	return s.take(ctx, name)
}

// take has this host have a network that the cluster has, if it is on this host.
func (s *sharing) take(ctx context.Context, name string) error {
	var autostart, here bool
	err := s.define(ctx, func() (doc *netdef.Network, opts api.DefineOptions, err error) {
		doc, autostart, here, err = s.received(name)
		if n := s.find(name); doc != nil && n != nil && (s.halfway[name] || s.shares(n) != (s.env.Clusters.Of(doc) == s.c)) {
			opts.Apply = api.ApplySpan
		}
		return doc, opts, err
	})
	n := s.find(name)
	if err != nil || n == nil {
		return err
	}
	delete(s.halfway, name)
	if !here {
		return api.Errorf(api.Conflict, "this host is not among the network's hosts any more, on which its guests can't be reached from here: stop it")
	}
	if n.Info().Autostart == autostart {
		return nil
	}
	if err := live.MarkAutostart(ctx, n, autostart); err != nil || !autostart || n.Info().Active {
		return err
	}
	s.startSoon(ctx, n)
	return nil
}

// had is this host's definition of a network, nil for none.
func (s *sharing) had(name string) *netdef.Network {
	if n := s.find(name); n != nil {
		return n.Definition()
	}
	return nil
}

// received is the definition of a network that the cluster has; nil where this host has it. here
// says whether this host is one of its hosts; nil as well where not.
func (s *sharing) received(name string) (doc *netdef.Network, autostart, here bool, err error) {
	had := s.had(name)
	doc, autostart, err = s.c.Received(name, had, s.read)
	if err != nil || doc == nil || had != nil && member.Same(had, doc) && !s.halfway[name] {
		return nil, autostart, doc != nil, err
	}
	if had == nil && doc.Bridge.Name != "" {
		_, err := s.env.Links.Lookup(doc.Bridge.Name)
		if err == nil || slices.ContainsFunc(s.definitions(nil), func(o *netdef.Network) bool { return o.Bridge.Name == doc.Bridge.Name }) {
			doc.Bridge.Name = "" // another one is free
		}
	}
	return doc, autostart, true, nil
}

// tellNames has DNS follow the names of guests on other hosts.
func (s *sharing) tellNames() {
	for name := range s.renamed {
		if n := s.find(name); n != nil && s.shares(n) {
			live.FollowCluster(n, live.News{Names: true})
		}
	}
	clear(s.renamed)
}

// serverOf is the server that gives an address, nil where none is open.
func serverOf(n *live.Network, a netip.Addr) *dhcpd.Server {
	open := n.Services().Servers()
	switch {
	case a.Is4() && open.DHCP != nil:
		return &open.DHCP.Server
	case !a.Is4() && open.DHCP6 != nil:
		return &open.DHCP6.Server
	}
	return nil
}

// adopt has DHCP take over leases of guests that moved here, or that the disk has lost. What
// it does not serve now is tried again; what it refuses is no promise of this host's.
func (s *sharing) adopt() {
	var later []cluster.Address
	for _, a := range s.adopted {
		l, there := s.c.Lease(a)
		n := s.find(a.Network)
		if !there {
			continue
		}
		if n == nil || !l.BoundAt(time.Now()) || !s.shares(n) && !s.isResumed(n) {
			s.c.Forsake(a)
			continue
		}
		if !s.shares(n) {
			later = append(later, a) // once it is the cluster's again
			continue
		}
		srv := serverOf(n, a.Addr)
		if srv == nil {
			if n.Live() != nil {
				later = append(later, a)
			} else {
				s.c.Forsake(a)
			}
			continue
		}
		taken, refused, err := srv.Import(s.env.Tasks.Context(), []dhcpd.Lease{l})
		if err != nil {
			later = append(later, a)
		} else if taken == 0 {
			s.env.Logger.Warn("a lease of a guest that moved here is not taken over", env.KeyNetwork, a.Network, env.KeyMAC, net.HardwareAddr(l.MAC).String(), "ip", a.Addr, "reason", refused)
			s.c.Forsake(a)
		}
	}
	s.adopted = later
}

// isResumed reports whether a network of this host's own is about to be the cluster's.
func (s *sharing) isResumed(n *live.Network) bool {
	own := n.Definition()
	return own != nil && s.c.Resumes(own)
}

// giveUp has DHCP end a lease that is another host's by now.
func (s *sharing) giveUp(a cluster.Address) {
	s.env.Logger.Warn("the address of a guest is another host's since the cluster was restored", env.KeyNetwork, a.Network, "ip", a.Addr)
	n := s.find(a.Network)
	if n == nil {
		return
	}
	if srv := serverOf(n, a.Addr); srv != nil {
		srv.Revoke(a.Addr)
		return
	}
	if err := s.env.Store.Leases(n.Info().UUID).Commit(nil, []netip.Addr{a.Addr}); err != nil {
		s.env.Logger.Error("a lease that is another host's is kept", env.KeyNetwork, a.Network, env.KeyError, err)
	}
}
