package live

import (
	"context"
	"fmt"
	"time"

	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/attach"
	"github.com/vnetd/vnetd/pkg/network/drift"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/forward"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/service"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// Repair puts back at once what is missing of an active network; of an inactive one
// nothing is.
func (n *Network) Repair(ctx context.Context) error {
	return n.env.Keeper.Now(n.name, func(amend bridge.Amend) error { return n.Mend(ctx, drift.Whole, amend) })
}

// Mend puts back what is suspected of an active network and differs from what it is, as
// far as amend allows. A bridge that had to be made anew takes new sockets with it.
func (n *Network) Mend(ctx context.Context, suspected func() drift.Suspects, amend bridge.Amend) error {
	n.op.Lock()
	defer n.op.Unlock()
	live := n.Live()
	if live == nil {
		return nil
	}
	s := suspected()
	_ = turn{n}.keepCopy(documents{live, n.Definition()}) // somebody may have edited that
	index, err := turn{n}.keep(ctx, live, s, amend)
	if err != nil || s.Bridge {
		n.fault(partLinks, err)
	}
	if err != nil {
		turn{n}.repairLater()
		return fmt.Errorf("repairing network %q: %w", n.name, err)
	}
	was := n.change(func(a *active) { a.ifindex = index })
	if !live.Mode().OwnsBridge() {
		turn{n}.noteBridge(live, index)
		return nil
	}
	tunnels{turn{n}}.note(live)
	if was.ifindex != index {
		n.env.Logger.Warn("bridge was gone and is made anew", env.KeyNetwork, n.name, env.KeyBridge, live.Bridge.Name)
		was.services.Stop()
		turn{n}.serve(turn{n}.newServices(live, nil))
	}
	lend(ctx, turn{n}, live)
	return nil
}

// repairLater repairs the network until that succeeds.
func (n turn) repairLater() {
	if !n.repairing.CompareAndSwap(false, true) {
		return
	}
	n.env.Tasks.Repeat(func() bool {
		if err := n.Repair(n.env.Tasks.Context()); err != nil {
			return false
		}
		n.repairing.Store(false)
		return true
	})
}

// PortsChanged has rules be those of what guests are now: ports came, went or have other
// addresses, or leases do. It returns at once.
func (n *Network) PortsChanged() {
	live := n.Live()
	if live == nil || len(live.PortForwards) == 0 && len(n.rules.now().ports) == 0 && len(port.Ruled(n.ports.Registry(), n.name)) == 0 {
		return
	}
	Follow(n)
}

// Follow has the rules of n be those of what surrounds it now. It returns at once.
func Follow(n *Network) {
	if n.Live() == nil || !n.following.CompareAndSwap(false, true) {
		return
	}
	n.env.Tasks.Go(func() {
		n.op.Lock()
		defer n.op.Unlock()
		n.following.Store(false) // what comes from here on is not seen
		turn{n}.follow(n.env.Tasks.Context())
	})
}

// follow sets the rules of an active network anew where they are others by now.
func (n turn) follow(ctx context.Context) {
	live := n.Live()
	if live == nil {
		return
	}
	by, was := surround(n, live), n.rules.now()
	if by.equal(&was) {
		if err := n.record.Learn(n.rules.names.All()); err != nil {
			n.env.Logger.Warn("the next vnetd may not know which addresses of names guests may reach", env.KeyNetwork, n.name, env.KeyError, err)
		}
		return
	}
	if err := n.setRules(ctx, live); err != nil {
		n.fault(partLinks, err)
		n.repairLater()
		return
	}
	n.env.Logger.Info("rules follow guests and peers", env.KeyNetwork, n.name, "forwards", len(live.PortForwards), "leading", len(by.forwards), "peers", len(by.peers), "ports", len(by.ports))
	n.Changed()
}

// Listen asks the kernel which addresses of IPv6 it has heard guests of n say that they
// have, as far as forwards and rules of ports depend on that, and has those follow.
func Listen(n *Network) {
	live, index := n.Live(), n.BridgeIndex()
	if live == nil || index == 0 || n.env.Neighbours == nil || !forward.Makes(live) && len(port.Ruled(n.ports.Registry(), n.name)) == 0 {
		return
	}
	all, err := n.env.Neighbours.Learned(index)
	if err == nil && n.heard.note(all) { // else it is asked again
		n.PortsChanged()
	}
}

// letGoLater has addresses of names be forgotten when they end.
func letGoLater(n *Network) {
	if !n.expiring.CompareAndSwap(false, true) {
		return
	}
	n.env.Tasks.Go(func() {
		for {
			_, next := n.rules.names.Expire(time.Now())
			if err := n.rules.open(n.env.Tasks.Context()); err != nil {
				n.env.Logger.Error("guests may still reach what names had", env.KeyNetwork, n.name, env.KeyError, err)
			}
			if next.IsZero() {
				n.expiring.Store(false)
				if _, next = n.rules.names.Expire(time.Now()); next.IsZero() || !n.expiring.CompareAndSwap(false, true) {
					return
				}
			}
			select {
			case <-n.env.Tasks.Context().Done():
				return
			case <-time.After(time.Until(next)):
			}
		}
	})
}

// lend has DHCP give this host its address of IPv4, where it is to have one and has not, and the link and the rules
// have it. As long as there is none the network is degraded.
func lend(ctx context.Context, n turn, live *netdef.Network) {
	p := (attach.HostPorts{Ports: n.ports}).Of(n.Network)
	_, ranged := translate.HostRange(live)
	if p == nil || !ranged || !translate.HasHostLink(live) {
		n.fault(partHost, nil)
		return
	}
	srv := n.Services().Servers().DHCP
	if srv == nil {
		return // that fails itself
	}
	ctx, cancel := context.WithTimeout(ctx, lendLimit)
	defer cancel()
	a, err := srv.Lend(ctx, dhcpd.HWAddr(p.MAC))
	if was := n.card.given.Load(); err == nil && (was == nil || *was != a) {
		n.card.given.Store(&a)
		n.follow(ctx)
		err = hosts{n}.keep(ctx, live, n.BridgeIndex(), drift.Whole(), nil)
		n.env.Logger.Info("this host has an address in the network", env.KeyNetwork, n.name, "ip", a)
	}
	if err != nil {
		err = fmt.Errorf("network/vnetd:span/@host-address: %w", err)
	}
	n.fault(partHost, err)
}

// lendLimit is how long is waited at most until the address is on disk.
const lendLimit = 5 * time.Second

// FollowCluster has an active network be what its cluster says now. It returns at once.
func FollowCluster(n *Network, news News) {
	if !n.clustered.add(news) {
		return
	}
	n.env.Tasks.Go(func() {
		n.op.Lock()
		defer n.op.Unlock()
		followCluster(n.env.Tasks.Context(), turn{n}, n.clustered.take())
	})
}

// followCluster is FollowCluster for who has the turn.
func followCluster(ctx context.Context, n turn, news News) {
	live, index := n.Live(), n.BridgeIndex()
	if live == nil || index == 0 {
		return
	}
	var err error
	if news.Peers {
		err = n.setRules(ctx, live)
	}
	if err == nil && news.Cards {
		err = n.ports.Devices().Follow(ctx, n.Network, live, index)
	}
	if err == nil && (news.Peers || news.Cards) {
		err = tunnels{n}.keep(ctx, live, index, drift.Whole(), nil)
	}
	if err != nil {
		n.fault(partLinks, err)
		n.repairLater()
	}
	if news.Peers {
		tunnels{n}.note(live)
	}
	if news.Pool {
		service.PoolChanged(n.Services())
		lend(ctx, n, live)
	}
	if news.Names {
		service.NamesChanged(n.Services())
	}
}
