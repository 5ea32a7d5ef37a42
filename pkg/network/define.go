package network

import (
	"bytes"
	"context"
	"errors"
	"strings"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/admission"
	"github.com/vnetd/vnetd/pkg/network/announce"
	"github.com/vnetd/vnetd/pkg/network/change"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/forward"
	"github.com/vnetd/vnetd/pkg/network/host"
	"github.com/vnetd/vnetd/pkg/network/live"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// Defined is a network after a definition.
type Defined struct {
	Network *Network
	Action  api.Action
	Changes []string // of the definition it had, or of what it was without one, or where that was applied
	Pending []string // of what it is, at its next start
}

// Define is DefineWith without options.
func (m *Manager) Define(ctx context.Context, xml []byte) (*Network, error) {
	d, err := m.DefineWith(ctx, xml, api.DefineOptions{})
	return d.Network, err
}

// DefineWith makes xml the definition of a network, new or known. An active one
// becomes at once what opts.Apply says, in place; the rest is pending. Errors are
// Invalid with every fault in xml, Exists for a name or UUID that is another
// network's, or that opts forbid, and Conflict with what is in the way; nothing is
// changed then.
func (m *Manager) DefineWith(ctx context.Context, xml []byte, opts api.DefineOptions) (Defined, error) {
	parsed, err := readDocument(xml)
	if err != nil {
		return Defined{}, err
	}
	m.env.Clusters.Settle(ctx, parsed)
	return define(ctx, m, func() (*netdef.Network, api.DefineOptions, error) { return parsed, opts, nil })
}

// define is DefineWith of the document that choose returns while nothing else is defined; nil
// for none.
func define(ctx context.Context, m *Manager, choose chooser) (Defined, error) {
	m.catalog.defining.Lock()
	defer m.catalog.defining.Unlock()
	parsed, opts, err := choose()
	if parsed == nil || err != nil {
		return Defined{}, err
	}
	d, err := m.defineLocked(ctx, parsed, opts)
	if KindOf(err) == api.NotFound {
		// A transient network of that name came to its end while this waited for
		// its turn.
		d, err = m.defineLocked(ctx, parsed, opts)
	}
	if err != nil {
		return Defined{}, err
	}
	m.env.Logger.Info("network defined", env.KeyNetwork, d.Network.Name(), "action", d.Action, "pending", len(d.Pending))
	m.env.Events.Publish(env.Event{Kind: env.NetworkDefined, Network: d.Network.Info()})
	return d, nil
}

// defineLocked is DefineWith of a document. The caller holds m.catalog.defining. The error
// is NotFound where the network that had the name is just gone.
func (m *Manager) defineLocked(ctx context.Context, parsed *netdef.Network, opts api.DefineOptions) (Defined, error) {
	n, err := m.catalog.identify(parsed, opts.Strict)
	if err != nil {
		return Defined{}, err
	}
	if n == nil {
		if err := m.env.Unusable.Refuse(parsed); err != nil {
			return Defined{}, err
		}
	}
	if n != nil && opts.New {
		return Defined{}, existsAlready(n)
	}
	def, err := m.catalog.complete(parsed, n)
	if err != nil {
		return Defined{}, err
	}
	added := n == nil
	if added {
		n = m.catalog.make(def)
	}
	d, was := compare(n, def), n.Live()
	if err := n.Define(ctx, def, opts.Apply); err != nil {
		return Defined{}, err
	}
	if is := n.Live(); d.Action == api.ActionUnchanged && was != nil && is != nil && !bytes.Equal(was.XML(), is.XML()) {
		d.Action, d.Changes = api.ActionApplied, change.Describe(netdef.Diff(was, is))
	}
	if added {
		m.catalog.add(n)
	}
	d.Pending = n.Pending()
	return d, nil
}

// Clusters are what networks share with the hosts of clusters that this host is in.
func (m *Manager) Clusters() Clusters {
	one := func(ctx context.Context, choose chooser) error {
		_, err := define(ctx, m, choose)
		return err
	}
	return Clusters{m.catalog, one, readDocument}
}

// compare tells what def changes of the network.
func compare(n *Network, def *netdef.Network) Defined {
	d := Defined{Network: n, Action: api.ActionDefined}
	had := n.Definition()
	if had != nil {
		d.Action = api.ActionChanged
		if bytes.Equal(had.XML(), def.XML()) {
			d.Action = api.ActionUnchanged
		}
	} else if had = n.Live(); had == nil {
		return d
	}
	d.Changes = change.Describe(netdef.Diff(had, def))
	return d
}

// Create makes a transient network of xml and starts it: it has no definition
// and is gone when it stops. A document with the name and the UUID of an inactive
// network starts that one, whose definition stays what it is for its next start.
// A document that has only the name is refused with Exists.
func (m *Manager) Create(ctx context.Context, xml []byte) (*Network, error) {
	parsed, err := readDocument(xml)
	if err != nil {
		return nil, err
	}
	// Held until it is active and so known to other definitions.
	m.catalog.defining.Lock()
	defer m.catalog.defining.Unlock()
	m.catalog.sweepLeases() // of others that were created and are gone
	if had := m.catalog.find(parsed.Name); had != nil {
		finishNow(ctx, had)
	}
	n, err := m.catalog.identify(parsed, true)
	if err != nil {
		return nil, err
	}
	if n != nil && n.Info().Active {
		return nil, api.Errorf(api.InvalidState, "network is already active as '%s'", n.Name())
	}
	if n == nil {
		if err := m.env.Unusable.Refuse(parsed); err != nil {
			return nil, err
		}
	}
	def, err := m.catalog.complete(parsed, n)
	if err != nil {
		return nil, err
	}
	if err := m.env.Clusters.Known(def); err != nil {
		return nil, err
	}
	added := n == nil
	if added {
		n = m.catalog.make(def)
		m.catalog.add(n)
	}
	if err := n.StartAs(ctx, func() *netdef.Network { return def }); err != nil {
		if added && n.LeftBehind() == nil {
			m.catalog.drop(n)
		}
		return nil, err
	}
	return n, nil
}

// readDocument reads a document from outside, and refuses it with every fault that
// it has. A definition on disk may have some: see netdef.Network.Served. Forwards that
// somebody holds, as the document of an active network has, are nobody else's to make.
func readDocument(xml []byte) (*netdef.Network, error) {
	parsed, err := netdef.Parse(xml)
	if err == nil {
		parsed.DropHeld()
		err = parsed.Validate()
	}
	return parsed, err
}

// Plan tells what a network of that document would be, and touches nothing. What
// is in its way is in the plan, not an error; faults of the document are.
func (m *Manager) Plan(xml []byte) (api.Plan, error) {
	parsed, err := readDocument(xml)
	if err != nil {
		return api.Plan{}, err
	}
	m.catalog.defining.Lock()
	defer m.catalog.defining.Unlock()
	known, err := m.catalog.identify(parsed, false)
	if err != nil {
		return api.Plan{}, err
	}
	def, err := m.catalog.completed(parsed, known)
	if err != nil {
		return api.Plan{}, err
	}
	on := m.env.Clusters.Resolve(def)
	fw := translate.Firewall(on)
	fw.Forwards = m.Forwards().foresee(def, known)
	fw.Peers = m.Peerings().peers(def)
	fw.Policy = m.Peerings().foresee(def, known)
	p := translate.Plan(on, m.env.Rules.Rules(fw))
	leads := forward.IndexLeads(fw.Forwards)
	p.Announces, p.AnnouncesGuests = append(p.Announces, announce.Prefixes(def, nil)...), def.Announce.Guests(def.Span != nil)
	p.Opens = append(append([]string{}, admission.Describe(def)...), translate.SpanRules(on)...)
	for i := range def.PortForwards {
		p.Forwards = append(p.Forwards, forward.Describe(def, &def.PortForwards[i], leads))
	}
	if known == nil || known.Info().MAC == "" {
		// The next one that is made up is another one.
		unsettle(&p, parsed)
	}
	in := []error{translate.Unsupported(def), netdef.Conflicts(def, m.catalog.definitions(known)), host.Missing(m.env.Links, m.env.Functions, def), live.ForeseeSpan(m.env, &p, def, known), live.ForeseeJoin(m.env, def, known)}
	if known != nil {
		p.Action = "redefine"
	}
	if known != nil && known.Live() != nil {
		p.Action = "change"
		next, err := known.Foresee(def)
		in = append(in, err, forward.Clash(def, known.Live()))
		p.Pending = append(p.Pending, change.Describe(netdef.Diff(next, def))...)
	} else {
		in = append(in, m.catalog.subnetsTaken(known, def, nil), host.Conflicts(m.env.Links, m.env.UplinkKeeper, def), forward.Clash(def, nil))
	}
	if err := errors.Join(in...); err != nil {
		p.Conflicts = strings.Split(err.Error(), "\n")
	}
	return p, nil
}

// unsettle forgets what was made up for this plan alone.
func unsettle(p *api.Plan, parsed *netdef.Network) {
	if parsed.MAC == nil {
		for i := range p.Links {
			p.Links[i].MAC = ""
		}
	}
}

// finishNow reports whether nothing is left of a transient network that could not be
// taken down when it was stopped, now at the latest.
func finishNow(ctx context.Context, n *Network) bool {
	if n.LeftBehind() == nil || n.Persistent() {
		return false
	}
	err := n.Stop(ctx)
	return err == nil || KindOf(err) == api.NotFound
}
