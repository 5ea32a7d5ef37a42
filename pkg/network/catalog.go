package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/attach"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/health"
	"github.com/vnetd/vnetd/pkg/network/live"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// catalog is the networks that there are, with their environment and their ports, and
// what keeps one from becoming what it shall be. Its methods may be called concurrently.
type catalog struct {
	env    *env.Environment
	ports  *attach.Ports
	health *health.Board

	defining sync.Mutex // one definition at a time: conflicts are checked against all others

	mu      sync.Mutex // guards what follows
	byName  map[string]*Network
	byUUID  map[string]*Network // in lower case: those that were asked for, if they still are theirs
	sorted  []*Network          // all of them, by name, never changed; nil: they are others by now
	bridges *onBridges          // of sorted; nil: there are none yet

	// claims are the documents of networks that are about to become active, or another
	// than they are.
	claiming sync.Mutex // guards claims
	claims   map[*Network]*netdef.Network
}

// startLimit bounds how many networks start at a time.
const startLimit = 16

// newCatalog is that of no network yet.
func newCatalog(e *env.Environment) *catalog {
	c := &catalog{env: e, byName: make(map[string]*Network), byUUID: make(map[string]*Network), claims: make(map[*Network]*netdef.Network)}
	c.ports = attach.New(e, surroundings{c})
	c.health = health.NewBoard(e.Logger, c.conditionsChanged)
	return c
}

// surroundings is the catalog as its networks and their ports see it.
type surroundings struct{ c *catalog }

func (s surroundings) Claim(n *Network, doc, has *netdef.Network) (release func(), err error) {
	return s.c.claim(n, doc, has)
}

func (s surroundings) SubnetsTaken(n *Network, doc, has *netdef.Network) error {
	return s.c.subnetsTaken(n, doc, has)
}

func (s surroundings) Drop(n *Network) { s.c.drop(n) }

func (s surroundings) Replace(n, by *Network) { s.c.replace(n, by) }

func (s surroundings) PortEnded(n attach.Network, uuid string) { Forwards{s.c}.portEnded(n, uuid) }

func (s surroundings) Expect(ctx context.Context, n attach.Network) error {
	if n := s.c.find(n.Name()); n != nil {
		return live.Expect(ctx, n)
	}
	return nil
}

func (s surroundings) Peers(live *netdef.Network) []firewall.Peer {
	return Peerings{s.c}.peers(live)
}

func (s surroundings) PeersChanged() { Peerings{s.c}.changed() }

func (s surroundings) Conditions() []api.Condition { return s.c.health.Conditions() }

func (s surroundings) Undefine(f func() error) error {
	s.c.defining.Lock()
	defer s.c.defining.Unlock()
	if err := f(); err != nil {
		return err
	}
	s.c.sweepLeases()
	return nil
}

func (s surroundings) Named(name string) attach.Network {
	if n := s.c.find(name); n != nil {
		return n
	}
	return nil
}

func (s surroundings) OnBridge(index int) attach.Network {
	if on := s.c.onBridges().at[index]; len(on) > 0 {
		return on[len(on)-1]
	}
	return nil
}

func (s surroundings) AllOnBridge(index int) (all []attach.Network) {
	for _, n := range s.c.onBridges().at[index] {
		all = append(all, n)
	}
	return all
}

func (s surroundings) Each(f func(n attach.Network)) {
	for _, n := range s.c.all() {
		f(n)
	}
}

// conditionsChanged tells subscribers, also of what is known of the networks
// concerned.
func (c *catalog) conditionsChanged(concerned []string) {
	c.env.Events.Publish(env.Event{Kind: env.ConditionsChanged})
	for _, name := range concerned {
		if n := c.find(name); n != nil {
			n.Changed()
		}
	}
}

// make makes the inactive network that doc names, which is not in c yet.
func (c *catalog) make(doc *netdef.Network) *Network {
	return live.New(c.env, c.ports, surroundings{c}, doc)
}

// uuid finds a network by its UUID, in any case; nil for none.
func (c *catalog) uuid(uuid string) *Network {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := strings.ToLower(uuid)
	is := func(n *Network) bool { return strings.EqualFold(n.Document().UUID, uuid) }
	if n := c.byUUID[key]; n != nil && c.byName[n.Name()] == n && is(n) {
		return n
	}
	delete(c.byUUID, key)
	all := sortedOf(c)
	if i := slices.IndexFunc(all, is); i >= 0 {
		c.byUUID[key] = all[i]
		return all[i]
	}
	return nil
}

