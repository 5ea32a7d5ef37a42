package network

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/attach"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/forward"
	"github.com/vnetd/vnetd/pkg/network/live"
)

// Forwards are the forwards of all networks. Its methods may be called concurrently.
type Forwards struct{ catalog *catalog }

// Forwards are the forwards of all networks.
func (m *Manager) Forwards() Forwards { return Forwards{m.catalog} }

// List lists those of every network.
func (f Forwards) List() (all []api.Forward) {
	for _, n := range f.catalog.all() {
		all = append(all, f.On(n)...)
	}
	return all
}

// On lists those of one network, in the order of its document.
func (f Forwards) On(n *Network) []api.Forward {
	doc, leads, all := n.Document(), forward.IndexLeads(live.Leads(n)), []api.Forward{}
	for i := range doc.PortForwards {
		all = append(all, describe(n, doc, &doc.PortForwards[i], leads))
	}
	return all
}

// describe is what one of those that doc has of n is.
func describe(n *Network, doc *netdef.Network, p *netdef.PortForward, leads forward.Leads) api.Forward {
	info := forward.Describe(doc, p, leads)
	if n.Live() == nil {
		info.State, info.Targets = api.ForwardInactive, nil
	}
	return info
}

// Find finds a forward by its UUID, in any case.
func (f Forwards) Find(uuid string) (api.Forward, error) {
	n, doc, p := f.find(uuid)
	if n == nil {
		return api.Forward{}, api.Errorf(api.NotFound, "there is no forward %.80q", uuid)
	}
	return describe(n, doc, p, forward.IndexLeads(live.Leads(n))), nil
}

// foresee is where the forwards of def would lead, which may be of a known network: as far
// as that does not depend on what guests lease.
func (f Forwards) foresee(def *netdef.Network, known *Network) []firewall.Forward {
	var former []firewall.Forward
	if known != nil {
		former = live.Leads(known)
	}
	return forward.Resolve(def, forward.Guests{Unknown: true}, former)
}

// find finds the network that has a forward, its document, and the forward there; nil for
// none.
func (f Forwards) find(uuid string) (*Network, *netdef.Network, *netdef.PortForward) {
	for _, n := range f.catalog.all() {
		doc := n.Document()
		for i := range doc.PortForwards {
			if p := &doc.PortForwards[i]; strings.EqualFold(forward.UUID(doc.UUID, p), uuid) {
				return n, doc, p
			}
		}
	}
	return nil, nil, nil
}

// Holder is the client of the bus with which the forward of that UUID ends, empty where it
// ends with none.
func (f Forwards) Holder(uuid string) string {
	_, _, p := f.find(uuid)
	if p == nil {
		return ""
	}
	if _, port := forward.HeldByPort(p); port {
		return ""
	}
	return p.Holder
}

// Count returns the forward with that UUID, with what goes on by it.
func (f Forwards) Count(uuid string) (api.Forward, error) {
	n, doc, p := f.find(uuid)
	if n == nil {
		return api.Forward{}, api.Errorf(api.NotFound, "there is no forward %.80q", uuid)
	}
	leads := forward.IndexLeads(live.Leads(n))
	info := describe(n, doc, p, leads)
	tallies, err := f.catalog.env.Rules.Connections([][]firewall.Forward{leads.Of(p)})
	if err != nil {
		return api.Forward{}, err
	}
	forward.Count(&info, tallies[0])
	return info, nil
}

// CountAll returns those of every active network, with what goes on by each.
func (f Forwards) CountAll() (all []api.Forward, err error) {
	var groups [][]firewall.Forward
	for _, n := range f.catalog.all() {
		doc := n.Live()
		if doc == nil {
			continue
		}
		leads := forward.IndexLeads(live.Leads(n))
		for i := range doc.PortForwards {
			p := &doc.PortForwards[i]
			all, groups = append(all, describe(n, doc, p, leads)), append(groups, leads.Of(p))
		}
	}
	if len(all) == 0 {
		return []api.Forward{}, nil
	}
	tallies, err := f.catalog.env.Rules.Connections(groups)
	if err != nil {
		return nil, err
	}
	for i := range all {
		forward.Count(&all[i], tallies[i])
	}
	return all, nil
}

// Add adds a forward to what n is and, unless a holder of the bus is named, with which it
// ends, to what it will be. One that is there just so is no error.
func (f Forwards) Add(ctx context.Context, n *Network, o api.ForwardOptions, holder string) (api.Forward, error) {
	p, err := forward.New(o)
	if err != nil {
		return api.Forward{}, err
	}
	p.Holder = holder
	if err := f.add(ctx, n, []netdef.PortForward{p}); err != nil {
		return api.Forward{}, err
	}
	return f.Find(forward.UUID(n.Document().UUID, &p))
}

// AddToPort adds forwards that end with a port, and lead to its guest. The error is that of
// the first that can't be; then none is added.
func (f Forwards) AddToPort(ctx context.Context, port api.Port, options []api.ForwardOptions) error {
	n := f.catalog.find(port.Network)
	if n == nil || len(options) == 0 {
		return nil
	}
	var all []netdef.PortForward
	for _, o := range options {
		p, err := forward.New(o)
		if err != nil {
			return err
		}
		forward.HoldByPort(&p, port.UUID, port.MAC)
		all = append(all, p)
	}
	if err := f.add(ctx, n, all); err != nil {
		return err
	}
	if f.catalog.ports.Registry().UUID(port.UUID) == nil {
		f.portEnded(n, port.UUID) // before they were its own
		return api.Errorf(api.NotFound, "port %s has ended", port.UUID)
	}
	return nil
}

// Rules is how many rules forwards take that are asked for.
func (f Forwards) Rules(options []api.ForwardOptions) (rules int, err error) {
	for _, o := range options {
		p, err := forward.New(o)
		if err != nil {
			return 0, err
		}
		rules += p.Rules()
	}
	return rules, nil
}

