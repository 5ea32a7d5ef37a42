package uplink

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/pkg/bridge"
)

// changesPerDatagram keeps the answers to a datagram, which may each repeat their
// request, below what a socket holds by default.
const changesPerDatagram = 100

// apply makes changes in as few datagrams as possible; where somebody watches,
// one by one. Those behind a failing one are made too.
func (u *Uplinks) apply(changes []change) error {
	size := changesPerDatagram
	if u.hook != nil {
		size = 1
	}
	var errs []error
	for part := range slices.Chunk(changes, size) {
		var reqs [][]byte
		for _, c := range part {
			reqs = append(reqs, c.req)
		}
		for i, err := range u.kernel.Do(reqs...) {
			switch {
			case err == nil || i < len(part) && part[i].fine != nil && errors.Is(err, part[i].fine):
			case i < len(part):
				errs = append(errs, fmt.Errorf("%s: %w", part[i].what, err))
			default:
				errs = append(errs, err)
			}
		}
		if err := u.afterChange(); err != nil {
			return errors.Join(append(errs, err)...)
		}
	}
	return errors.Join(errs...)
}

func (u *Uplinks) afterChange() error {
	if u.hook == nil {
		return nil
	}
	return u.hook()
}

// move is addresses, routes and neighbours on their way from one link to
// another. All are as they were on the uplink, less the time since.
type move struct {
	from, to   bridge.Link
	addresses  []address
	routes     []route
	neighbours []message
	uplink     int // index of the uplink when the routes were read
	// some: it is not all that the new link is to have, and nothing is taken away there.
	some bool
	// lasting: only what lasts is added where it is missing; some is true, too.
	lasting bool
}

// wants reports whether the new link is to get the address where it lacks it.
func (mv *move) wants(a address) bool { return !mv.lasting || a.valid() == forever }

// newMove reads the state's messages.
func newMove(s *State, from, to bridge.Link) (*move, error) {
	now, err := sinceBoot()
	if err != nil {
		return nil, err
	}
	mv := &move{from: from, to: to, uplink: s.Index}
	elapsed := now - s.Taken
	for _, data := range s.Addresses {
		a, err := parseAddress(data)
		if err != nil {
			return nil, fmt.Errorf("in the saved state: %w", err)
		}
		mv.addresses = append(mv.addresses, a.aged(elapsed))
	}
	for _, saved := range s.Routes {
		r, err := parseRoute(saved)
		if err != nil {
			return nil, fmt.Errorf("in the saved state: %w", err)
		}
		mv.routes = append(mv.routes, r.aged(elapsed))
	}
	for _, data := range s.Neighbours {
		n, err := parseMessage(data, unix.SizeofNdMsg)
		if err != nil {
			return nil, fmt.Errorf("in the saved state: %w", err)
		}
		mv.neighbours = append(mv.neighbours, n)
	}
	return mv, nil
}

// moveToBridge makes the bridge and moves the uplink's to it.
func (u *Uplinks) moveToBridge(s *State) (index int, err error) {
	br, err := u.makeBridge(s, s.Uplink)
	if err != nil {
		return 0, err
	}
	up, err := u.links.Lookup(s.Uplink)
	if err != nil {
		return 0, err
	}
	mv, err := newMove(s, up, br)
	if err != nil {
		return 0, err
	}
	if err := u.prepare(mv); err != nil {
		return 0, err
	}
	// The uplink first: until the routes change it sends as before.
	changes := []change{{req: setMaster(up.Index, br.Index), what: "making the uplink a port"}}
	if !up.Up {
		changes = append(changes, change{req: setLink(up.Index, unix.IFF_UP, unix.IFF_UP), what: "setting the uplink up"})
	}
	if err := u.apply(append(changes, mv.switchOver()...)); err != nil {
		return 0, err
	}
	_, err = devices{u.kernel, u.afterChange}.fit(s, up, br, nil)
	return br.Index, errors.Join(err, u.settle(mv))
}

