package network

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/health"
)

// catalog is the networks that there are, and what keeps one from becoming what it
// shall be. Its methods may be called concurrently.
type catalog struct {
	links    Links
	unusable health.Unusable

	mu     sync.Mutex // guards byName
	byName map[string]*Network

	// claims are the documents of networks that are about to become active, or another
	// than they are.
	claiming sync.Mutex // guards claims
	claims   map[*Network]*netdef.Network
}

// uuid finds a network by its UUID, in any case; nil for none.
func (c *catalog) uuid(uuid string) *Network {
	for _, n := range c.all() {
		if strings.EqualFold(n.uuid(), uuid) {
			return n
		}
	}
	return nil
}

// remove takes a network out, unless another has its name by now.
func (c *catalog) remove(n *Network) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byName[n.name] == n {
		delete(c.byName, n.name)
	}
}

func (c *catalog) all() []*Network {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.SortedFunc(maps.Values(c.byName), func(a, b *Network) int { return strings.Compare(a.name, b.name) })
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
	c.byName[n.name] = n
}

// eachLive calls f with every active network.
func (c *catalog) eachLive(f func(n *Network, live *netdef.Network)) {
	for _, n := range c.all() {
		if live := n.liveNetwork(); live != nil {
			f(n, live)
		}
	}
}

// owns reports whether the network with that UUID is active, or being started or stopped.
func (c *catalog) owns(uuid string) bool {
	n := c.uuid(uuid)
	return n != nil && n.standing()
}

// definitions lists what every network is, active or defined, except one.
func (c *catalog) definitions(except *Network) []*netdef.Network {
	var defs []*netdef.Network
	for _, n := range c.all() {
		if n != except {
			defs = append(defs, n.definitions()...)
		}
	}
	return defs
}

// notFound says that no network has that name, and why it has none where a definition
// is there.
func (c *catalog) notFound(name string) error {
	if f := c.unusable.Definition(name); f != nil {
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
	case n != nil && doc.UUID != n.uuid() && (doc.UUID != "" || strict):
		return nil, existsAlready(n)
	case n != nil || doc.UUID == "":
		return n, nil
	}
	if other := c.uuid(doc.UUID); other != nil {
		return nil, api.Errorf(api.Exists, "network '%s' is already defined with uuid %s", other.name, doc.UUID)
	}
	return nil, nil
}

// existsAlready is the error of a document whose name n has.
func existsAlready(n *Network) error {
	return api.Errorf(api.Exists, "network '%s' already exists with uuid %s", n.name, n.uuid())
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
		known.inherit(def)
	}
	if err := def.Runnable(); err != nil {
		return nil, err
	}
	others := c.definitions(known)
	taken := func(name string) bool {
		if slices.ContainsFunc(others, func(o *netdef.Network) bool { return o.Bridge.Name == name }) {
			return true
		}
		_, err := c.links.Lookup(name)
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
		for _, doc := range []*netdef.Network{n.liveNetwork(), c.claims[n]} {
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
		has = known.definition()
	}
	return errors.Join(netdef.Conflicts(def, c.definitions(known)), c.subnetsTaken(known, def, has))
}
