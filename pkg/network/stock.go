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
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/store"
	"golang.org/x/sync/errgroup"
)

// found is a network that is not inactive, by its run-state or, where that is lost, by
// what it has in the kernel.
type found struct {
	store.Run
	marked bool // by what it has in the kernel
}

// stock finds the networks and ports that there are, on disk and in the kernel.
type stock struct {
	m *Manager

	taking sync.Mutex // held by take; guards taken
	taken  bool       // take was called before

	mu    sync.Mutex
	marks []bridge.Link // links that bore a mark when stock was taken
}

// take finds the networks and ports that there are, on disk and in the kernel,
// and that are not known yet: it reads the definitions, adopts what a former vnetd left
// active, and clears away what it left half made. What can't be used is in s.m.unusable
// afterwards, and in the error.
func (s *stock) take(ctx context.Context) error {
	s.taking.Lock()
	defer s.taking.Unlock()
	defFaults := s.loadDefinitions()
	links := s.marked()
	runs, runFaults, runsErr := s.m.cfg.Store.Runs()
	ports, portFaults, portsErr := s.m.cfg.Store.Ports()
	all := s.recognise(runs, runFaults, runsErr, links)
	s.m.orphans.load(ports, links, all)

	var g errgroup.Group
	g.SetLimit(startLimit)
	for _, r := range all {
		n := s.network(r.Network)
		g.Go(func() error { s.recover(ctx, n, r); return nil })
	}
	_ = g.Wait()
	s.setMarks(links) // the condition leaves out what is not orphaned
	s.taken = true
	states := slices.Concat(runFaults, portFaults, directoryFault(runsErr), directoryFault(portsErr))
	s.m.unusable.SetStates(slices.DeleteFunc(slices.Clone(states), s.known))
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

// known reports whether a fault is of run-state that was put together anew.
func (s *stock) known(f *store.Fault) bool {
	p := s.m.ports.reg.UUID(f.Stem)
	return s.m.owns(f.Stem) || p != nil && p.Kind == port.Own
}

// recognise adds to runs the networks whose run-state is lost, and which are active by
// what they have in the kernel. What else was recorded, changes to the host and the
// live document where that was another than the definition, is not known any more.
func (s *stock) recognise(runs []store.Run, faults []*store.Fault, unread error, links []bridge.Link) []found {
	all := make([]found, 0, len(runs))
	for _, r := range runs {
		if !s.m.owns(r.Network.UUID) {
			all = append(all, found{r, false})
		}
	}
	for _, n := range s.m.all() {
		def := n.definition()
		if def == nil || n.standing() || slices.ContainsFunc(runs, func(r store.Run) bool { return r.Network.UUID == def.UUID }) {
			continue
		}
		lost := unread != nil || slices.ContainsFunc(faults, func(f *store.Fault) bool { return f.Stem == def.UUID })
		if s.traces(def, lost, links) {
			s.m.log.Warn("an active network is known by its bridge, not by its run-state", keyNetwork, n.name, keyBridge, def.Bridge.Name)
			all = append(all, found{store.Run{Phase: store.Active, Network: def.Clone(), Persistent: true}, true})
		}
	}
	return all
}

// traces reports whether links are of the network that def defines: its bridge bears its
// mark, or a port on the bridge does. Where it is known that its run-state was lost, the
// bridge's name and MAC address will do, as older versions set no mark.
func (s *stock) traces(def *netdef.Network, lost bool, links []bridge.Link) bool {
	on, err := s.m.cfg.Links.Lookup(def.Bridge.Name)
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

// loadDefinitions makes an inactive network of every usable definition that is
// not known yet, and tells of the others. A definition without UUID, MAC address or
// bridge name, as an admin copied it there, is completed and saved.
func (s *stock) loadDefinitions() []*store.Fault {
	s.m.defining.Lock()
	defer s.m.defining.Unlock()
	defs, faults, err := s.m.cfg.Store.Definitions()
	for _, d := range defs {
		if err := s.loadDefinition(d); err != nil {
			name := d.Network.Name
			faults = append(faults, &store.Fault{Stem: name, Path: s.m.cfg.Store.DefinitionPath(name), UUID: d.Network.UUID, Err: err})
		}
	}
	s.m.unusable.SetDefinitions(faults)
	return append(faults, directoryFault(err)...)
}

func (s *stock) loadDefinition(d store.Definition) error {
	asWritten := string(d.Network.XML())
	known, err := s.m.identify(d.Network, false)
	if err != nil {
		return err
	}
	def, err := s.m.completed(d.Network, known)
	if err == nil {
		err = netdef.Conflicts(def, s.m.definitions(known))
	}
	if err != nil {
		return fmt.Errorf("network %q: %w", d.Network.Name, err)
	}
	if string(def.XML()) != asWritten {
		if err := s.m.cfg.Store.SaveDefinition(def); err != nil {
			s.m.log.Warn("a definition is completed for this time only", keyNetwork, def.Name, keyError, err)
		}
	}
	if known == nil {
		known = newNetwork(s.m, def)
		s.m.add(known)
	}
	known.setDefinition(def)
	known.setAutostart(d.Autostart)
	known.changed()
	s.m.orphans.adoptLocking(known, def.UUID)
	return nil
}

// network is the network that doc describes: a defined one, or, made
// here, a transient one that only its run-state still knows.
func (s *stock) network(doc *netdef.Network) *Network {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	n := s.m.byName[doc.Name]
	if n == nil {
		n = newNetwork(s.m, doc)
		s.m.byName[n.name] = n
	}
	return n
}

// setMarks takes note of the links that bear a mark.
func (s *stock) setMarks(links []bridge.Link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.marks = links
}

// lastMarks lists the links that bore a mark when stock was taken.
func (s *stock) lastMarks() []bridge.Link {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.marks)
}

// marked lists the links that bear a mark of vnetd's, and logs why it can't.
func (s *stock) marked() []bridge.Link {
	links, err := s.m.cfg.Links.Aliased(port.MarkPrefix)
	if err != nil {
		s.m.log.Error("what has lost its run-state is not recognised", keyError, err)
	}
	return links
}

// What vnetd makes says so of itself, in its ifalias, which takes CAP_NET_ADMIN to
// set: bridges are known by it where their run-state is lost, and ports (see
// package port).
//
//	vnetd network UUID NAME
const networkMark = port.MarkPrefix + "network "

// markOf is the mark of the bridge of a network.
func markOf(doc *netdef.Network) string {
	mark := networkMark + doc.UUID + " " + doc.Name
	return mark[:min(len(mark), port.MarkSize)]
}

// bears reports whether a bridge has the mark of a network.
func bears(l bridge.Link, uuid string) bool {
	return l.Kind == "bridge" && markedNetwork(l) == strings.ToLower(uuid)
}

// markedNetwork is the UUID of the network whose mark a link has, empty for none.
func markedNetwork(l bridge.Link) string {
	rest, ok := strings.CutPrefix(l.Alias, networkMark)
	if !ok {
		return ""
	}
	uuid, _, _ := strings.Cut(rest, " ")
	return strings.ToLower(uuid)
}

// recover deals with what a former vnetd left of the network: an active one is
// adopted as it is, a half made or half removed one is cleared away.
func (s *stock) recover(ctx context.Context, n *Network, r found) {
	n.op.Lock()
	defer n.op.Unlock()
	log := n.m.log.With(keyNetwork, n.name, keyBridge, r.Network.Bridge.Name)
	if !s.stillThere(n, r) {
		return
	}
	if err := n.record.Load(r.Run); err != nil {
		log.Error("what is to be put back on the host is not known", keyError, err)
	}
	if r.Persistent && n.definition() == nil {
		n.setUnread()
		n.setAutostart(n.m.cfg.Store.Autostarts(n.name))
	}
	if r.marked {
		n.record.Lose()
		if err := n.record.Save(r.Run); err != nil {
			log.Error("its run-state can't be written anew", keyError, err)
		}
	}
	if r.Phase != store.Active {
		err := turn{n}.finish(ctx, r.Network)
		log.Warn("cleared away a network that was being changed when vnetd ended", "phase", string(r.Phase), keyError, err)
		return
	}
	turn{n}.resume(ctx, r.Network)
	log.Info("network adopted", "state", string(n.Info().State))
}

// stillThere reports whether a network that was found is to be recovered: not what
// somebody has started or stopped since. The caller holds n.op.
func (s *stock) stillThere(n *Network, r found) bool {
	if n.standing() {
		return false
	}
	if r.marked {
		return s.traces(r.Network, true, s.marked())
	}
	_, err := n.m.cfg.Store.Run(r.Network.UUID)
	if errors.Is(err, fs.ErrNotExist) {
		if !n.persistent() {
			n.m.drop(n)
		}
		return false
	}
	return true
}
