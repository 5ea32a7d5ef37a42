package network

import (
	"context"
	"errors"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/bridge/hostlink"
	"github.com/vnetd/vnetd/pkg/bridge/vxlan"
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
	if err := s.ports.Guards().Silence(); err != nil { // they are guarded until they are gone, which takes the kernel longer
		s.env.Logger.Warn("ports keep their guards until they are deleted", env.KeyError, err)
	}
	errs = append(errs, atOnce(ports, s.ports.Clear))
	errs = append(errs, atOnce(all, func(r live.Found) error {
		return live.Former{Network: s.make(r.Network)}.Clear(ctx, r)
	}))
	errs = append(errs, s.env.UplinkKeeper.GiveBack(ctx), s.clearMarked(), s.env.Bandwidth.Sweep(true))
	for _, f := range slices.Concat(runFaults, portFaults) {
		s.env.Logger.Warn("run-state that can't be used is deleted: what it was of is gone", "path", f.Path, env.KeyError, f.Err)
	}
	errs = append(errs, s.forget(runFaults, s.env.Store.DeleteRun), s.forget(portFaults, s.env.Store.DeletePort))
	stopped, err := s.env.Store.Stops().All()
	errs = append(errs, err)
	for _, uuid := range stopped {
		errs = append(errs, s.env.Store.Stops().Set(uuid, nil))
	}
	return errors.Join(append(errs, s.ports.Guards().Purge(), s.env.Rules.Purge(ctx))...)
}

// clearLimit is how many networks or ports are cleared away at a time: several times what
// the kernel is asked to delete together.
const clearLimit = 64

// atOnce calls clear for each of all, many at the same time, and joins the errors.
func atOnce[T any](all []T, clear func(T) error) error {
	errs := make([]error, len(all))
	var g errgroup.Group
	g.SetLimit(clearLimit)
	for i, one := range all {
		g.Go(func() error { errs[i] = clear(one); return nil })
	}
	_ = g.Wait()
	return errors.Join(errs...)
}

// clearMarked deletes every link that still bears a mark of vnetd's.
func (s *stock) clearMarked() error {
	var errs []error
	for _, l := range s.marked() {
		_, isPort := port.Marked(l)
		var err error
		switch {
		case isPort, l.Kind == bridge.KindMacvlan && live.Marked(l) != "":
			err = s.env.Links.DeleteLink(l.Index)
		case l.Kind == vxlan.Kind && live.Marked(l) != "" && s.env.Tunnels != nil:
			err = s.env.Tunnels.Remove(l.Name, l.Alias)
		case l.Kind == hostlink.Kind && live.Marked(l) != "" && s.env.HostLinks != nil:
			err = s.env.HostLinks.Remove(l.Name, l.Alias, 0)
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
