package live

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"slices"

	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/translate"
	"github.com/vnetd/vnetd/pkg/store"
)

// Found is a network that is not inactive, by its run-state or, where that is lost, by
// what it has in the kernel.
type Found struct {
	store.Run
	Marked bool // by what it has in the kernel
	// Renamed is the ifindex of its bridge where that has another name now, 0 else.
	Renamed int
}

// Renamed finds among links that bear marks the bridge of a network that was renamed while
// no vnetd was there to see it. Of several which have the network's mark it is the
// one with the network's MAC address; 0 for none, and where that does not tell.
func Renamed(doc *netdef.Network, links []bridge.Link) int {
	all := slices.DeleteFunc(slices.Clone(links), func(l bridge.Link) bool { return !Bears(l, doc.UUID) })
	if len(all) > 1 {
		all = slices.DeleteFunc(all, func(l bridge.Link) bool { return !bytes.Equal(l.MAC, doc.MAC) })
	}
	if len(all) != 1 || all[0].Name == doc.Bridge.Name {
		return 0
	}
	return all[0].Index
}

// Former is a network as a former vnetd, or another program, left it.
type Former struct{ *Network }

// Recover deals with what a former vnetd left of the network: an active one is adopted
// as it is, a half made or half removed one is cleared away. Nothing is done where
// somebody has started or stopped it since it was found, which still denies for one that
// is known by what it has in the kernel.
func (n Former) Recover(ctx context.Context, r Found, still func() bool) {
	n.op.Lock()
	defer n.op.Unlock()
	log := n.env.Logger.With(env.KeyNetwork, n.name, env.KeyBridge, r.Network.Bridge.Name)
	if !n.stillThere(r, still) {
		return
	}
	if err := n.record.Load(r.Run); err != nil {
		log.Error("what is to be put back on the host is not known", env.KeyError, err)
	}
	n.rules.found(surroundings{forwards: n.record.Leads(), rewrites6: bridge.Rewrites6()}, n.record.Learned())
	if r.Persistent && n.Definition() == nil {
		n.setUnread()
		n.setAutostart(n.env.Store.Autostarts(n.name))
	}
	if r.Marked {
		n.record.Lose()
		if err := n.record.Save(r.Run); err != nil {
			log.Error("its run-state can't be written anew", env.KeyError, err)
		}
	}
	n.renamed = r.Renamed
	defer func() { n.renamed = 0 }()
	if r.Phase != store.Active {
		err := turn(n).finish(ctx, r.Network)
		log.Warn("cleared away a network that was being changed when vnetd ended", "phase", string(r.Phase), env.KeyError, err)
		return
	}
	turn(n).resume(ctx, r.Network)
	_ = turn(n).keepCopy(documents{n.Live(), n.Definition()})
	log.Info("network adopted", "state", string(n.Info().State))
}

// stillThere reports whether a network that was found is to be recovered: not what
// somebody has started or stopped since. The caller has the turn.
func (n Former) stillThere(r Found, still func() bool) bool {
	if n.Standing() {
		return false
	}
	if r.Marked {
		return still()
	}
	now, err := n.env.Store.Run(r.Network.UUID)
	if errors.Is(err, fs.ErrNotExist) || err == nil && now.Network.Name != n.name { // renamed and started
		if !n.Persistent() {
			n.others.Drop(n.Network)
		}
		return false
	}
	return true
}

// Departed records a port that ended while no vnetd was running: Recover has the
// services forget its guest.
func (n Former) Departed(p store.Port) {
	n.departed = append(n.departed, p)
}

// Clear takes down what a former vnetd left of the network, whatever that is.
func (n Former) Clear(ctx context.Context, r Found) error {
	n.op.Lock()
	defer n.op.Unlock()
	n.renamed = r.Renamed
	defer func() { n.renamed = 0 }()
	err := n.record.Load(r.Run)
	n.rules.found(surroundings{forwards: n.record.Leads(), rewrites6: bridge.Rewrites6()}, n.record.Learned())
	return errors.Join(err, turn(n).clear(ctx, r.Network))
}

// KeepRecord writes the network's run-state where it is not on disk, and a copy of what
// the network is where its definition says otherwise, unless somebody is about to change
// them.
func (n *Network) KeepRecord(onDisk store.Recorded) error {
	if !n.op.TryLock() {
		return nil
	}
	defer n.op.Unlock()
	live := n.Live()
	if live == nil {
		return nil
	}
	return errors.Join(n.record.Keep(onDisk.HasNetwork(live.UUID)), turn{n}.keepCopy(documents{live, n.Definition()}))
}

// TakeOver makes vnetd's what another program left active as live, with those ports.
// What fails is among refused and leaves the network degraded, never down: its guests
// are at work. With an error nothing was changed.
func (n Former) TakeOver(ctx context.Context, live *netdef.Network, ports []*netdef.Port) (refused []error, err error) {
	if err := n.Begin(); err != nil {
		return nil, err
	}
	defer n.End()
	// From here on it is done, whoever hangs up.
	ctx = context.WithoutCancel(ctx)
	if err := n.record.Save(store.Run{Phase: store.Active, Network: live, Persistent: n.Persistent()}); err != nil {
		return nil, err
	}
	for _, doc := range ports {
		if err := n.ports.TakeOver(n.Network, live.UUID, doc); err != nil {
			refused = append(refused, err)
		}
	}
	if err := errors.Join(n.ports.Bandwidth().TakeOver(live), turn(n).adopt(ctx, live), n.env.Rules.RemoveLeftovers(ctx, translate.Firewall(live))); err != nil {
		refused = append(refused, err)
	}
	_ = turn(n).keepStopped(live.UUID, nil)
	return refused, nil
}