// remove takes a network out, unless another has its name by now.
func (c *catalog) remove(n *Network) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byName[n.Name()] == n {
		delete(c.byName, n.Name())
		delete(c.byUUID, strings.ToLower(n.Document().UUID))
		c.sorted = nil
	}
}

// all lists every network, by name. The list must not be changed.
func (c *catalog) all() []*Network {
	c.mu.Lock()
	defer c.mu.Unlock()
	return sortedOf(c)
}

// sortedOf is all of c for who holds c.mu.
func sortedOf(c *catalog) []*Network {
	if c.sorted == nil {
		c.sorted = slices.SortedFunc(maps.Values(c.byName), func(a, b *Network) int { return strings.Compare(a.Name(), b.Name()) })
		c.bridges = nil
	}
	return c.sorted
}

// where lists the networks of which is is true, by name.
func (c *catalog) where(is func(n *Network) bool) (some []*Network) {
	for _, n := range c.all() {
		if is(n) {
			some = append(some, n)
		}
	}
	return some
}

// find returns the network of that name, nil when there is none.
func (c *catalog) find(name string) *Network {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.byName[name]
}

func (c *catalog) add(n *Network) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byName[n.Name()] = n
	c.sorted = nil
}

// network is the network that doc describes: a defined one, or, made
// here, a transient one that only its run-state still knows.
func (c *catalog) network(doc *netdef.Network) *Network {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.byName[doc.Name]
	if n == nil {
		n = c.make(doc)
		c.byName[n.Name()] = n
		c.sorted = nil
	}
	return n
}

// eachLive calls f with every active network.
func (c *catalog) eachLive(f func(n *Network, live *netdef.Network)) {
	for _, n := range c.all() {
		if doc := n.Live(); doc != nil {
			f(n, doc)
		}
	}
}

// owns reports whether the network with that UUID is active, or being started or stopped.
func (c *catalog) owns(uuid string) bool {
	n := c.uuid(uuid)
	return n != nil && n.Standing()
}

// definitions lists what every network is, active or defined, except one.
func (c *catalog) definitions(except *Network) []*netdef.Network {
	var defs []*netdef.Network
	for _, n := range c.all() {
		if n != except {
			defs = append(defs, n.Definitions()...)
		}
	}
	return defs
}

// notFound says that no network has that name, and why it has none where a definition
// is there.
func (c *catalog) notFound(name string) error {
	if f := c.env.Unusable.Definition(name); f != nil {
		return api.Errorf(api.NotFound, "network %q is not known: its definition can't be used: mend %s, then reload: %w", name, f.Path, f.Err)
	}
	return api.Errorf(api.NotFound, "network %q does not exist", name)
}

// identify finds the network that doc is a document of, nil for a new one. The
// error is Exists where doc has the name of one network and the UUID of another,
// or, when it is strict, the name of one and no UUID
// (virNetworkObjListAssignDef). The caller holds Manager.defining.
func (c *catalog) identify(doc *netdef.Network, strict bool) (*Network, error) {
	n := c.find(doc.Name)
	switch {
	case n != nil && doc.UUID != n.Info().UUID && (doc.UUID != "" || strict):
		return nil, existsAlready(n)
	case n != nil || doc.UUID == "":
		return n, nil
	}
	if other := c.uuid(doc.UUID); other != nil {
		return nil, api.Errorf(api.Exists, "network '%s' is already defined with uuid %s", other.Name(), doc.UUID)
	}
	return nil, nil
}

// existsAlready is the error of a document whose name n has.
func existsAlready(n *Network) error {
	return api.Errorf(api.Exists, "network '%s' already exists with uuid %s", n.Name(), n.Info().UUID)
}

// complete gives parsed what it lacks (UUID, MAC address, bridge name, chosen subnets: those
// of known, the network of the same name, if there is one), and checks it
// against itself and every other network. The caller holds Manager.defining.
func (c *catalog) complete(parsed *netdef.Network, known *Network) (*netdef.Network, error) {
	def, err := c.completed(parsed, known)
	if err != nil {
		return nil, err
	}
	if err := c.conflicts(def, known); err != nil {
		return nil, err
	}
	return def, nil
}

