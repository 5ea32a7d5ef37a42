package uplink

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/bridge"
)

// putBack brings the uplink to the state and removes the bridge. The bridge stays until
// the uplink was seen to have what it is owed.
func (u *Uplinks) putBack(s *State) error {
	br, err := u.bridge(s)
	if err != nil {
		return err
	}
	up, err := u.find(s, br.Index)
	switch {
	case s.Made && (err == nil || errors.Is(err, ErrAway)): // it had nothing of its own
		return errors.Join(removeBridge(u, br), devices{u.kernel, u.afterChange}.unmake(up.Index))
	case errors.Is(err, ErrAway) && s.owesNothing():
		return removeBridge(u, br)
	case err != nil:
		return err
	}
	mv, err := newMove(s, br, up.Link)
	if err != nil {
		return err
	}
	if err := u.refresh(mv); err != nil {
		return err
	}
	mv.dropExpired()
	if !bytes.Equal(up.MAC, s.MAC) { // another device, with a link-local address of its own
		mv.addresses = slices.DeleteFunc(mv.addresses, address.linkLocal)
	}
	if err := errors.Join(u.giveBack(mv, br.Index, s.Up), devices{u.kernel, u.afterChange}.restoreMTU(s, up.Link)); err != nil {
		return err
	}
	if err := removeBridge(u, br); err != nil || s.Up {
		return err
	}
	// It was down.
	if err := u.kernel.do(setLink(up.Index, 0, unix.IFF_UP)); err != nil {
		return fmt.Errorf("setting link %d down: %w", up.Index, err)
	}
	return nil
}

// owesNothing reports whether the uplink had nothing that moved to the bridge.
func (s *State) owesNothing() bool {
	mv, err := newMove(s, bridge.Link{}, bridge.Link{})
	if err != nil {
		return false
	}
	mv.dropExpired()
	return !slices.ContainsFunc(mv.addresses, func(a address) bool { return !a.linkLocal() }) && len(mv.routes) == 0
}

// giveBack lets the uplink have addresses and routes, and sees whether it has them.
func (u *Uplinks) giveBack(mv *move, br int, wasUp bool) error {
	if !mv.to.Up && wasUp { // another one, or one that was plugged in again
		if err := u.apply([]change{{req: setLink(mv.to.Index, unix.IFF_UP, unix.IFF_UP), what: "setting the uplink up"}}); err != nil {
			return err
		}
		mv.to.Up = true
	}
	if err := u.prepare(mv); err != nil {
		return err
	}
	if err := u.apply(mv.putBackChanges(br)); err != nil {
		return err
	}
	if err := u.settle(mv); err != nil {
		return err
	}
	return u.verify(mv)
}

// verify sees whether the new link has all addresses and routes.
func (u *Uplinks) verify(mv *move) error {
	have, err := u.kernel.addresses(mv.to.Index)
	if err != nil {
		return err
	}
	for _, a := range mv.addresses {
		if !slices.ContainsFunc(have, a.same) {
			return fmt.Errorf("address %v did not come to %q", a.prefix, mv.to.Name)
		}
	}
	left, err := u.unsettled(mv)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("routes of %q are not what they were: %s", mv.to.Name, left[0].what)
	}
	return err
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
// or router advertisements renew there, addresses and routes that came there, and
// neighbours.
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
	for _, a := range addrs {
		if !a.linkLocal() && !slices.ContainsFunc(mv.addresses, a.same) {
			mv.addresses = append(mv.addresses, a)
		}
	}
	routes, err := u.kernel.routes(&mv.from)
	if err != nil {
		return err
	}
	mv.refreshRoutes(routes)
	neighbours, err := u.kernel.neighbours(mv.from.Index)
	mv.neighbours = append(neighbours, permanent(mv.neighbours)...)
	return err
}

// refreshRoutes takes over the routes of the bridge: their lifetimes, those that came, and
// those that somebody put in the place of others.
func (mv *move) refreshRoutes(routes []route) {
	there := indexRoutes(routes, mv.from.Index, mv.from.Index)
	var replaced []int
	for i, r := range mv.routes {
		if is, ok := there.find(r.on(mv.uplink, mv.from.Index)); ok {
			mv.routes[i].life = is.life
		} else {
			replaced = append(replaced, i)
		}
	}
	had := indexRoutes(mv.routes, mv.uplink, mv.from.Index)
	for _, r := range routes {
		_, known := had.find(r.on(mv.from.Index, mv.from.Index))
		// Half-way the kernel has made one IPv6 route of two equal ones. From a route
		// it takes the source that is no address of the host any more.
		alike := func(h route) bool { return bytes.Equal(h.get(unix.RTA_GATEWAY), r.get(unix.RTA_GATEWAY)) }
		if known || r.ofAddress() || r.get(rtaNHID) != nil || r.leads(mv.to.Index) || slices.ContainsFunc(had[r.equals()], alike) {
			continue
		}
		is := r.on(mv.from.Index, mv.uplink)
		if n := slices.IndexFunc(replaced, func(i int) bool { return mv.routes[i].equals() == r.equals() }); n >= 0 {
			mv.routes[replaced[n]] = is
			replaced = slices.Delete(replaced, n, n+1)
			continue
		}
		mv.routes = append(mv.routes, is)
	}
	slices.SortStableFunc(mv.routes, byRank)
}

func removeBridge(u *Uplinks, br bridge.Link) error {
	if br.Index == 0 {
		return nil
	}
	if err := u.links.Remove(br.Name, br.Index); err != nil {
		return err
	}
	return u.afterChange()
}
