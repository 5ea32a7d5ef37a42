package network

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/store"
)

// found is a network that is not inactive, by its run-state or, where that is lost, by
// what it has in the kernel.
type found struct {
	store.Run
	marked bool // by what it has in the kernel
}

// takeStock finds the networks and ports that there are, on disk and in the kernel,
// and that are not known yet: it reads the definitions, adopts what a former vnetd left
// active, and clears away what it left half made. What can't be used is in m.unusable
// afterwards, and in the error.
func (m *Manager) takeStock(ctx context.Context) error {
	m.stocking.Lock()
	defer m.stocking.Unlock()
	defFaults := m.loadDefinitions()
	links := m.marked()
	runs, runFaults, runsErr := m.cfg.Store.Runs()
	ports, portFaults, portsErr := m.cfg.Store.Ports()
	all := m.recognise(runs, runFaults, runsErr, links)
	m.loadPorts(ports, links, all)

	var g errgroup.Group
	g.SetLimit(startLimit)
	for _, r := range all {
		n := m.ensureNetwork(r.Network)
		g.Go(func() error { n.recover(ctx, r); return nil })
	}
	_ = g.Wait()
	m.orphans.setMarked(links) // the condition leaves out what is not orphaned
	m.stocked = true
	states := slices.Concat(runFaults, portFaults, directoryFault(runsErr), directoryFault(portsErr))
	m.unusable.SetStates(slices.DeleteFunc(slices.Clone(states), m.known))
	var errs []error
	for _, f := range append(defFaults, states...) {
		errs = append(errs, f)
	}
	return errors.Join(errs...)
}

// directoryFault is the fault of a directory that can't be read; none for nil.
func directoryFault(err error) []*store.Fault {
	var at *fs.PathError
	if !errors.As(err, &at) {
		return nil
	}
	return []*store.Fault{{Stem: at.Path, Path: at.Path, Err: err}}
}

// known tells whether a fault is of run-state that was put together anew.
func (m *Manager) known(f *store.Fault) bool {
	return m.owns(f.Stem) || m.ports.uuid(f.Stem) != nil
}

// recognise adds to runs the networks whose run-state is lost, and which are active by
// what they have in the kernel. What else was recorded, changes to the host and the
// live document where that was another than the definition, is not known any more.
func (m *Manager) recognise(runs []store.Run, faults []*store.Fault, unread error, links []bridge.Link) []found {
	all := make([]found, 0, len(runs))
	for _, r := range runs {
		if !m.owns(r.Network.UUID) {
			all = append(all, found{r, false})
		}
	}
	for _, n := range m.all() {
		def := n.definition()
		if def == nil || n.standing() || slices.ContainsFunc(runs, func(r store.Run) bool { return r.Network.UUID == def.UUID }) {
			continue
		}
		lost := unread != nil || slices.ContainsFunc(faults, func(f *store.Fault) bool { return f.Stem == def.UUID })
		if m.traces(def, lost, links) {
			m.log.Warn("an active network is known by its bridge, not by its run-state", keyNetwork, n.name, keyBridge, def.Bridge.Name)
			all = append(all, found{store.Run{Phase: store.Active, Network: def.Clone(), Persistent: true}, true})
		}
	}
	return all
}

// traces tells whether links are of the network that def defines: its bridge bears its
// mark, or a port on the bridge does. Where it is known that its run-state was lost, the
// bridge's name and MAC address will do, as older versions set no mark.
func (m *Manager) traces(def *netdef.Network, lost bool, links []bridge.Link) bool {
	on, err := m.cfg.Links.Lookup(def.Bridge.Name)
	if err != nil || on.Kind != "bridge" {
		return false
	}
	if def.Mode().OwnsBridge() {
		return bears(on, def.UUID) || lost && bytes.Equal(on.MAC, def.MAC)
	}
	return slices.ContainsFunc(links, func(l bridge.Link) bool {
		p, ok := markedPort(l)
		return ok && p.Network == def.UUID && l.Master == on.Index
	})
}

// loadPorts takes over the ports that a former vnetd made: those whose TAP device still
// is there. The rest ended while no vnetd was running. Devices that bear the mark of a
// port whose record is lost are that port.
func (m *Manager) loadPorts(ports []store.Port, links []bridge.Link, runs []found) {
	docs := make(map[string]*netdef.Network) // by UUID
	for _, r := range runs {
		docs[r.Network.UUID] = r.Network
	}
	for _, d := range m.definitions(nil) {
		docs[d.UUID] = d
	}
	recorded := make(map[string]bool)
	for _, p := range ports {
		recorded[p.UUID] = true
		m.takePort(docs[p.Network], p)
	}
	for _, l := range links {
		p, ok := markedPort(l)
		if !ok || recorded[p.UUID] || m.hasPort(p.UUID) {
			continue
		}
		m.takePort(docs[p.Network], p)
		if m.hasPort(p.UUID) {
			m.log.Warn("a port is known by its device, not by its run-state", keyPort, p.UUID, keyIfName, p.IfName)
			if err := m.cfg.Store.SavePort(p); err != nil {
				m.log.Error("its run-state can't be written anew", keyPort, p.UUID, keyError, err)
			}
		}
	}
}

// hasPort tells whether the port with that UUID is in the books.
func (m *Manager) hasPort(uuid string) bool {
	_, orphan := m.orphans.port(uuid)
	return orphan || m.ports.uuid(uuid) != nil || m.external.uuid(uuid) != nil
}

// takePort takes over one port, of the network that doc is; of none that is known for
// nil.
func (m *Manager) takePort(doc *netdef.Network, p store.Port) {
	if doc != nil {
		n := m.ensureNetwork(doc)
		n.op.Lock() // it may be making the port right now
		defer n.op.Unlock()
	}
	if m.hasPort(p.UUID) {
		return
	}
	there := p.Lifetime == api.LifetimeExternal || m.hasLink(p)
	switch {
	case there && doc == nil && p.Lifetime == api.LifetimeExternal:
		// Its device is not vnetd's: it is kept on disk for when its network comes back.
	case there && doc == nil:
		m.log.Warn("a port has no network", keyPort, p.UUID, keyIfName, p.IfName, "network_uuid", p.Network)
		m.orphans.addPort(p)
	case p.Lifetime == api.LifetimeExternal:
		if err := m.loadExternal(m.find(doc.Name), p); err != nil {
			m.log.Error("a port can't be used", keyPort, p.UUID, keyError, err)
		}
	case there:
		m.loadPort(m.find(doc.Name), p)
	case !m.stocked:
		m.portEnded(doc, p)
	}
}

// portEnded clears away what is left of a port that ended while no vnetd was running.
func (m *Manager) portEnded(doc *netdef.Network, p store.Port) {
	if doc != nil {
		n := m.find(doc.Name)
		n.departed = append(n.departed, p)
	}
	m.log.Info("a port ended while vnetd was away", keyPort, p.UUID, keyIfName, p.IfName)
	if err := m.clearPort(p); err != nil {
		m.log.Error("clearing a port that has ended", keyPort, p.UUID, keyError, err)
	}
}