// completed is complete without a look at others' claims.
func (c *catalog) completed(parsed *netdef.Network, known *Network) (*netdef.Network, error) {
	def := parsed.Clone()
	if known != nil {
		known.Inherit(def)
	} else if def.UUID == "" {
		def.UUID = c.env.Clusters.UUID(def)
	}
	if err := def.Runnable(); err != nil {
		return nil, err
	}
	others := c.definitions(known)
	taken := func(name string) bool {
		if slices.ContainsFunc(others, func(o *netdef.Network) bool { return o.Bridge.Name == name }) {
			return true
		}
		_, err := c.env.Links.Lookup(name)
		return err == nil
	}
	with := netdef.Completion{BridgeTaken: taken}
	if def.Chosen != "" {
		used, err := c.subnetTaken(others)
		if err != nil {
			return nil, err
		}
		with.SubnetTaken = used
	}
	if err := c.env.Clusters.Check(def); err != nil {
		return nil, err
	}
	c.number(def, known, others)
	if err := c.fitMTU(def, known); err != nil {
		return nil, err
	}
	if err := def.Complete(with); err != nil {
		return nil, err
	}
	return def, nil
}

// number gives a network of a cluster the VNI that it leaves to that: the one that it has.
func (c *catalog) number(def *netdef.Network, known *Network, others []*netdef.Network) {
	if !def.Span.Auto() {
		return
	}
	if known != nil {
		if was := known.Document().Span; was != nil && was.Cluster == def.Span.Cluster {
			def.Span.VNI = was.VNI
		}
	}
	c.env.Clusters.Number(def, func(vni int) bool {
		return slices.ContainsFunc(others, func(o *netdef.Network) bool { return o.Span != nil && o.Span.VNI == vni })
	})
}

// fitMTU has the MTU of a network that spans hosts be what the tunnel leaves of that of the
// link by which it goes, where the document says nothing and this host has the link. It is no
// more than that of the active network known, which does not span any: its guests go by that.
func (c *catalog) fitMTU(def *netdef.Network, known *Network) error {
	if def.Span == nil || def.MTU != 0 || c.env.Tunnels == nil {
		return nil
	}
	on := c.env.Clusters.Resolve(def)
	at, err := c.env.Tunnels.Underlay(translate.Underlays(on), nil)
	switch {
	case err != nil && def.Span.Cluster != "":
		at.MTU = usualMTU
	case err != nil:
		return nil // it may come; until then the usual one is assumed
	}
	def.MTU = translate.FittingMTU(on, at.MTU)
	if known != nil {
		if live := known.Live(); live != nil && live.Span == nil {
			def.MTU = min(def.MTU, cmp.Or(live.MTU, usualMTU))
		}
	}
	if err := def.Runnable(); err != nil {
		return fmt.Errorf("link %s has MTU %d, of which the tunnel to other hosts leaves too little: %w", at.Link, at.MTU, err)
	}
	return nil
}

// usualMTU is that of Ethernet.
const usualMTU = 1500

// wayOut is the length of an IPv4 or IPv6 prefix below which a route is a way to
// everything, as the halves of a default route that VPNs set.
const wayOut = 8

// subnetTaken is the question whether some of a subnet is in use: by one of the
// networks, active or not, by an address or a route of this host, or by what a network
// routes to a guest.
func (c *catalog) subnetTaken(networks []*netdef.Network) (func(netip.Prefix) bool, error) {
	nets, err := c.env.Links.HostNets()
	if err != nil {
		return nil, fmt.Errorf("looking for subnets that the host reaches: %w", err)
	}
	used := make([]netip.Prefix, 0, len(nets)+len(networks))
	for _, n := range nets {
		used = append(used, n.Prefix)
	}
	for _, n := range networks {
		for i := range n.IPs {
			used = append(used, n.IPs[i].Prefix())
		}
		for i := range n.Routes {
			used = append(used, n.Routes[i].Prefix())
		}
	}
	used = slices.DeleteFunc(used, func(p netip.Prefix) bool { return p.Bits() < wayOut })
	return func(p netip.Prefix) bool { return slices.ContainsFunc(used, p.Overlaps) }, nil
}