// makeBridge makes the bridge as the uplink's twin and sets it up. It gives
// itself no IPv6 link-local address: it gets the uplink's. from is the name of the uplink,
// empty while that is away: the bridge has the kernel's sysctls then.
func (u *Uplinks) makeBridge(s *State, from string) (bridge.Link, error) {
	br, err := u.links.Create(bridge.Config{Name: s.Bridge, MAC: s.MAC, MTU: s.mtu()})
	if err != nil {
		return bridge.Link{}, err
	}
	if err := u.afterChange(); err != nil {
		return bridge.Link{}, err
	}
	if from != "" {
		if err := bridge.CopySysctls(from, s.Bridge); err != nil {
			return bridge.Link{}, err
		}
	}
	if err := u.kernel.do(setLink(br.Index, unix.IFF_UP, unix.IFF_UP)); err != nil {
		return bridge.Link{}, fmt.Errorf("setting bridge %q up: %w", s.Bridge, err)
	}
	br.Up = true
	return br, u.afterChange()
}

// prepare makes the addresses valid on the new link too, and tells it the
// neighbours and the routes of router advertisements.
func (u *Uplinks) prepare(mv *move) error {
	have, err := u.kernel.addresses(mv.to.Index)
	if err != nil {
		return err
	}
	var changes []change
	for _, a := range mv.addresses {
		n := slices.IndexFunc(have, a.same)
		switch {
		case !mv.wants(a):
		case n < 0:
			changes = append(changes, addAddress(a, mv.to)...)
		case a.settable() != have[n].settable():
			changes = append(changes, setAddressFlags(have[n], mv.to, a.settable()))
		}
	}
	for _, n := range mv.neighbours {
		changes = append(changes, addNeighbour(n, mv.to.Index))
	}
	if err := u.apply(changes); err != nil {
		return err
	}
	if err := u.kernel.awaitLocal(mv); err != nil {
		return err
	}
	return u.addAdvertisedRoutes(mv)
}

// addAdvertisedRoutes adds the routes that can't go into the datagram with the
// others.
func (u *Uplinks) addAdvertisedRoutes(mv *move) error {
	for _, r := range mv.routes {
		if !r.advertised || mv.lasting {
			continue
		}
		if err := r.advertisement().Add(mv.to.Index); err != nil {
			return fmt.Errorf("adding route %v: %w", r.dst(), err)
		}
		if err := u.afterChange(); err != nil {
			return err
		}
	}
	return nil
}

// switchOver are the changes that let the new link have the routes, and the
// addresses alone. Routes to the addresses' networks come and go with these; but
// that of an IPv6 address with a lifetime outlives it on the old link.
func (mv *move) switchOver() []change {
	var add, remove, removeOfAddresses []change
	for _, r := range mv.routes {
		switch {
		case r.advertised:
			remove = append(remove, mv.removeRoute(r))
		case r.ofAddress():
			removeOfAddresses = append(removeOfAddresses, mv.removeRoute(r))
		case mv.replaces(r):
			add = append(add, mv.addRoute(r))
		default:
			add = append(add, mv.addRoute(r))
			remove = append(remove, mv.removeRoute(r))
		}
	}
	return slices.Concat(add, remove, mv.removeAddresses(), removeOfAddresses)
}

// removeAddresses takes the addresses off the old link, from the last on, so that
// no secondary IPv4 address goes with its primary.
func (mv *move) removeAddresses() []change {
	var changes []change
	for _, a := range slices.Backward(mv.addresses) {
		if !a.linkLocal() {
			req := delAddress(a, mv.from.Index)
			changes = append(changes, change{req, fmt.Sprintf("removing address %v", a.prefix), unix.EADDRNOTAVAIL})
		}
	}
	return changes
}

// removeRoute removes a route from the old link.
func (mv *move) removeRoute(r route) change {
	return removeRoute(r, mv.uplink, mv.from.Index)
}

// removeRoute removes a route, which was read on one link, from another.
func removeRoute(r route, from, to int) change {
	req := r.on(from, to).request(unix.RTM_DELROUTE, 0)
	return change{req, fmt.Sprintf("removing route %v", r.dst()), unix.ESRCH}
}

// replaces reports whether the new route takes the old one's place instead of being
// added beside it: IPv6 routes with several ways out, as the kernel merges the
// ways of equal routes.
func (mv *move) replaces(r route) bool {
	return r.family() == unix.AF_INET6 && r.shared()
}

