package attach

import (
	"errors"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/drift"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// Bandwidth is the bandwidth of networks and ports.
type Bandwidth struct{ *Ports }

// Bandwidth is the bandwidth of networks and ports.
func (s *Ports) Bandwidth() Bandwidth { return Bandwidth{s} }

// KeepBridge has the bridge of n, which is live there, be held to its bandwidth, with the
// floors of n's ports, unless it is to another's, see HeldBy. One without is looked at where that is
// thorough: it may have had one. The caller has the turn of n.
func (b Bandwidth) KeepBridge(n Network, live *netdef.Network, index int, thorough bool, amend bridge.Amend) error {
	if live.Bandwidth == nil && !thorough {
		return nil
	}
	if other := b.HeldBy(n, live, index); other != nil {
		if live.Bandwidth == nil { // n's may have been in force until now
			b.env.Keeper.Suspect(other.Name(), drift.Whole())
		}
		return nil
	}
	return b.env.Bandwidth.Keep(index, live.Bridge.Name, translate.BridgeBandwidth(live, b.Documents(n)), amend)
}

// HeldBy is another network to whose bandwidth the bridge of n is held, which is live there: a
// bridge of the host's may be that of several. Of those with a bandwidth the one that made the bridge
// comes first, and then the first by name. It is nil where there is none before n.
func (b Bandwidth) HeldBy(n Network, live *netdef.Network, index int) Network {
	for _, other := range b.networks.AllOnBridge(index) {
		is := other.Live()
		if is == nil || is.Bandwidth == nil || other.Name() == n.Name() {
			continue
		}
		if live.Bandwidth == nil || is.OwnsBridge() || !live.OwnsBridge() && other.Name() < n.Name() {
			return other
		}
	}
	return nil
}

// Lift ends the limits of the bridge of n, which was live and goes down: it is held to those of
// the next network on it.
func (b Bandwidth) Lift(n Network, live *netdef.Network) error {
	if live.Bandwidth == nil {
		return nil
	}
	on, err := b.env.Links.Lookup(live.Bridge.Name)
	if errors.Is(err, bridge.ErrNotFound) {
		return nil // the next Sweep finds the rest
	}
	if err != nil || b.HeldBy(n, live, on.Index) != nil {
		return err
	}
	err = b.env.Bandwidth.Keep(on.Index, on.Name, translate.Bandwidth(nil), nil)
	for _, next := range b.networks.AllOnBridge(on.Index) {
		b.env.Keeper.Suspect(next.Name(), drift.Whole())
	}
	return err
}

// TakeOver takes away how another program held the bridge of a network that it left live,
// or filled in checksums there. How vnetd does is for KeepBridge.
func (b Bandwidth) TakeOver(live *netdef.Network) error {
	if live.Bandwidth == nil && !translate.Firewall(live).Mode.Filtered() {
		return nil
	}
	on, err := b.env.Links.Lookup(live.Bridge.Name)
	switch {
	case errors.Is(err, bridge.ErrNotFound):
		return nil
	case err != nil:
		return err
	case live.Bandwidth == nil:
		return b.env.Bandwidth.Unfill(on.Index)
	}
	return b.env.Bandwidth.Reset(on.Index)
}

// floorGone has the bridge of n forget the floor of a port that has ended, once it is
// n's turn.
func (b Bandwidth) floorGone(n Network) {
	b.env.Tasks.Go(func() {
		if n.Begin() != nil {
			return
		}
		defer n.End()
		live, index := n.Live(), n.BridgeIndex()
		if live == nil || index == 0 {
			return
		}
		if err := b.KeepBridge(n, live, index, false, nil); err != nil {
			b.env.Logger.Error("the floor of a port that has ended is still kept", env.KeyNetwork, n.Name(), env.KeyError, err)
		}
	})
}

// keepPort has the device of p, a port of vnetd's own, be held to its bandwidth. The
// caller has the turn of its network, which is live.
func (b Bandwidth) keepPort(live *netdef.Network, p *port.Port, thorough bool, amend bridge.Amend) error {
	s := p.Status()
	has := translate.PortBandwidth(live, s.PortGroup, s.Bandwidth)
	if has == nil && !thorough {
		return nil
	}
	cfg := translate.Bandwidth(has)
	if p.OnMacvtap() { // the device is the guest's card, and not the host's end of a cable to it
		cfg.Egress, cfg.Ingress = cfg.Ingress, cfg.Egress
	}
	return b.env.Bandwidth.Keep(s.Index, s.IfName, cfg, amend)
}

// plan gives p a traffic class where it has a floor, and takes it where it has none. The
// error says why the network can't keep the floor. The caller has the network's turn.
func (b Bandwidth) plan(n Network, live *netdef.Network, p *port.Port, doc *netdef.Port) error {
	floor, full := doc.Bandwidth.Floor() != 0, false
	var others []*netdef.Port
	if floor { // which nothing else depends on: they are many
		others = b.Documents(n)
	}
	if err := translate.CheckFloors(live, doc, others); err != nil {
		return err
	}
	p.Set(func(_ *port.Settings, class *uint32) {
		switch {
		case !floor:
			*class = 0
		case *class == 0 || taken(others, p.UUID, *class):
			*class = translate.FreeClass(others)
			full = *class == 0
		}
	})
	if full {
		return api.Errorf(api.LimitExceeded, "network %q has no traffic class left for another floor", live.Name)
	}
	return nil
}

// taken reports whether a port other than the one with that UUID has a traffic class.
func taken(ports []*netdef.Port, uuid string, class uint32) bool {
	for _, p := range ports {
		if p.ClassID == class && p.UUID != uuid {
			return true
		}
	}
	return false
}

// apply has the kernel know what p has now.
func (b Bandwidth) apply(n Network, live *netdef.Network, p *port.Port) error {
	if p.Kind == port.Own {
		if err := b.keepPort(live, p, true, nil); err != nil {
			return err
		}
	}
	index := n.BridgeIndex()
	if index == 0 {
		return nil
	}
	return b.KeepBridge(n, live, index, false, nil)
}

// describe writes what p is held to into what the outside sees of it.
func (b Bandwidth) describe(p *port.Port, info *api.Port) {
	s := p.Status()
	info.PortGroup, info.Bandwidth = s.PortGroup, s.Bandwidth.Limits()
	if n := b.network(p); n != nil && p.Kind == port.Own {
		info.Bandwidth = translate.PortBandwidth(n.Document(), s.PortGroup, s.Bandwidth).Limits()
	}
}
