package network

import (
	"context"
	"errors"
	"slices"

	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/store"
)

// Cleanup takes down every active network, every port and the chains, as if no
// vnetd had ever run, also those that are known by their marks alone; definitions and
// leases stay. The manager must be new: neither Load nor anything else was called on it.
func (m *Manager) Cleanup(ctx context.Context) error { return m.stock.clear(ctx) }

// clear is Cleanup.
func (s *stock) clear(ctx context.Context) error {
	s.loadDefinitions()
	runs, runFaults, err := s.m.cfg.Store.Runs()
	errs := []error{err}
	ports, portFaults, err := s.m.cfg.Store.Ports()
	errs = append(errs, err)
	links := s.marked()
	all := s.recognise(runs, runFaults, err, links)
	for _, p := range ports {
		errs = append(errs, s.m.ports.clear(p))
	}
	for _, r := range all {
		n := newNetwork(s.m, r.Network)
		errs = append(errs, n.record.Load(r.Run), turn{n}.clear(ctx, r.Network))
	}
	errs = append(errs, s.clearMarked())
	for _, f := range slices.Concat(runFaults, portFaults) {
		s.m.log.Warn("run-state that can't be used is deleted: what it was of is gone", "path", f.Path, keyError, f.Err)
	}
	errs = append(errs, s.forget(runFaults, s.m.cfg.Store.DeleteRun), s.forget(portFaults, s.m.cfg.Store.DeletePort))
	stopped, err := s.m.cfg.Store.Stopped()
	errs = append(errs, err)
	for _, uuid := range stopped {
		errs = append(errs, s.m.cfg.Store.SetStopped(uuid, false))
	}
	return errors.Join(append(errs, s.m.cfg.Rules.Purge(ctx))...)
}

// clearMarked deletes every link that still bears a mark of vnetd's.
func (s *stock) clearMarked() error {
	var errs []error
	for _, l := range s.marked() {
		_, isPort := port.Marked(l)
		var err error
		switch {
		case isPort:
			err = s.m.cfg.Links.DeleteLink(l.Index)
		case l.Kind == "bridge" && markedNetwork(l) != "":
			err = s.m.cfg.Links.Remove(l.Name, l.Index)
		default:
			continue
		}
		s.m.log.Warn("deleting a link that bears a mark of vnetd's", keyIfName, l.Name, "alias", l.Alias, keyError, err)
		if !errors.Is(err, bridge.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// forget deletes run-state that can't be used.
func (s *stock) forget(faults []*store.Fault, remove func(uuid string) error) error {
	var errs []error
	for _, f := range faults {
		errs = append(errs, remove(f.Stem))
	}
	return errors.Join(errs...)
}
