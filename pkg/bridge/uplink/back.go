package uplink

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/bridge"
)

// putBack brings the uplink to the state and removes the bridge.
func (u *Uplinks) putBack(s *State) error {
	br, err := u.bridge(s)
	if err != nil {
		return err
	}
	up, err := u.links.Lookup(s.Uplink)
	switch {
	case errors.Is(err, bridge.ErrNotFound):
		return u.removeBridge(br)
	case err != nil:
		return err
	}
	mv, err := newMove(s, br, up)
	if err != nil {
		return err
	}
	if err := u.refresh(mv); err != nil {
		return err
	}
	mv.dropExpired()
	if err := u.prepare(mv); err != nil {
		return err
	}
	if err := u.apply(mv.putBackChanges(br.Index)); err != nil {
		return err
	}
	if err := u.settle(mv); err != nil {
		return err
	}
	if err := u.removeBridge(br); err != nil || s.Up {
		return err
	}
	// It was down.
	if err := u.kernel.do(setLink(up.Index, 0, unix.IFF_UP)); err != nil {
		return fmt.Errorf("setting link %d down: %w", up.Index, err)
	}
	return nil
}

// putBackChanges give the routes and addresses to the uplink and take it off the
// bridge, if that is there. Routes first: leaving a bridge takes the kernel some
// milliseconds, in which the uplink sends already.
func (mv *move) putBackChanges(br int) []change {
	if br == 0 {
		return nil
	}
	changes := mv.switchOver()
	if mv.to.Master == br {
		changes = append(changes, change{req: setMaster(mv.to.Index, 0), what: "taking the uplink off the bridge"})
	}
	return changes
}

// refresh takes over what changed on the bridge since: lifetimes, which a client
// or router advertisements renew there, and neighbours.
func (u *Uplinks) refresh(mv *move) error {
	if mv.from.Index == 0 {
		return nil
	}
	addrs, err := u.kernel.addresses(mv.from.Index)
	if err != nil {
		return err
	}
	for i, a := range mv.addresses {
		if n := slices.IndexFunc(addrs, a.same); n >= 0 {
			mv.addresses[i] = a.withLifetimesOf(addrs[n])
		}
	}
	routes, err := u.kernel.routes(&mv.from)
	if err != nil {
		return err
	}
	there := indexRoutes(routes, mv.from.Index, mv.from.Index)
	for i, r := range mv.routes {
		if is, ok := there.find(r.on(mv.uplink, mv.from.Index)); ok {
			mv.routes[i].life = is.life
		}
	}
	neighbours, err := u.kernel.neighbours(mv.from.Index)
	mv.neighbours = append(neighbours, permanent(mv.neighbours)...)
	return err
}

// dropExpired leaves behind what has no lifetime left.
func (mv *move) dropExpired() {
	mv.addresses = slices.DeleteFunc(mv.addresses, func(a address) bool { return a.valid() == 0 })
	mv.routes = slices.DeleteFunc(mv.routes, func(r route) bool { return r.life == 0 })
}

func (u *Uplinks) removeBridge(br bridge.Link) error {
	if br.Index == 0 {
		return nil
	}
	if err := u.links.Remove(br.Name, br.Index); err != nil {
		return err
	}
	return u.afterChange()
}
