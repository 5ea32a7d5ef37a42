package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/change"
	"github.com/vnetd/vnetd/pkg/network/host"
	"github.com/vnetd/vnetd/pkg/network/translate"
	"github.com/vnetd/vnetd/pkg/store"
)

// define makes def the network's definition. An active network becomes what how
// says of it: in place, where no port loses its link, and traffic that both
// documents allow goes on; with api.ApplyAll by a restart where that can't be. When it
// fails, nothing is changed.
func (n *Network) define(ctx context.Context, def *netdef.Network, how api.Apply) error {
	if err := n.begin(); err != nil {
		return err
	}
	live, former := n.liveNetwork(), n.definition()
	restart := live != nil && how == api.ApplyAll && change.Check(live, def) != nil
	err := n.restartable(live, def, restart)
	if err == nil {
		next := live
		if !restart {
			next = n.nextLive(live, def, how)
		}
		err = n.apply(ctx, live, former, next, def)
	}
	n.op.Unlock()
	if err != nil || !restart {
		return err
	}
	return n.restart(ctx, live, former)
}

// restoreDefinition puts back the definition that the network had, nil for none.
func (n *Network) restoreDefinition(former *netdef.Network) error {
	if former == nil {
		return n.m.cfg.Store.DeleteDefinition(n.name)
	}
	return n.m.cfg.Store.SaveDefinition(former)
}

// converge makes an active network next instead of live. When a step fails, it
// makes it live again. The caller holds n.op and has asked changeable.
func (n *Network) converge(ctx context.Context, live, next *netdef.Network, persistent bool) error {
	release, err := n.m.claim(n, next, live)
	if err != nil {
		return err
	}
	defer release()
	if err := n.newSubnets(live, next); err != nil {
		return err
	}
	next = next.Clone()
	run := store.Run{Phase: store.Active, Network: next, Persistent: persistent}
	if err := n.record.Save(run); err != nil {
		return err
	}
	err = n.become(ctx, next)
	if err == nil {
		err = n.m.hook(ctx, hookUpdated, next)
	}
	if err != nil {
		run.Network, run.Persistent = live, n.persistent()
		err = fmt.Errorf("changing network %q in place: %w", n.name, err)
		return errors.Join(err, n.record.Save(run), n.become(context.WithoutCancel(ctx), live))
	}
	n.m.log.Info("network changed in place", keyNetwork, n.name, keyBridge, next.Bridge.Name)
	n.changed()
	return nil
}

// newSubnets refuses a subnet of next that live has not when another active network
// or the host already has it.
func (n *Network) newSubnets(live, next *netdef.Network) error {
	if err := n.m.subnetsTaken(n, next, live); err != nil {
		return err
	}
	for i := range next.IPs {
		p := next.IPs[i].Prefix()
		if slices.ContainsFunc(live.IPs, func(ip netdef.IP) bool { return ip.Prefix().Masked() == p.Masked() }) {
			continue
		}
		if err := host.SubnetConflict(n.m.cfg.Links, p, i+1); err != nil {
			return err
		}
	}
	return nil
}

// become makes links, rules and services those of next.
func (n *Network) become(ctx context.Context, next *netdef.Network) error {
	index, err := n.ensure(ctx, next)
	if err != nil {
		return err
	}
	sv := n.change(func(a *active) { a.doc, a.ifindex = next, index }).services
	if sv.Reconfigure(n.serviceSpec(next)) {
		return nil
	}
	// Other sockets are needed: the old ones go first, they may have the ports.
	sv.Stop()
	sv, err = n.openServices(next)
	if err != nil {
		sv = n.newServices(next)
	}
	n.serve(sv)
	return err
}

// restartable refuses, where a restart is asked for, a definition that could not be
// started after live has stopped, as far as that can be known before. The caller
// holds n.op.
func (n *Network) restartable(live, def *netdef.Network, restart bool) error {
	if !restart {
		return nil
	}
	if err := errors.Join(translate.Unsupported(def), n.newSubnets(live, def)); err != nil {
		return err
	}
	if live.Bridge.Name == def.Bridge.Name {
		return nil
	}
	return host.BridgeConflict(n.m.cfg.Links, def)
}

// restart stops an active network, which was live, and starts it as its definition
// says now. When that fails, it is live again, with the definition that it had
// before, nil for none. Its ports find their bridge again.
func (n *Network) restart(ctx context.Context, live, former *netdef.Network) error {
	// From here on it is done, whoever hangs up.
	ctx = context.WithoutCancel(ctx)
	stopped := n.Stop(ctx)
	if KindOf(stopped) == api.InvalidState && stopped != nil {
		stopped = nil // somebody else was quicker
	}
	err := n.Start(ctx)
	if err == nil || n.liveNetwork() != nil {
		return nil
	}
	err = fmt.Errorf("restarting network %q: %w", n.name, errors.Join(err, stopped))
	back := n.start(ctx, func() *netdef.Network { return live })
	if saved := n.restoreDefinition(former); saved != nil {
		return errors.Join(err, back, saved)
	}
	n.setDefinition(former)
	if former == nil && back != nil {
		n.m.drop(n)
	}
	n.changed()
	return errors.Join(err, back)
}

// pending is what changes at a network's next start, as last asked for. Documents
// don't change once they are a network's: the same two differ in the same.
type pending struct {
	live, def *netdef.Network
	changes   []string
}

// Pending lists what of an active network its next start will change: how its
// definition differs from what it is. It is empty for any other network.
func (n *Network) Pending() []string {
	n.mu.Lock()
	p := n.pending
	def := n.def
	n.mu.Unlock()
	live := n.liveNetwork()
	if p.live == live && p.def == def {
		return slices.Clone(p.changes)
	}
	p = pending{live: live, def: def}
	if live != nil && def != nil && !bytes.Equal(live.XML(), def.XML()) {
		p.changes = change.Describe(netdef.Diff(live, def))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pending = p
	return slices.Clone(p.changes)
}

// nextLive is what an active network becomes at once when its definition becomes
// def: live itself where nothing changes now. Both may be nil. The caller holds n.op.
func (n *Network) nextLive(live, def *netdef.Network, how api.Apply) *netdef.Network {
	if live == nil || how == api.ApplyNothing {
		return live
	}
	next := def
	if how != api.ApplyAll {
		next = change.Harmless(live, def, func(doc *netdef.Network) bool {
			return doc.Runnable() == nil && change.Check(live, doc) == nil && n.newSubnets(live, doc) == nil
		})
	}
	if bytes.Equal(next.XML(), live.XML()) {
		return live
	}
	return next
}
