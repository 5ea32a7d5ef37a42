package network

import (
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/store"
)

// What is vnetd's by its mark or its record and belongs to no network that is known is
// orphaned: it is listed, can be deleted, and becomes the network's again with that.

// orphans is the ports of networks that are not known, and how they are found.
type orphans struct{ *Ports }

// of are the orphaned ports of the network with that UUID.
func (o orphans) of(uuid string) []*port.Port {
	return slices.DeleteFunc(o.reg.All(port.Orphan), func(p *port.Port) bool { return !strings.EqualFold(p.Record().Network, uuid) })
}

// adopt makes the ports that the network with that UUID had ports of n. The caller
// holds n.op.
func (o orphans) adopt(n *Network, uuid string) {
	for _, orphan := range o.of(uuid) {
		o.m.log.Info("a port has its network again", keyNetwork, n.name, keyPort, orphan.UUID, keyIfName, orphan.IfName)
		p, err := o.reg.Adopt(orphan, n.name)
		if err != nil {
			continue // somebody else has
		}
		o.mark(p)
		o.publish(PortChanged, n, o.info(p))
	}
}

// adoptLocking is adopt for one who does not hold n.op.
func (o orphans) adoptLocking(n *Network, uuid string) {
	if len(o.of(uuid)) == 0 {
		return
	}
	n.op.Lock()
	defer n.op.Unlock()
	o.adopt(n, uuid)
}

// mark has the device of a port of an older vnetd say what it is.
func (o orphans) mark(p *port.Port) {
	if err := p.MarkDevice(o.m.cfg.Links); err != nil {
		o.m.log.Warn("a port is known by its run-state alone", keyPort, p.UUID, keyIfName, p.IfName, keyError, err)
	}
}

// load takes over the ports that a former vnetd made: those whose TAP device still
// is there. The rest ended while no vnetd was running. Devices that bear the mark of a
// port whose record is lost are that port.
func (o orphans) load(ports []store.Port, links []bridge.Link, runs []found) {
	docs := make(map[string]*netdef.Network) // by UUID
	for _, r := range runs {
		docs[r.Network.UUID] = r.Network
	}
	for _, d := range o.m.definitions(nil) {
		docs[d.UUID] = d
	}
	recorded := make(map[string]bool)
	for _, p := range ports {
		recorded[p.UUID] = true
		o.take(docs[p.Network], p)
	}
	for _, l := range links {
		p, ok := port.Marked(l)
		if !ok || recorded[p.UUID] || o.reg.UUID(p.UUID) != nil {
			continue
		}
		o.take(docs[p.Network], p)
		if o.reg.UUID(p.UUID) != nil {
			o.m.log.Warn("a port is known by its device, not by its run-state", keyPort, p.UUID, keyIfName, p.IfName)
			if err := o.m.cfg.Store.SavePort(p); err != nil {
				o.m.log.Error("its run-state can't be written anew", keyPort, p.UUID, keyError, err)
			}
		}
	}
}

// take takes over one port, of the network that doc is; of none that is known for
// nil.
func (o orphans) take(doc *netdef.Network, p store.Port) {
	if doc != nil {
		n := o.m.stock.network(doc)
		n.op.Lock() // it may be making the port right now
		defer n.op.Unlock()
	}
	if o.reg.UUID(p.UUID) != nil {
		return
	}
	there := p.Lifetime == api.LifetimeExternal || port.There(o.m.cfg.Links, p)
	switch {
	case there && doc == nil && p.Lifetime == api.LifetimeExternal:
		// Its device is not vnetd's: it is kept on disk for when its network comes back.
	case there && doc == nil:
		o.m.log.Warn("a port has no network", keyPort, p.UUID, keyIfName, p.IfName, "network_uuid", p.Network)
		_, _ = o.reg.Load(port.Orphan, "", p) // the UUID is free
	case p.Lifetime == api.LifetimeExternal:
		if _, err := o.reg.Load(port.External, doc.Name, p); err != nil {
			o.m.log.Error("a port can't be used", keyPort, p.UUID, keyError, err)
		}
	case there:
		if p, err := o.reg.Load(port.Own, doc.Name, p); err == nil {
			o.mark(p)
		}
	case !o.m.stock.taken:
		o.away(doc, p)
	}
}

// away clears away what is left of a port that ended while no vnetd was running.
func (o orphans) away(doc *netdef.Network, p store.Port) {
	if doc != nil {
		n := o.m.find(doc.Name)
		n.departed = append(n.departed, p)
	}
	o.m.log.Info("a port ended while vnetd was away", keyPort, p.UUID, keyIfName, p.IfName)
	if err := o.clear(p); err != nil {
		o.m.log.Error("clearing a port that has ended", keyPort, p.UUID, keyError, err)
	}
}
