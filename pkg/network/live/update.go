package live

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/change"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/forward"
	"github.com/vnetd/vnetd/pkg/network/host"
	"github.com/vnetd/vnetd/pkg/network/member"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/service"
	"github.com/vnetd/vnetd/pkg/network/translate"
	"github.com/vnetd/vnetd/pkg/store"
)

// edit is a change of a network's documents. But for restart, its methods are called
// by who has the turn.
type edit struct {
	turn
	live, def         *netdef.Network // what the network is and will be; nil for none
	nextLive, nextDef *netdef.Network // what it shall be; the same where that stays
	parts             bool            // it may be none of its cluster's any more
}

// Define makes def the network's definition. An active network becomes what how
// says of it: in place, where no port loses its link, and traffic that both
// documents allow goes on; with api.ApplyAll by a restart where that can't be. When it
// fails, nothing is changed.
func (n *Network) Define(ctx context.Context, def *netdef.Network, how api.Apply) error {
	if err := n.Begin(); err != nil {
		return err
	}
	live := n.Live()
	e := edit{turn: turn{n}, live: live, def: n.Definition(), nextLive: live, nextDef: def, parts: how == api.ApplySpan}
	restart := live != nil && how == api.ApplyAll && change.Check(live, def) != nil
	var err error
	if restart {
		err = e.restartable()
	} else {
		e.nextLive = e.atOnce(how)
	}
	if err == nil {
		err = e.apply(ctx)
	}
	n.op.Unlock()
	if err != nil || !restart {
		return err
	}
	return e.restart(ctx)
}

// Foresee returns what the active network would become at once if def became its
// definition, and what is in the way of its subnets. It changes nothing.
func (n *Network) Foresee(def *netdef.Network) (next *netdef.Network, inTheWay error) {
	e := edit{turn: turn{n}, live: n.Live(), nextDef: def}
	if e.live == nil {
		return def, nil // it has just stopped
	}
	return e.atOnce(api.ApplyHarmless), e.newSubnets(def)
}

// atOnce is what an active network becomes at once when its definition becomes
// e.nextDef: e.live itself where nothing changes now.
func (e *edit) atOnce(how api.Apply) *netdef.Network {
	if e.live == nil || how == api.ApplyNothing {
		return e.live
	}
	next := change.WithHeld(e.nextDef, e.live)
	var meant []string
	if how == api.ApplySpan {
		meant = []string{change.PathSpan}
	}
	if how != api.ApplyAll {
		ports := e.ports.Documents(e.Network)
		next = change.Harmless(e.live, e.nextDef, func(doc *netdef.Network) bool {
			return doc.Runnable() == nil && change.Check(e.live, doc) == nil && e.newSubnets(doc) == nil &&
				translate.CheckPortFloors(doc, ports) == nil
		}, meant...)
	}
	if bytes.Equal(next.XML(), e.live.XML()) {
		return e.live
	}
	return next
}

// apply makes the network's documents what they shall be.
func (e *edit) apply(ctx context.Context) error {
	if e.nextLive != e.live {
		if err := errors.Join(change.Check(e.live, e.nextLive), e.inUse()); err != nil {
			return err
		}
	}
	// The copy first: a definition that is there alone would be taken for what the
	// network is.
	if err := e.keepCopy(documents{e.nextLive, e.nextDef}); err != nil {
		return err
	}
	joining, err := e.join(ctx)
	if err != nil {
		return errors.Join(err, e.keepCopy(documents{e.live, e.def}))
	}
	if e.nextDef != e.def {
		err = e.publish(ctx)
		if err == nil {
			err = e.env.Store.SaveDefinition(e.nextDef)
		}
	}
	if err != nil {
		return errors.Join(err, e.unjoin(ctx, joining), e.keepCopy(documents{e.live, e.def}))
	}
	if err := e.applyLive(ctx); err != nil {
		if joining != nil {
			err = errors.Join(err, joining.Withdraw(context.WithoutCancel(ctx), e.env.Clusters, e.nextDef))
		}
		if e.nextDef != e.def {
			err = errors.Join(err, e.restoreDefinition())
		}
		return errors.Join(err, e.unjoin(ctx, joining), e.keepCopy(documents{e.live, e.def}))
	}
	setDefinition(e.Network, e.nextDef)
	if joining != nil {
		joining.End(true)
		e.env.Logger.Info("the network is one of its cluster's", env.KeyNetwork, e.name, "cluster", e.nextDef.Span.Cluster)
	}
	e.Changed()
	return nil
}

