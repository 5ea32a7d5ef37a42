package live

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/change"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/host"
	"github.com/vnetd/vnetd/pkg/network/translate"
	"github.com/vnetd/vnetd/pkg/store"
)

// edit is a change of a network's documents. But for restart, its methods are called
// by who has the turn.
type edit struct {
	turn
	live, def         *netdef.Network // what the network is and will be; nil for none
	nextLive, nextDef *netdef.Network // what it shall be; the same where that stays
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
	e := edit{turn: turn{n}, live: live, def: n.Definition(), nextLive: live, nextDef: def}
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
	next := e.nextDef
	if how != api.ApplyAll {
		next = change.Harmless(e.live, e.nextDef, func(doc *netdef.Network) bool {
			return doc.Runnable() == nil && change.Check(e.live, doc) == nil && e.newSubnets(doc) == nil
		})
	}
	if bytes.Equal(next.XML(), e.live.XML()) {
		return e.live
	}
	return next
}

// apply makes the network's documents what they shall be.
func (e *edit) apply(ctx context.Context) error {
	if e.nextLive != e.live {
		if err := change.Check(e.live, e.nextLive); err != nil {
			return err
		}
	}
	// The copy first: a definition that is there alone would be taken for what the
	// network is.
	if err := e.keepCopy(documents{e.nextLive, e.nextDef}); err != nil {
		return err
	}
	if e.nextDef != e.def {
		if err := e.env.Store.SaveDefinition(e.nextDef); err != nil {
			return errors.Join(err, e.keepCopy(documents{e.live, e.def}))
		}
	}
	if err := e.applyLive(ctx); err != nil {
		if e.nextDef != e.def {
			err = errors.Join(err, e.restoreDefinition())
		}
		return errors.Join(err, e.keepCopy(documents{e.live, e.def}))
	}
	e.setDefinition(e.nextDef)
	e.Changed()
	return nil
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
	if err := e.newSubnets(e.nextLive); err != nil {
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

// restoreDefinition puts back the definition that the network had, nil for none.
func (e *edit) restoreDefinition() error {
	if e.def == nil {
		return e.env.Store.DeleteDefinition(e.name)
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
	sv := e.change(func(a *active) { a.doc, a.ifindex = next, index }).services
	if sv.Reconfigure(e.serviceSpec(next)) {
		return nil
	}
	// Other sockets are needed: the old ones go first, they may have the ports.
	sv.Stop()
	sv, err = e.openServices(next)
	if err != nil {
		sv = e.newServices(next)
	}
	e.serve(sv)
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
	e.setDefinition(e.def)
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