// claim sets the subnets of doc aside for n, until it is released: by then n is
// what doc says, or nothing came of it. The error is a conflict with the active
// network that has one of them; those that n has already, as what has says, nil for
// none, are n's.
func (c *catalog) claim(n *Network, doc, has *netdef.Network) (release func(), err error) {
	c.claiming.Lock()
	defer c.claiming.Unlock()
	if err := netdef.Overlaps(doc, has, c.activeDocuments(n)); err != nil {
		return nil, err
	}
	c.claims[n] = doc
	return func() {
		c.claiming.Lock()
		defer c.claiming.Unlock()
		delete(c.claims, n)
	}, nil
}

// activeDocuments lists what every active network is, and will soon be, except
// one. The caller holds c.claiming.
func (c *catalog) activeDocuments(except *Network) []*netdef.Network {
	var docs []*netdef.Network
	for _, n := range c.all() {
		if n == except {
			continue
		}
		for _, doc := range []*netdef.Network{n.Live(), c.claims[n]} {
			if doc != nil {
				docs = append(docs, doc)
			}
		}
	}
	return docs
}

// subnetsTaken finds subnets of doc that active networks other than n have; those that
// has, nil for none, has as well are left out.
func (c *catalog) subnetsTaken(n *Network, doc, has *netdef.Network) error {
	c.claiming.Lock()
	defer c.claiming.Unlock()
	return netdef.Overlaps(doc, has, c.activeDocuments(n))
}

// conflicts finds what keeps def from being the definition of known, nil for a new
// network: names, UUIDs and bridges of any other network, and subnets of active
// ones that known does not have already. Networks that never run at the same time
// may share a subnet.
func (c *catalog) conflicts(def *netdef.Network, known *Network) error {
	var has *netdef.Network
	if known != nil {
		has = known.Definition()
	}
	return errors.Join(netdef.Conflicts(def, c.definitions(known)), c.subnetsTaken(known, def, has))
}

// drop forgets a network that is neither defined nor active any more. The caller has
// its turn, or c.defining where nobody else can have found n yet.
func (c *catalog) drop(n *Network) {
	n.Gone()
	c.remove(n)
	c.ports.Registry().DropForeign(n.Name(), 0)
	c.env.Keeper.Forget(n.Name())
	c.env.Hooks.Forget(n.Name())
	c.env.Events.Publish(env.Event{Kind: env.NetworkUndefined, Network: n.Info()})
}

// replace is Replace of live.Others.
func (c *catalog) replace(n, by *Network) {
	c.mu.Lock()
	delete(c.byName, n.Name())
	c.byName[by.Name()] = by
	c.sorted = nil
	c.mu.Unlock()
	port.MoveForeign(c.ports.Registry(), n.Name(), by.Name())
	c.drop(n)
	c.env.Events.Publish(env.Event{Kind: env.NetworkDefined, Network: by.Info()})
	attach.Move(c.ports, n, by)
}

// sweepLeases forgets leases of networks that are gone, once they have ended. The
// caller holds c.defining, so that none of them comes back meanwhile.
func (c *catalog) sweepLeases() {
	known := make(map[string]bool)
	for _, def := range c.definitions(nil) {
		known[def.UUID] = true
	}
	if err := c.env.Store.SweepLeases(func(uuid string) bool { return known[uuid] }); err != nil {
		c.env.Logger.Warn("leases of former networks are not cleared away", env.KeyError, err)
	}
}

// startSoon starts a network that is marked for autostart, later where that fails now.
func (c *catalog) startSoon(ctx context.Context, n *Network) {
	if err := n.Start(ctx); err != nil {
		c.env.Logger.Error("autostart failed: trying again", env.KeyNetwork, n.Name(), env.KeyError, err)
		c.env.Tasks.Repeat(func() bool { return c.startAgain(n) })
	}
}

// startAgain starts a network that failed to, and reports whether it has started, or is
// no longer this function's business.
func (c *catalog) startAgain(n *Network) (done bool) {
	if info := n.Info(); info.State != api.Failed || !info.Autostart {
		return true
	}
	err := n.Start(c.env.Tasks.Context())
	if err != nil {
		c.env.Logger.Warn("autostart failed again", env.KeyNetwork, n.Name(), env.KeyError, err)
	}
	return err == nil
}