// publish tells the hosts of a cluster what the network is by its next definition: one of theirs,
// or none any more.
func (e *edit) publish(ctx context.Context) error {
	had := cmp.Or(e.def, e.live)
	if !e.env.Clusters.Parts(e.nextDef, had) {
		return e.env.Clusters.Publish(ctx, e.nextDef, e.def, e.Info().Autostart)
	}
	if !e.parts {
		return api.Errorf(api.Conflict, "network/vnetd:span: network %q is one on the hosts of cluster %s: \"vnetctl unspan %[1]s\" makes it each host's own", e.name, had.Span.Cluster)
	}
	return errors.Join(e.env.Clusters.Part(ctx, e.nextDef, had), e.env.Clusters.Publish(ctx, e.nextDef, nil, e.Info().Autostart))
}

// join has a network of this host's own, active or not, become one of its cluster's as far as
// addresses go, before the other hosts hear of it: its leases are of blocks of this host's, and new
// ones will be. It returns nil where there is nothing to do.
func (e *edit) join(ctx context.Context) (*member.Joining, error) {
	next := e.nextLive
	if e.live == nil {
		next = e.nextDef
	}
	if !joins(e.env, next, e.live, e.def) {
		return nil, nil
	}
	leases, err := e.given()
	if err != nil {
		return nil, err
	}
	if e.live != nil && e.env.Tunnels != nil {
		if err := inTheWay(e.env, e.env.Clusters.Resolve(next)); err != nil {
			return nil, err
		}
	}
	j, err := e.env.Clusters.Join(ctx, next, leases)
	if err != nil {
		return nil, err
	}
	if e.live != nil {
		err = reserve(ctx, e.turn, e.live, e.Services(), true)
	}
	servers := e.Services().Servers()
	if servers.DHCP == nil {
		j.Begin(true, leases)
	}
	if servers.DHCP6 == nil {
		j.Begin(false, leases)
	}
	if err == nil {
		err = j.Covered(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, e.unjoin(ctx, j))
	}
	return j, nil
}

// given are the leases that the network has given.
func (e *edit) given() (all []dhcpd.Lease, err error) {
	held, err := e.Leases()
	return leasesOf(held), err
}

// unjoin takes back what join did, if it did anything: the network, which is e.live again, gives
// all addresses of its ranges.
func (e *edit) unjoin(ctx context.Context, j *member.Joining) error {
	if j == nil {
		return nil
	}
	j.End(false)
	if e.live == nil {
		return nil
	}
	return reserve(context.WithoutCancel(ctx), e.turn, e.live, e.Services(), true)
}

// applyLive makes e.nextLive, of which change.Check was asked, what the network is. When
// a step fails, the network is e.live again. One that is not transient any more is
// recorded so.
func (e *edit) applyLive(ctx context.Context) error {
	if e.nextLive == e.live {
		if e.live != nil && e.def == nil && e.nextDef != nil {
			return e.record.Save(store.Run{Phase: store.Active, Network: e.live, Persistent: true})
		}
		return nil
	}
	release, err := e.others.Claim(e.Network, e.nextLive, e.live)
	if err != nil {
		return err
	}
	defer release()
	if err := errors.Join(e.newSubnets(e.nextLive), translate.CheckPortFloors(e.nextLive, e.ports.Documents(e.Network))); err != nil {
		return err
	}
	if err := forward.Clash(e.nextLive, e.live); err != nil {
		return err
	}
	next := e.nextLive.Clone()
	run := store.Run{Phase: store.Active, Network: next, Persistent: e.nextDef != nil || e.Persistent()}
	if err := e.record.Save(run); err != nil {
		return err
	}
	err = e.ensureServed(ctx, next)
	if err == nil {
		err = e.env.RunHook(ctx, env.HookUpdated, next)
	}
	if err != nil {
		run.Network, run.Persistent = e.live, e.Persistent()
		err = fmt.Errorf("changing network %q in place: %w", e.name, err)
		return errors.Join(err, e.record.Save(run), e.ensureServed(context.WithoutCancel(ctx), e.live))
	}
	e.env.Logger.Info("network changed in place", env.KeyNetwork, e.name, env.KeyBridge, next.Bridge.Name)
	e.Changed()
	return nil
}

// inUse refuses to take an interface out of the pool of an active network on which ports
// are: virNetworkDefUpdateForwardInterface of libvirt.
func (e *edit) inUse() error {
	if e.live == nil || e.nextLive == nil || !onParent(e.live) || e.live.Forward == nil {
		return nil
	}
	uses, _ := port.Uses(e.ports.Registry(), e.name)
	for _, dev := range e.live.Forward.Interfaces {
		if uses[dev] > 0 && !slices.Contains(e.nextLive.Forward.Interfaces, dev) {
			return api.Errorf(api.InvalidState, "unable to delete interface '%s' in network '%s'. It is currently being used by %d domains.", dev, e.name, uses[dev])
		}
	}
	return nil
}

