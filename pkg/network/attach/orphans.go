package attach

import (
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/store"
)

// What is vnetd's by its mark or its record and belongs to no network that is known is
// orphaned: it is listed, can be deleted, and becomes the network's again with that.

// Orphans is the ports of networks that are not known, and how all ports that a former
// vnetd made are found.
type Orphans struct{ *Ports }

// Orphans are the ports of networks that are not known.
func (s *Ports) Orphans() Orphans { return Orphans{s} }

// of are the orphaned ports of the network with that UUID.
func (o Orphans) of(uuid string) []*port.Port {
	return slices.DeleteFunc(o.reg.All(port.Orphan), func(p *port.Port) bool { return !strings.EqualFold(p.Record().Network, uuid) })
}

// adopt makes the ports that the network with that UUID had ports of n. The caller has
// its turn.
func (o Orphans) adopt(n Network, uuid string) {
	for _, orphan := range o.of(uuid) {
		o.env.Logger.Info("a port has its network again", env.KeyNetwork, n.Name(), env.KeyPort, orphan.UUID, env.KeyIfName, orphan.IfName)
		p, err := o.reg.Adopt(orphan, n.Name())
		if err != nil {
			continue // somebody else has
		}
		o.mark(p)
		o.Devices().follow(p)
		o.publish(env.PortChanged, n, o.info(p))
	}
}

// Adopt makes the ports that the network with that UUID had ports of n, once its turn
// has come.
func (o Orphans) Adopt(n Network, uuid string) {
	if len(o.of(uuid)) == 0 || n.Begin() != nil {
		return
	}
	defer n.End()
	o.adopt(n, uuid)
}

// mark has the device of a port of an older vnetd say what it is.
func (o Orphans) mark(p *port.Port) {
	if err := p.MarkDevice(o.env.Links); err != nil {
		o.env.Logger.Warn("a port is known by its run-state alone", env.KeyPort, p.UUID, env.KeyIfName, p.IfName, env.KeyError, err)
	}
}

// Load takes over the ports that a former vnetd made: those whose TAP device still is
// there. The rest ended while no vnetd was running: ended is told of them, or they are
// left alone where it is nil. Devices that bear the mark of a port whose record is lost
// are that port. of finds a network by its UUID, nil for none that is known.
func (o Orphans) Load(ports []store.Port, links []bridge.Link, of func(uuid string) Network, ended func(store.Port)) {
	recorded := make(map[string]bool)
	for _, p := range ports {
		recorded[p.UUID] = true
		o.take(of(p.Network), p, ended)
	}
	for _, l := range links {
		p, ok := port.Marked(l)
		if !ok || recorded[p.UUID] || o.reg.UUID(p.UUID) != nil {
			continue
		}
		o.take(of(p.Network), p, ended)
		if o.reg.UUID(p.UUID) != nil {
			o.env.Logger.Warn("a port is known by its device, not by its run-state", env.KeyPort, p.UUID, env.KeyIfName, p.IfName)
			if err := o.env.Store.SavePort(p); err != nil {
				o.env.Logger.Error("its run-state can't be written anew", env.KeyPort, p.UUID, env.KeyError, err)
			}
		}
	}
}

// take takes over one port of n, of no network that is known for nil.
func (o Orphans) take(n Network, p store.Port, ended func(store.Port)) {
	if n != nil {
		if n.Begin() == nil { // it may be making the port right now
			defer n.End()
		} else {
			n = nil // it has just come to its end
		}
	}
	if o.settled(p) {
		return
	}
	there := p.Lifetime == api.LifetimeExternal || port.There(o.env.Links, p)
	switch {
	case there && n == nil && p.Lifetime == api.LifetimeExternal:
		// Its device is not vnetd's: it is kept on disk for when its network comes back.
	case there && n == nil:
		o.env.Logger.Warn("a port has no network", env.KeyPort, p.UUID, env.KeyIfName, p.IfName, "network_uuid", p.Network)
		_, _ = o.reg.Load(port.Orphan, "", p) // the UUID is free
	case p.Lifetime == api.LifetimeExternal:
		if _, err := o.reg.Load(port.External, n.Name(), p); err != nil {
			o.env.Logger.Error("a port can't be used", env.KeyPort, p.UUID, env.KeyError, err)
		}
	case there:
		if p, err := o.reg.Load(port.Own, n.Name(), p); err == nil {
			o.mark(p)
			o.Devices().follow(p)
		}
	case ended != nil:
		ended(p)
		o.away(p)
	}
}

// settled reports whether nothing is to be found out about a port any more: it is in the registry,
// or is known by its record alone and has ended since that was read.
func (o Orphans) settled(p store.Port) bool {
	return o.reg.UUID(p.UUID) != nil || p.Lifetime == api.LifetimeExternal && store.LacksPort(o.env.Store, p.UUID)
}

// away clears away what is left of a port that ended while no vnetd was running.
func (o Orphans) away(p store.Port) {
	o.env.Logger.Info("a port ended while vnetd was away", env.KeyPort, p.UUID, env.KeyIfName, p.IfName)
	if err := o.Clear(p); err != nil {
		o.env.Logger.Error("clearing a port that has ended", env.KeyPort, p.UUID, env.KeyError, err)
	}
}
