package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/attach"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/live"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/store"
	"golang.org/x/sync/errgroup"
)

// stock finds the networks and ports that there are, on disk and in the kernel.
type stock struct {
	*catalog

	taking sync.Mutex // held by take; guards taken
	taken  bool       // take was called before

	marking sync.Mutex    // guards marks
	marks   []bridge.Link // links that bore a mark when stock was taken
}

// take finds the networks and ports that there are, on disk and in the kernel,
// and that are not known yet: it reads the definitions, adopts what a former vnetd left
// active, and clears away what it left half made. What can't be used is in s.env.Unusable
// afterwards, and in the error.
func (s *stock) take(ctx context.Context) error {
	s.taking.Lock()
	defer s.taking.Unlock()
	defFaults := s.loadDefinitions()
	links := s.marked()
	runs, runFaults, runsErr := s.env.Store.Runs()
	ports, portFaults, portsErr := s.env.Store.Ports()
	all := s.recognise(runs, runFaults, runsErr, links)
	s.loadPorts(ports, links, all)
	if err := s.env.Bandwidth.Sweep(false); err != nil {
		s.env.Logger.Error("clearing limits of devices that are gone", env.KeyError, err)
	}

	var g errgroup.Group
	g.SetLimit(startLimit)
	for _, r := range all {
		n := s.network(r.Network)
		g.Go(func() error {
			live.Former{Network: n}.Recover(ctx, r, func() bool { return s.traces(r.Network, true, s.marked()) })
			return nil
		})
	}
	_ = g.Wait()
	s.setMarks(links) // the condition leaves out what is not orphaned
	s.taken = true
	states := slices.Concat(runFaults, portFaults, directoryFault(runsErr), directoryFault(portsErr))
	s.env.Unusable.SetStates(slices.DeleteFunc(slices.Clone(states), s.known))
	var errs []error
	for _, f := range append(defFaults, states...) {
		errs = append(errs, f)
	}
	return errors.Join(errs...)
}

// loadPorts takes over the ports that a former vnetd made. The networks that were found
// by their run-state alone are known by their documents.
func (s *stock) loadPorts(ports []store.Port, links []bridge.Link, all []live.Found) {
	docs := make(map[string]*netdef.Network) // by UUID
	for _, r := range all {
		docs[r.Network.UUID] = r.Network
	}
	find := func(uuid string) *Network {
		n := s.uuid(uuid) // by the name that it has by now
		if n == nil && docs[uuid] != nil {
			n = s.network(docs[uuid])
		}
		return n
	}
	of := func(uuid string) attach.Network {
		if n := find(uuid); n != nil {
			return n
		}
		return nil
	}
	var ended func(store.Port)
	if !s.taken {
		ended = func(p store.Port) {
			if n := find(p.Network); n != nil {
				live.Former{Network: n}.Departed(p)
			}
		}
	}
	s.ports.Orphans().Load(ports, links, of, ended)
}

// directoryFault is the fault of a directory that can't be read; none for nil.
func directoryFault(err error) []*store.Fault {
	var at *fs.PathError
	if !errors.As(err, &at) {
		return nil
	}
	return []*store.Fault{{Stem: at.Path, Path: at.Path, Err: err}}
}

// known reports whether a fault is of run-state that was put together anew.
func (s *stock) known(f *store.Fault) bool {
	p := s.ports.Registry().UUID(f.Stem)
	return s.owns(f.Stem) || p != nil && p.Kind == port.Own
}

// recognise adds to runs the networks whose run-state is lost, and which are active by
// what they have in the kernel. They are what the copy that is kept of a network with a
// pending change says, or else what they are defined as. What else was recorded, changes
// to the host, is not known any more.
func (s *stock) recognise(runs []store.Run, faults []*store.Fault, unread error, links []bridge.Link) []live.Found {
	all := make([]live.Found, 0, len(runs))
	recorded, owned := make(map[string]bool), standing(s.all())
	for _, r := range runs {
		recorded[r.Network.UUID] = true
		if !owned[strings.ToLower(r.Network.UUID)] {
			all = append(all, live.Found{Run: r, Renamed: s.renamed(r.Network, links)})
		}
	}
	for _, n := range s.all() {
		def := n.Definition()
		if def == nil || n.Standing() || recorded[def.UUID] {
			continue
		}
		lost := unread != nil || slices.ContainsFunc(faults, func(f *store.Fault) bool { return f.Stem == def.UUID })
		for _, doc := range s.mayBe(def) {
			if s.traces(doc, lost, links) {
				s.env.Logger.Warn("an active network is known by its bridge, not by its run-state", env.KeyNetwork, n.Name(), env.KeyBridge, doc.Bridge.Name)
				run := store.Run{Phase: store.Active, Network: doc, Persistent: true}
				all = append(all, live.Found{Run: run, Marked: true, Renamed: s.renamed(doc, links)})
				break
			}
		}
	}
	return all
}

// standing are those of networks that are active, or being started or stopped, by UUID in lower case.
func standing(networks []*Network) map[string]bool {
	all := make(map[string]bool)
	for _, n := range networks {
		if n.Standing() {
			all[strings.ToLower(n.Document().UUID)] = true
		}
	}
	return all
}