// restoreDefinition puts back the definition that the network had, nil for none.
func (e *edit) restoreDefinition() error {
	if e.def == nil {
		_, err := e.env.Store.DeleteDefinition(e.name)
		return err
	}
	return e.env.Store.SaveDefinition(e.def)
}

// newSubnets refuses a subnet of next that e.live has not when another active network
// or the host already has it.
func (e *edit) newSubnets(next *netdef.Network) error {
	if err := e.others.SubnetsTaken(e.Network, next, e.live); err != nil {
		return err
	}
	for i := range next.IPs {
		p := next.IPs[i].Prefix()
		if slices.ContainsFunc(e.live.IPs, func(ip netdef.IP) bool { return ip.Prefix().Masked() == p.Masked() }) {
			continue
		}
		if err := host.SubnetConflict(e.env.Links, p, i+1); err != nil {
			return err
		}
	}
	return nil
}

// ensureServed is ensure of the active network as next, and of its services.
func (e *edit) ensureServed(ctx context.Context, next *netdef.Network) error {
	index, err := e.ensure(ctx, next)
	if err != nil {
		return err
	}
	was := e.change(func(a *active) { a.doc, a.ifindex = next, index })
	tunnels{e.turn}.note(next)
	defer e.PortsChanged()
	defer e.others.PeersChanged()
	// Sockets on a bridge that was gone, and is made anew, hear nothing any more.
	err = reserve(ctx, e.turn, next, was.services, was.ifindex == index)
	lend(ctx, e.turn, next)
	return err
}

// reserve has the network serve next in the place of what sv serves, by the sockets of that where
// they hear something.
func reserve(ctx context.Context, n turn, next *netdef.Network, sv *service.Set, there bool) (err error) {
	if there && sv.Reconfigure(n.serviceSpec(next)) {
		return nil
	}
	// Other sockets are needed. Those that stay the same are handed on, with what waits in
	// them; the others may have the ports, and go first.
	var left *service.Left
	if there {
		leaving, cancel := context.WithTimeout(ctx, leaveLimit)
		left = sv.Leave(leaving)
		cancel()
	}
	defer left.Close()
	sv.Stop()
	sv, err = n.openServices(next, left)
	if err != nil {
		sv = n.newServices(next, nil)
	}
	n.serve(sv)
	return err
}

// restartable refuses a definition that could not be started after e.live has stopped,
// as far as that can be known before.
func (e *edit) restartable() error {
	if err := errors.Join(translate.Unsupported(e.nextDef), e.newSubnets(e.nextDef)); err != nil {
		return err
	}
	if e.live.Bridge.Name == e.nextDef.Bridge.Name {
		return nil
	}
	return host.BridgeConflict(e.env.Links, e.nextDef)
}

// restart stops the active network, and starts it as its definition says now. When that
// fails, it is e.live again, with the definition that it had before. Its ports find
// their bridge again.
func (e *edit) restart(ctx context.Context) error {
	// From here on it is done, whoever hangs up.
	ctx = context.WithoutCancel(ctx)
	stopped := e.Stop(ctx)
	if kind, _ := api.KindOf(stopped); kind == api.InvalidState {
		stopped = nil // somebody else was quicker
	}
	err := e.Start(ctx)
	if err == nil || e.Live() != nil {
		return nil
	}
	err = fmt.Errorf("restarting network %q: %w", e.name, errors.Join(err, stopped))
	back := e.StartAs(ctx, func() *netdef.Network { return e.live })
	if saved := e.restoreDefinition(); saved != nil {
		return errors.Join(err, back, saved)
	}
	setDefinition(e.Network, e.def)
	if e.def == nil && back != nil {
		e.others.Drop(e.Network)
	}
	e.Changed()
	return errors.Join(err, back)
}

// Target says which of a network's documents an update changes. The values are
// libvirt's virNetworkUpdateFlags; they can be joined by or.
type Target uint32

// The targets.
const (
	TargetCurrent Target = 0 // what the network is while it is active, its definition otherwise
	TargetLive    Target = 1 // what it is
	TargetConfig  Target = 2 // what it will be at its next start
)

// Update changes one entry of the network, in place where it is active. Where
// both documents are asked for, each is changed by itself, and neither when one
// can't be.
func (n *Network) Update(ctx context.Context, u netdef.Update, target Target) error {
	live := n.Live()
	if target&TargetConfig == 0 && live != nil && live.Span != nil && live.Span.Cluster != "" && n.Definition() != nil {
		return api.Errorf(api.Unsupported, "network %q: what all hosts of a cluster share can't differ on this one: update its definition as well (virsh net-update --live --config)", n.name)
	}
	return n.Edit(ctx, target, func(doc *netdef.Network) error { return doc.Update(u) })
}

