package network

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/attach"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/health"
	"github.com/vnetd/vnetd/pkg/network/live"
)

// catalog is the networks that there are, with their environment and their ports, and
// what keeps one from becoming what it shall be. Its methods may be called concurrently.
type catalog struct {
	env    *env.Environment
	ports  *attach.Ports
	health *health.Board

	defining sync.Mutex // one definition at a time: conflicts are checked against all others

	mu     sync.Mutex // guards byName
	byName map[string]*Network

	// claims are the documents of networks that are about to become active, or another
	// than they are.
	claiming sync.Mutex // guards claims
	claims   map[*Network]*netdef.Network
}

// startLimit bounds how many networks start at a time.
const startLimit = 16

// newCatalog is that of no network yet.
func newCatalog(e *env.Environment) *catalog {
	c := &catalog{env: e, byName: make(map[string]*Network), claims: make(map[*Network]*netdef.Network)}
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
	for _, n := range c.all() {
		if strings.EqualFold(n.Info().UUID, uuid) {
			return n
		}
	}
	return nil
}

// remove takes a network out, unless another has its name by now.
func (c *catalog) remove(n *Network) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byName[n.Name()] == n {
		delete(c.byName, n.Name())
	}
}

func (c *catalog) all() []*Network {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.SortedFunc(maps.Values(c.byName), func(a, b *Network) int { return strings.Compare(a.Name(), b.Name()) })
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

// complete gives parsed what it lacks (UUID, MAC address, bridge name: those
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
	if err := def.Complete(netdef.Completion{BridgeTaken: taken}); err != nil {
		return nil, err
	}
	return def, nil
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