// HeldRules is how many rules the forwards take that end with a port of that user, or with a
// client of the bus that isClient says is the user's.
func (f Forwards) HeldRules(user uint32, isClient func(holder string) bool) (rules int) {
	for _, n := range f.catalog.all() {
		doc := n.Document()
		for i := range doc.PortForwards {
			p := &doc.PortForwards[i]
			its := p.Holder != "" && isClient(p.Holder)
			if uuid, held := forward.HeldByPort(p); held {
				port := f.catalog.ports.Registry().UUID(uuid)
				its = port != nil && port.Owner == user
			}
			if its {
				rules += p.Rules()
			}
		}
	}
	return rules
}

// add adds forwards that have the same holder to n.
func (f Forwards) add(ctx context.Context, n *Network, forwards []netdef.PortForward) error {
	target := TargetLive | TargetConfig
	switch held := forwards[0].Holder != ""; {
	case held || !n.Persistent():
		target = TargetLive
	case n.Live() == nil:
		target = TargetConfig
	}
	return n.Edit(ctx, target, func(doc *netdef.Network) error {
		for _, p := range forwards {
			if slices.ContainsFunc(doc.PortForwards, func(o netdef.PortForward) bool { return forward.Same(&o, &p) }) {
				continue
			}
			if i := slices.IndexFunc(doc.PortForwards, func(o netdef.PortForward) bool { return o.Clashes(&p) }); i >= 0 {
				return api.Errorf(api.Exists, "%s of network %q leads to %s already", doc.PortForwards[i].Key(), n.Name(), doc.PortForwards[i].To)
			}
			doc.PortForwards = append(doc.PortForwards, p)
		}
		if err := doc.Runnable(); err != nil {
			return api.Errorf(api.Invalid, "%w", err)
		}
		return nil
	})
}

// Release ends the forward with that UUID, in what its network is and will be.
func (f Forwards) Release(ctx context.Context, uuid string) error {
	n, _, _ := f.find(uuid)
	if n == nil {
		return api.Errorf(api.NotFound, "there is no forward %.80q", uuid)
	}
	return drop(ctx, n, func(doc *netdef.Network, p *netdef.PortForward) bool {
		return strings.EqualFold(forward.UUID(doc.UUID, p), uuid)
	})
}

// drop ends forwards of what n is and will be.
func drop(ctx context.Context, n *Network, gone func(*netdef.Network, *netdef.PortForward) bool) error {
	has := func(doc *netdef.Network) bool {
		return doc != nil && slices.ContainsFunc(doc.PortForwards, func(p netdef.PortForward) bool { return gone(doc, &p) })
	}
	target := TargetCurrent
	if has(n.Live()) {
		target |= TargetLive
	}
	if has(n.Definition()) {
		target |= TargetConfig
	}
	if target == TargetCurrent {
		return nil
	}
	return n.Edit(ctx, target, func(doc *netdef.Network) error {
		doc.PortForwards = slices.DeleteFunc(doc.PortForwards, func(p netdef.PortForward) bool { return gone(doc, &p) })
		return nil
	})
}

// portEnded ends the forwards of a port that has ended. It returns at once.
func (f Forwards) portEnded(n attach.Network, uuid string) {
	of := func(_ *netdef.Network, p *netdef.PortForward) bool {
		port, held := forward.HeldByPort(p)
		return held && port == uuid
	}
	live := n.Live()
	if live == nil || !slices.ContainsFunc(live.PortForwards, func(p netdef.PortForward) bool { return of(live, &p) }) {
		return
	}
	f.catalog.env.Tasks.Go(func() { f.end(f.catalog.find(n.Name()), of) })
}

// end ends forwards of n, which may be nil, whose holders are gone.
func (f Forwards) end(n *Network, of func(*netdef.Network, *netdef.PortForward) bool) {
	if n == nil {
		return
	}
	err := drop(f.catalog.env.Tasks.Context(), n, of)
	if kind, _ := api.KindOf(err); err != nil && kind != api.InvalidState && kind != api.NotFound { // they have ended with the network
		f.catalog.env.Logger.Error("ending forwards whose holder is gone", "network", n.Name(), "error", err)
	}
}

// sweep ends the forwards of ports that ended while no vnetd was running.
func (f Forwards) sweep() {
	for _, n := range f.catalog.all() {
		f.end(n, func(_ *netdef.Network, p *netdef.PortForward) bool {
			port, held := forward.HeldByPort(p)
			return held && f.catalog.ports.Registry().UUID(port) == nil
		})
	}
}

// listenPace is how often the host is asked which addresses guests have made for themselves.
const listenPace = 500 * time.Millisecond

// listen has forwards follow the addresses that guests make for themselves, until ctx ends.
func (f Forwards) listen(ctx context.Context) {
	env.Every(ctx, listenPace, func() {
		for _, n := range f.catalog.all() {
			live.Listen(n)
		}
	})
}

// Holders lists the clients of the bus that hold forwards.
func (f Forwards) Holders() (all []string) {
	for _, n := range f.catalog.all() {
		doc := n.Live()
		if doc == nil {
			continue
		}
		for i := range doc.PortForwards {
			p := &doc.PortForwards[i]
			if _, port := forward.HeldByPort(p); !port && p.Holder != "" && !slices.Contains(all, p.Holder) {
				all = append(all, p.Holder)
			}
		}
	}
	return all
}

// HolderGone ends the forwards that a client of the bus held.
func (f Forwards) HolderGone(holder string) {
	for _, n := range f.catalog.all() {
		f.end(n, func(_ *netdef.Network, p *netdef.PortForward) bool { return p.Holder == holder })
	}
}