// Edit is Update by a function that changes a document: it gets a copy.
func (n *Network) Edit(ctx context.Context, target Target, change func(*netdef.Network) error) error {
	if err := n.Begin(); err != nil {
		return err
	}
	defer n.op.Unlock()
	live, def := n.Live(), n.Definition()
	if target == TargetCurrent {
		target = TargetConfig
		if live != nil {
			target = TargetLive
		}
	}
	e := edit{turn: turn{n}, live: live, def: def}
	if err := e.check(target); err != nil {
		return err
	}
	var err error
	if e.nextLive, err = updated(live, change, target&TargetLive != 0); err != nil {
		return err
	}
	if e.nextDef, err = updated(def, change, target&TargetConfig != 0); err != nil {
		return err
	}
	return e.apply(ctx)
}

// check refuses to update what the network has not.
func (e *edit) check(target Target) error {
	switch {
	case target&^(TargetLive|TargetConfig) != 0:
		return api.Errorf(api.Invalid, "flags: %#x is not known, want %d (live), %d (config), both or neither", target, TargetLive, TargetConfig)
	case target&TargetLive != 0 && e.live == nil:
		return api.Errorf(api.InvalidState, "network %q is not active", e.name)
	case target&TargetConfig != 0 && e.def == nil && !e.Persistent():
		return api.Errorf(api.InvalidState, "network %q is transient: it has no definition to update", e.name)
	}
	if target&TargetConfig != 0 {
		return e.readable()
	}
	return nil
}

// updated is doc with a change, or doc itself where that is not wanted.
func updated(doc *netdef.Network, change func(*netdef.Network) error, wanted bool) (*netdef.Network, error) {
	if !wanted {
		return doc, nil
	}
	next := doc.Clone()
	if err := change(next); err != nil {
		return nil, err
	}
	return next, nil
}

// readable refuses to change a definition whose file an admin has changed to something
// that can't be read: it would be lost.
func (e *edit) readable() error {
	if f := e.env.Unusable.Definition(e.name); f != nil {
		return api.Errorf(api.InvalidState, "network %q: its definition can't be used: mend %s, then reload, or define it anew: %w", e.name, f.Path, f.Err)
	}
	if e.Definition() == nil && e.Persistent() {
		return e.noDefinition()
	}
	return nil
}

// Rename has an inactive network that is defined go on under another name, with its UUID and
// all that goes by it, its mark for autostart and its ports. It is another Network then, and
// n is gone. A crash leaves one of the two, and an error n. No other network is defined or
// undefined meanwhile, and none has the name. InvalidState for an active network, as its
// guests and the host know it by its name, for one of a cluster, as other hosts do, and for one
// without a definition that can be used;
// Invalid for a name that can't be one.
func Rename(ctx context.Context, n *Network, name string) (*Network, error) {
	if err := n.Begin(); err != nil {
		return nil, err
	}
	defer n.End()
	info := n.Info()
	switch {
	case info.Active:
		return nil, api.Errorf(api.InvalidState, "network %q is active: stop it to rename it", n.name)
	case !info.Persistent:
		return nil, api.Errorf(api.InvalidState, "network %q is transient: it has no definition to rename", n.name)
	}
	if err := (&edit{turn: turn{n}}).readable(); err != nil {
		return nil, err
	}
	def := n.Definition().Clone()
	if span := def.Span; span != nil && span.Cluster != "" {
		return nil, api.Errorf(api.InvalidState, "network %q is one on the hosts of cluster %s, which know it by its name: define one of another name, and undefine this one", n.name, span.Cluster)
	}
	def.Name = name
	if err := errors.Join(def.Validate(), n.env.Unusable.Refuse(def)); err != nil {
		return nil, err
	}
	if err := (turn{n}).clearLeftover(ctx); err != nil {
		return nil, err
	}
	if err := n.env.Store.RenameDefinition(n.name, def, info.Autostart); err != nil {
		return nil, err
	}
	by := New(n.env, n.ports, n.others, def)
	by.Load(def, info.Autostart)
	n.setAutostart(false)
	n.env.Logger.Info("network renamed", env.KeyNetwork, n.name, "to", name)
	n.others.Replace(n, by)
	setDefinition(n, nil)
	return by, nil
}

// ForeseeJoin is what of its cluster is in the way of a network of this host's own, known, that
// becomes one of it as def says.
func ForeseeJoin(e *env.Environment, def *netdef.Network, known *Network) error {
	if known == nil || !joins(e, def, known.Live(), known.Definition()) {
		return nil
	}
	held, err := known.Leases()
	return errors.Join(err, e.Clusters.Foresee(def, leasesOf(held)))
}

// joins reports whether a network becomes one of its cluster's as next says: it was none as it is
// active, or else as it is defined; either may be nil.
func joins(e *env.Environment, next, active, defined *netdef.Network) bool {
	return e.Clusters.Joins(next, active) || active == nil && e.Clusters.Joins(next, defined)
}
