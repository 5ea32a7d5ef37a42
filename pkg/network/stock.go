package network

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/port"
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
	m.orphans.load(ports, links, all)

	var g errgroup.Group
	g.SetLimit(startLimit)
	for _, r := range all {
		n := m.ensureNetwork(r.Network)
		g.Go(func() error { n.recover(ctx, r); return nil })
	}
	_ = g.Wait()
	m.marks.set(links) // the condition leaves out what is not orphaned
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
	p := m.ports.reg.UUID(f.Stem)
	return m.owns(f.Stem) || p != nil && p.Kind == port.Own
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
		p, ok := port.Marked(l)
		return ok && p.Network == def.UUID && l.Master == on.Index
	})
}
