package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/store"
)

// orphans are what is vnetd's by its mark or its record and belongs to no network that
// is known: it is listed, can be deleted, and becomes the network's again with that.
// Its methods may be called concurrently, with any lock held.
type orphans struct {
	mu     sync.Mutex
	ports  map[string]store.Port // by UUID
	marked []bridge.Link         // links that bore a mark when stock was taken
}

func (o *orphans) addPort(p store.Port) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ports == nil {
		o.ports = make(map[string]store.Port)
	}
	o.ports[p.UUID] = p
}

// port is the orphan with that UUID, or of that device.
func (o *orphans) port(key string) (store.Port, bool) {
	for _, p := range o.list() {
		if strings.EqualFold(p.UUID, key) || p.IfName == key {
			return p, true
		}
	}
	return store.Port{}, false
}

// list is every orphaned port, in order of their creation.
func (o *orphans) list() []store.Port {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.SortedFunc(maps.Values(o.ports), func(a, b store.Port) int { return a.Index - b.Index })
}

// take takes out the ports of the network with that UUID.
func (o *orphans) take(network string) (ports []store.Port) {
	for _, p := range o.list() {
		if strings.EqualFold(p.Network, network) {
			o.remove(p.UUID)
			ports = append(ports, p)
		}
	}
	return ports
}

func (o *orphans) remove(uuid string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.ports, uuid)
}

// setMarked takes note of the links that bear a mark.
func (o *orphans) setMarked(links []bridge.Link) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.marked = links
}

// orphanInfo tells what an orphaned port is.
func (m *Manager) orphanInfo(p store.Port) api.Port {
	info := api.Port{
		UUID: p.UUID, Name: p.Name, MAC: p.MAC.String(), IfName: p.IfName,
		Addresses: []netip.Addr{}, Reserved: append([]netip.Addr{}, p.Addrs...),
		Queues: max(p.Queues, 1), VnetHdr: p.VnetHdr, Isolated: p.Isolated,
		Lifetime: api.Lifetime(p.Lifetime), Owner: p.Owner, OwnerUUID: p.OwnerUUID, ID: p.ID, Created: p.Created,
	}
	if l, err := m.cfg.Links.LookupIndex(p.Index); err == nil {
		info.MTU = l.MTU
		if b, err := m.cfg.Links.LookupIndex(l.Master); err == nil {
			info.Bridge = b.Name
		}
	}
	return info
}

// endOrphan deletes an orphaned port and its device, and tells.
func (m *Manager) endOrphan(p store.Port) error {
	info := m.orphanInfo(p)
	if err := m.clearPort(p); err != nil {
		return err
	}
	m.orphans.remove(p.UUID)
	m.log.Info("port removed", keyNetwork, "", keyPort, p.UUID, keyIfName, p.IfName)
	m.events.publish(Event{Kind: PortRemoved, Port: &info})
	return nil
}

// onOrphanLink ends the orphaned port whose device is gone.
func (m *Manager) onOrphanLink(e bridge.LinkEvent) {
	for _, p := range m.orphans.list() {
		if e.Deleted && p.Index == e.Link.Index {
			if err := m.endOrphan(p); err != nil {
				m.log.Error("ending a port", keyPort, p.UUID, keyError, err)
			}
		}
	}
}

// adoptOrphans makes the ports that the network with that UUID had ports of n. The
// caller holds n.op.
func (m *Manager) adoptOrphans(n *Network, uuid string) {
	for _, p := range m.orphans.take(uuid) {
		m.log.Info("a port has its network again", keyNetwork, n.name, keyPort, p.UUID, keyIfName, p.IfName)
		m.loadPort(n, p)
		if is := m.ports.uuid(p.UUID); is != nil {
			info := m.portInfo(is)
			m.events.publish(Event{Kind: PortChanged, Network: n.Info(), Port: &info})
		}
	}
}

// loadPort makes p a port of n, unless it is one. The caller holds n.op, or nobody
// else knows n's ports yet.
func (m *Manager) loadPort(n *Network, p store.Port) {
	if m.ports.uuid(p.UUID) != nil {
		return
	}
	m.ports.load(newPort(n, p))
	m.mark(p)
}

// mark has the device of a port of an older vnetd say what it is.
func (m *Manager) mark(p store.Port) {
	l, err := m.cfg.Links.LookupIndex(p.Index)
	if err == nil && l.Alias == "" {
		err = m.cfg.Links.SetAlias(p.Index, markOfPort(p))
	}
	if err != nil && !errors.Is(err, bridge.ErrNotFound) {
		m.log.Warn("a port is known by its run-state alone", keyPort, p.UUID, keyIfName, p.IfName, keyError, err)
	}
}

// orphanConditions are orphans that are still there.
func (m *Manager) orphanConditions(context.Context) ([]api.Condition, error) {
	var all []api.Condition
	for _, p := range m.orphans.list() {
		all = append(all, api.Condition{
			Kind: "port-orphaned", Severity: api.SeverityWarning, Evidence: fmt.Sprintf("port %s (%s) is of the network %s", p.UUID, p.IfName, p.Network),
			Message: fmt.Sprintf("port %s has no network any more: it is kept for when that comes back", p.IfName),
			Remedy:  "vnetctl port delete " + p.UUID,
		})
	}
	m.orphans.mu.Lock()
	marked := slices.Clone(m.orphans.marked)
	m.orphans.mu.Unlock()
	for _, l := range marked {
		now, err := m.cfg.Links.LookupIndex(l.Index)
		uuid := markedNetwork(now)
		if err != nil || now.Kind != "bridge" || uuid == "" || m.owns(uuid) {
			continue
		}
		all = append(all, api.Condition{
			Kind: "bridge-orphaned", Severity: api.SeverityWarning, Evidence: fmt.Sprintf("%s says of itself: %s", now.Name, now.Alias),
			Message: fmt.Sprintf("the bridge %s is of a network that is not known any more: its guests have no DHCP and no DNS", now.Name),
			Remedy:  fmt.Sprintf("vnetctl create FILE, of the network with the UUID %s, which takes the bridge over", uuid),
		})
	}
	return all, nil
}

// adoptOrphansOf is adoptOrphans for one who does not hold n.op.
func (m *Manager) adoptOrphansOf(n *Network, uuid string) {
	if !slices.ContainsFunc(m.orphans.list(), func(p store.Port) bool { return strings.EqualFold(p.Network, uuid) }) {
		return
	}
	n.op.Lock()
	defer n.op.Unlock()
	m.adoptOrphans(n, uuid)
}
