package network

import (
	"context"
	"errors"
	"slices"

	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/network/env"
	"github.com/vnetd/vnetd/pkg/network/live"
	"github.com/vnetd/vnetd/pkg/network/port"
	"github.com/vnetd/vnetd/pkg/store"
)

// clear is Cleanup.
func (s *stock) clear(ctx context.Context) error {
	s.loadDefinitions()
	unread := s.env.UplinkKeeper.Load()
	runs, runFaults, err := s.env.Store.Runs()
	errs := []error{unread, err}
	ports, portFaults, err := s.env.Store.Ports()
	errs = append(errs, err)
	links := s.marked()
	all := s.recognise(runs, runFaults, err, links)
	for _, p := range ports {
		errs = append(errs, s.ports.Clear(p))
	}
	for _, r := range all {
		errs = append(errs, live.Former{Network: s.make(r.Network)}.Clear(ctx, r))
	}
	errs = append(errs, s.env.UplinkKeeper.GiveBack(ctx), s.clearMarked())
	for _, f := range slices.Concat(runFaults, portFaults) {
		s.env.Logger.Warn("run-state that can't be used is deleted: what it was of is gone", "path", f.Path, env.KeyError, f.Err)
	}
	errs = append(errs, s.forget(runFaults, s.env.Store.DeleteRun), s.forget(portFaults, s.env.Store.DeletePort))
	stopped, err := s.env.Store.Stops().All()
	errs = append(errs, err)
	for _, uuid := range stopped {
		errs = append(errs, s.env.Store.Stops().Set(uuid, false))
	}
	return errors.Join(append(errs, s.ports.Guards().Purge(), s.env.Rules.Purge(ctx))...)
}

// clearMarked deletes every link that still bears a mark of vnetd's.
func (s *stock) clearMarked() error {
	var errs []error
	for _, l := range s.marked() {
		_, isPort := port.Marked(l)
		var err error
		switch {
		case isPort:
			err = s.env.Links.DeleteLink(l.Index)
		case l.Kind == "bridge" && live.Marked(l) != "":
			err = s.env.Links.Remove(l.Name, l.Index)
		default:
			continue
		}
		s.env.Logger.Warn("deleting a link that bears a mark of vnetd's", env.KeyIfName, l.Name, "alias", l.Alias, env.KeyError, err)
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