// mayBe lists what the network that def defines may be where its run-state is lost, the
// likelier first.
func (s *stock) mayBe(def *netdef.Network) []*netdef.Network {
	kept, err := s.env.Store.Copies().Read(def.UUID)
	switch {
	case err == nil && kept.Name == def.Name:
		return []*netdef.Network{kept, def.Clone()}
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		s.env.Logger.Error("a network is taken for what its definition says", env.KeyNetwork, def.Name, env.KeyError, err)
	}
	return []*netdef.Network{def.Clone()}
}

// renamed is the ifindex of the bridge of doc among links that bear marks, where no link
// has its name; 0 for none.
func (s *stock) renamed(doc *netdef.Network, links []bridge.Link) int {
	if !doc.Mode().OwnsBridge() {
		return 0
	}
	if _, err := s.env.Links.Lookup(doc.Bridge.Name); !errors.Is(err, bridge.ErrNotFound) {
		return 0
	}
	return live.Renamed(doc, links)
}

// traces reports whether links are of the network that is def: its bridge bears its
// mark, or a port on the bridge does, or where it has none a port anywhere. Where it is known that its run-state was lost, the
// bridge's name and MAC address will do, as older versions set no mark.
func (s *stock) traces(def *netdef.Network, lost bool, links []bridge.Link) bool {
	if def.PortPlug() == netdef.PlugDirect {
		return slices.ContainsFunc(links, func(l bridge.Link) bool {
			p, ok := port.Marked(l)
			return ok && p.Network == def.UUID || l.Kind == bridge.KindMacvlan && live.Marked(l) == def.UUID
		})
	}
	on, err := s.env.Links.Lookup(def.Bridge.Name)
	if errors.Is(err, bridge.ErrNotFound) {
		return s.renamed(def, links) != 0
	}
	if err != nil || on.Kind != "bridge" {
		return false
	}
	if def.Mode().OwnsBridge() {
		return live.Bears(on, def.UUID) || lost && bytes.Equal(on.MAC, def.MAC)
	}
	return slices.ContainsFunc(links, func(l bridge.Link) bool {
		p, ok := port.Marked(l)
		return ok && p.Network == def.UUID && l.Master == on.Index
	})
}

// loadDefinitions makes an inactive network of every usable definition that is
// not known yet, and tells of the others. A definition without UUID, MAC address or
// bridge name, or with a subnet to choose, as an admin copied it there, is completed and saved.
func (s *stock) loadDefinitions() []*store.Fault {
	s.defining.Lock()
	defer s.defining.Unlock()
	defs, faults, err := s.env.Store.Definitions()
	// A subnet is chosen once it is known what all others have.
	slices.SortStableFunc(defs, func(a, b store.Definition) int {
		return strings.Compare(string(a.Network.Chosen), string(b.Network.Chosen))
	})
	for _, d := range defs {
		switch n, err := s.loadDefinition(d); {
		case err != nil:
			name := d.Network.Name
			faults = append(faults, &store.Fault{Stem: name, Path: s.env.Store.DefinitionPath(name), UUID: d.Network.UUID, Err: err})
		case n != nil:
			s.ports.Orphans().Adopt(n, n.Document().UUID)
		}
	}
	s.env.Unusable.SetDefinitions(faults)
	return append(faults, directoryFault(err)...)
}

// loadDefinition takes over a definition, and returns its network, nil where the file is gone
// by now. Whoever changes a known network writes its file in its turn: it is read again in that.
func (s *stock) loadDefinition(d store.Definition) (*Network, error) {
	known := s.find(d.Network.Name)
	if known != nil && isAs(known, &d) {
		return known, nil // who is about to change it writes the file himself
	}
	if known != nil && known.Begin() == nil {
		defer known.End()
		now, err := store.DefinitionNow(s.env.Store, d.Network.Name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		d = now
	}
	asWritten := string(d.Network.XML())
	known, err := s.identify(d.Network, false)
	if err != nil {
		return nil, err
	}
	def, err := s.completed(d.Network, known)
	if err == nil {
		err = netdef.Conflicts(def, s.definitions(known))
	}
	if err != nil {
		return nil, fmt.Errorf("network %q: %w", d.Network.Name, err)
	}
	if string(def.XML()) != asWritten {
		if err := s.env.Store.SaveDefinition(def); err != nil {
			s.env.Logger.Warn("a definition is completed for this time only", env.KeyNetwork, def.Name, env.KeyError, err)
		}
	}
	n := known
	if known == nil {
		n = s.make(def)
	}
	n.Load(def, d.Autostart)
	if known == nil {
		s.add(n) // nobody changes it before it is as it is on disk
	}
	n.Changed()
	return n, nil
}

// isAs reports whether a network that is known has a definition already.
func isAs(n *Network, d *store.Definition) bool {
	def := n.Definition()
	return def != nil && n.Info().Autostart == d.Autostart && bytes.Equal(def.XML(), d.Network.XML())
}

// setMarks takes note of the links that bear a mark.
func (s *stock) setMarks(links []bridge.Link) {
	s.marking.Lock()
	defer s.marking.Unlock()
	s.marks = links
}

// lastMarks lists the links that bore a mark when stock was taken.
func (s *stock) lastMarks() []bridge.Link {
	s.marking.Lock()
	defer s.marking.Unlock()
	return slices.Clone(s.marks)
}

// marked lists the links that bear a mark of vnetd's, and logs why it can't.
func (s *stock) marked() []bridge.Link {
	links, err := s.env.Links.Aliased(port.MarkPrefix)
	if err != nil {
		s.env.Logger.Error("what has lost its run-state is not recognised", env.KeyError, err)
	}
	return links
}
