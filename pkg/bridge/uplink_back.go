package bridge

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// putBack brings the uplink to the state and removes the bridge.
func (b *Bridges) putBack(s *UplinkState) error {
	br, err := b.uplinkBridge(s)
	if err != nil {
		return err
	}
	up, err := b.byName(s.Uplink)
	switch {
	case errors.Is(err, ErrNotFound):
		return b.removeUplinkBridge(br)
	case err != nil:
		return err
	}
	mv, err := newMove(s, br, up)
	if err != nil {
		return err
	}
	if err := b.refresh(mv); err != nil {
		return err
	}
	mv.dropDead()
	if err := b.prepare(mv); err != nil {
		return err
	}
	if err := b.carryOut(mv.putBackChanges(br.Index)); err != nil {
		return err
	}
	if err := b.settle(mv); err != nil {
		return err
	}
	if err := b.removeUplinkBridge(br); err != nil || s.Up {
		return err
	}
	return b.setDown(up.Index)
}

// putBackChanges give the routes and addresses to the uplink and take it off the
// bridge, if that is there. Routes first: leaving a bridge takes the kernel some
// milliseconds, in which the uplink sends already.
func (mv *uplinkMove) putBackChanges(br int) []change {
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
func (b *Bridges) refresh(mv *uplinkMove) error {
	if mv.from.Index == 0 {
		return nil
	}
	addrs, err := b.uplinkAddresses(mv.from.Index)
	if err != nil {
		return err
	}
	for i, a := range mv.addresses {
		if n := slices.IndexFunc(addrs, a.same); n >= 0 {
			mv.addresses[i] = a.withLifetimesOf(addrs[n])
		}
	}
	routes, err := b.uplinkRoutes(&mv.from)
	if err != nil {
		return err
	}
	there := indexRoutes(routes, mv.from.Index, mv.from.Index)
	for i, r := range mv.routes {
		if is, ok := there.find(r.on(mv.uplink, mv.from.Index)); ok {
			mv.routes[i].life = is.life
		}
	}
	neighbours, err := b.neighbours(mv.from.Index)
	mv.neighbours = append(neighbours, permanent(mv.neighbours)...)
	return err
}

// dropDead leaves behind what has no lifetime left.
func (mv *uplinkMove) dropDead() {
	mv.addresses = slices.DeleteFunc(mv.addresses, func(a uplinkAddress) bool { return a.valid() == 0 })
	mv.routes = slices.DeleteFunc(mv.routes, func(r uplinkRoute) bool { return r.life == 0 })
}

func (b *Bridges) removeUplinkBridge(br link) error {
	if br.Index == 0 {
		return nil
	}
	if err := remove(br.Index); err != nil {
		return err
	}
	b.forgetTree(br.Index)
	return b.stepped()
}

// setDown sets the uplink down, which it was.
func (b *Bridges) setDown(index int) error {
	if err := b.conn.do(setLink(index, 0, unix.IFF_UP)); err != nil {
		return fmt.Errorf("setting link %d down: %w", index, err)
	}
	return nil
}