// addRoute adds a route to the new link, before or behind those that equal it but
// for the link.
func (mv *move) addRoute(r route) change {
	flags := uint16(unix.NLM_F_CREATE)
	switch {
	case mv.replaces(r):
		flags |= unix.NLM_F_REPLACE
	case !r.first:
		flags |= unix.NLM_F_APPEND
	}
	m := r.on(mv.uplink, mv.to.Index)
	if r.life != forever {
		m.message = m.with(unix.RTA_EXPIRES, netlink.Uint32(r.life))
	}
	return change{m.request(unix.RTM_NEWROUTE, flags), fmt.Sprintf("adding route %v", r.dst()), unix.EEXIST}
}

// settleTries is how often routes are added whose gateways are reached by routes
// that are to be added too.
const settleTries = 3

// settle brings the routes of the new link to what they were on the uplink.
func (u *Uplinks) settle(mv *move) error {
	var err error
	for range settleTries {
		var changes []change
		if changes, err = u.unsettled(mv); err != nil || len(changes) == 0 {
			return err
		}
		err = u.apply(changes)
	}
	return err
}

// unsettled are the changes that add the missing routes of the new link and take
// away those of its addresses that the uplink didn't have, or that come behind
// another link's and didn't.
func (u *Uplinks) unsettled(mv *move) ([]change, error) {
	have, err := u.kernel.routes(&mv.to)
	if err != nil {
		return nil, err
	}
	wanted := indexRoutes(mv.routes, mv.uplink, mv.to.Index)
	var changes []change
	var right []route
	for _, r := range have {
		is := r.on(mv.to.Index, mv.to.Index)
		w, ok := wanted.find(is)
		switch {
		case !ok && (mv.some || !mv.ofOurs(r)):
		case ok && (mv.some || r.first || !w.first || r.family() == unix.AF_INET6):
			right = append(right, r)
		default:
			changes = append(changes, change{is.request(unix.RTM_DELROUTE, 0), fmt.Sprintf("removing route %v", r.dst()), unix.ESRCH})
		}
	}
	there, others := indexRoutes(right, mv.to.Index, mv.to.Index), indexRoutes(have, mv.to.Index, mv.to.Index)
	for _, w := range mv.routes {
		w := w.on(mv.uplink, mv.to.Index)
		if _, ok := there.find(w); !ok && mv.wantsRoute(w, others) {
			changes = append(changes, mv.addRoute(w))
		}
	}
	return changes, nil
}

// wantsRoute reports whether the new link, which has those others, is to get the route
// where it lacks it: an admin may have put another in its place.
func (mv *move) wantsRoute(r route, others routeIndex) bool {
	return !mv.lasting || r.lasts() && len(others[r.equals()]) == 0
}

// ofOurs reports whether the route came with one of the moved addresses.
func (mv *move) ofOurs(r route) bool {
	return r.ofAddress() && slices.ContainsFunc(mv.addresses, func(a address) bool {
		return netip.PrefixFrom(a.peer, a.prefix.Bits()).Masked() == r.dst()
	})
}

// localLimit is how long awaitLocal waits: a kernel under load may take some
// milliseconds.
const localLimit = time.Second

// awaitLocal waits until the kernel takes in packets for the IPv6 addresses of the
// new link. It does so some time after they were added, from a work queue
// (addrconf_dad_work of net/ipv6/addrconf.c), and not while the link is down.
func (k kernel) awaitLocal(mv *move) error {
	for end := time.Now().Add(localLimit); time.Now().Before(end); time.Sleep(time.Millisecond) {
		local, err := k.localAddresses(mv.to.Index)
		if err != nil {
			return err
		}
		waiting := slices.ContainsFunc(mv.addresses, func(a address) bool {
			return a.prefix.Addr().Is6() && !local[a.prefix.Addr()]
		})
		if !waiting || !mv.to.Up {
			break
		}
	}
	return nil
}

// dropExpired leaves behind what has no lifetime left.
func (mv *move) dropExpired() {
	mv.addresses = slices.DeleteFunc(mv.addresses, func(a address) bool { return a.valid() == 0 })
	mv.routes = slices.DeleteFunc(mv.routes, func(r route) bool { return r.life == 0 })
}

// Temporary are the addresses that have a limited lifetime: unless the program
// that renewed them on the uplink (a DHCP client) does so on the bridge, the
// bridge loses them.
func (s *State) Temporary() []netip.Prefix {
	var all []netip.Prefix
	for _, data := range s.Addresses {
		a, err := parseAddress(data)
		if err == nil && a.valid() != forever {
			all = append(all, a.prefix)
		}
	}
	return all
}
