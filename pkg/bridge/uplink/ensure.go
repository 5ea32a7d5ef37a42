package uplink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/pkg/bridge"
)

// Found is what Ensure found and made.
type Found struct {
	// Uplink is the name of the uplink, which may be another than that of State;
	// empty while it is away.
	Uplink string
	// Repaired is what was not as it should be, and is now, in words for the log.
	Repaired []string
	// Ending are the host's addresses that end soon.
	Ending []Ending
}

// Ensure makes of a host what Attach made of it, whatever has become of that since: it
// makes the bridge anew, gives it the addresses and routes that it lost, and makes the
// uplink its port when that is back, as the same device under any name or another device
// with its name. While the uplink is away the bridge has the addresses and routes.
// Where nothing differs it changes nothing.
//
// What others have put on the uplink meanwhile, such as a client of DHCP or a
// network manager that set up the card again, moves to the bridge, too, and becomes part
// of the state. save stores a state that changed before anything moves; its error ends
// Ensure. What a bridge that was never gone has lost of addresses and routes with a
// lifetime, or of DHCP and router advertisements, is not put back: it is for their client
// to say.
func (u *Uplinks) Ensure(ctx context.Context, s *State, save func(State) error) (Found, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return Found{}, fmt.Errorf("uplink %q: %w", s.Uplink, err)
	}
	f, err := u.ensure(s, save)
	if err != nil {
		err = fmt.Errorf("keeping uplink %q bridged by %q: %w", s.Uplink, s.Bridge, err)
	}
	return f, err
}

func (u *Uplinks) ensure(s *State, save func(State) error) (f Found, err error) {
	br, err := u.bridge(s)
	if err != nil {
		return f, err
	}
	up, err := u.find(s, br.Index)
	if errors.Is(err, ErrAway) {
		up, err = again(u, s, br.Index)
	}
	if err != nil && !errors.Is(err, ErrAway) {
		return f, err
	}
	f.Uplink = up.Name
	whole := br.Index == 0 || !br.Up // the kernel took away what it had
	switch {
	case br.Index == 0:
		f.Repaired = append(f.Repaired, "the bridge was gone")
		br, err = u.makeBridge(s, up.Name)
	case br.Up && br.Name == s.Bridge:
		err = nil
	default:
		f.Repaired = append(f.Repaired, "the bridge was down or had another name")
		err = u.rightBridge(s, &br)
	}
	if err != nil {
		return f, err
	}
	s.BridgeIndex = br.Index
	var plugErr error
	if up.Index != 0 {
		plugErr = errors.Join(u.plug(s, &up, br, save, &f), fitAgain(u, s, up.Link, br, save, &f))
	}
	err = errors.Join(plugErr, u.restore(s, up.Link, br, whole, &f))
	if err == nil && !whole {
		f.Ending, err = u.kernel.ending(s, br.Index)
	}
	return f, err
}

// rightBridge gives the bridge back its name and sets it up.
func (u *Uplinks) rightBridge(s *State, br *bridge.Link) error {
	var attrs []attr
	if br.Name != s.Bridge {
		attrs = append(attrs, attr{unix.IFLA_IFNAME, append([]byte(s.Bridge), 0)})
	}
	if err := u.kernel.do(setLink(br.Index, unix.IFF_UP, unix.IFF_UP, attrs...)); err != nil {
		return fmt.Errorf("setting bridge %q up: %w", s.Bridge, err)
	}
	br.Up, br.Name = true, s.Bridge
	return u.afterChange()
}

// plug makes the uplink a port of the bridge, unless it is one, and moves there what it
// has of its own.
func (u *Uplinks) plug(s *State, up *nic, br bridge.Link, save func(State) error, f *Found) error {
	var routes arrivals
	if err := routes.listen(); err != nil {
		return err
	}
	defer routes.close()
	own, err := u.own(up, br)
	if err != nil {
		return err
	}
	next := *s
	if changed, err := next.absorb(&own, up); err != nil {
		return err
	} else if changed {
		if err := save(next); err != nil {
			return fmt.Errorf("saving the state: %w", err)
		}
		*s = next
	}
	mv := &move{from: up.Link, to: br, uplink: up.Index, addresses: own.addresses, routes: own.routes, some: true}
	if err := u.prepare(mv); err != nil {
		return err
	}
	var changes []change
	if up.Master != br.Index {
		f.Repaired = append(f.Repaired, fmt.Sprintf("the uplink %q was no port", up.Name))
		stale, err := u.kernel.neighbours(br.Index)
		if err != nil {
			return err
		}
		changes = append(plugIn(s, up, br.Index), forgetNeighbours(stale)...)
	}
	if len(own.addresses)+len(own.routes) > 0 {
		f.Repaired = append(f.Repaired, fmt.Sprintf("the uplink %q had %d addresses and %d routes of its own", up.Name, len(own.addresses), len(own.routes)))
		changes = append(changes, renew(mv)...)
		changes = append(changes, mv.switchOver()...)
		for _, r := range own.superseded {
			changes = append(changes, removeRoute(r, up.Index, br.Index))
		}
	}
	if len(changes) == 0 {
		return nil
	}
	defer keepSecondaries(up.Name)()
	return errors.Join(u.apply(changes), routes.adopt(s, up, mv, save), u.settle(mv))
}

// keepSecondaries has a link keep its secondary IPv4 addresses when their primary goes,
// until restore is called: somebody may have added one since they were listed.
func keepSecondaries(link string) (restore func()) {
	path := filepath.Join("/proc/sys/net/ipv4/conf", link, "promote_secondaries")
	was, err := os.ReadFile(path)
	if err != nil || strings.TrimSpace(string(was)) == "1" || os.WriteFile(path, []byte("1"), 0) != nil {
		return func() {}
	}
	return func() { _ = os.WriteFile(path, was, 0) }
}

// plugIn are the changes that make a device that came back a port of the bridge.
func plugIn(s *State, up *nic, br int) []change {
	changes := []change{{req: setMaster(up.Index, br), what: "making the uplink a port"}}
	if own := max(s.MTU, s.AskedMTU); up.MTU != own {
		mtu := attr{unix.IFLA_MTU, netlink.Uint32(uint32(own))}
		changes = append(changes, change{setLink(up.Index, 0, 0, mtu), "setting the uplink's MTU", unix.EINVAL})
	}
	if !up.Up {
		changes = append(changes, change{req: setLink(up.Index, unix.IFF_UP, unix.IFF_UP), what: "setting the uplink up"})
	}
	return changes
}

// renew are the changes that give addresses that are on the new link already the
// lifetimes of the old one.
func renew(mv *move) []change {
	var changes []change
	for _, a := range mv.addresses {
		if a.valid() != forever {
			changes = append(changes, setAddressFlags(a, mv.to, a.settable()))
		}
	}
	return changes
}

// belongings are addresses and routes of a link.
type belongings struct {
	addresses  []address
	routes     []route
	superseded []route // former ones of a client, see merge
}

// own lists what the uplink has of its own that should be the bridge's. The route to the
// network of an address is not among it where the bridge has one.
func (u *Uplinks) own(up *nic, br bridge.Link) (belongings, error) {
	addrs, err := u.kernel.addresses(up.Index)
	if err != nil {
		return belongings{}, err
	}
	routes, err := u.kernel.routes(&up.Link)
	if err != nil {
		return belongings{}, err
	}
	there, err := u.kernel.routes(&br)
	if err != nil {
		return belongings{}, err
	}
	for i := range routes {
		routes[i] = routes[i].withoutLink(br.Index)
	}
	known := indexRoutes(there, br.Index, br.Index)
	return belongings{
		addresses: slices.DeleteFunc(addrs, address.linkLocal),
		routes: slices.DeleteFunc(routes, func(r route) bool {
			return r.get(rtaNHID) != nil || r.ofAddress() && len(known[r.equals()]) > 0
		}),
	}, nil
}

// absorb makes what the uplink has of its own part of the state, and reports whether
// the state is another one now.
func (s *State) absorb(own *belongings, up *nic) (changed bool, err error) {
	is := up.device()
	same := s.Index == up.Index && s.Device.Kind == is.Kind && bytes.Equal(s.Device.MAC, is.MAC) && bytes.Equal(s.Device.Permanent, is.Permanent)
	if same && len(own.addresses)+len(own.routes) == 0 {
		return false, nil
	}
	mv, err := newMove(s, bridge.Link{}, bridge.Link{})
	if err != nil {
		return false, err
	}
	mv.dropExpired()
	for i := range mv.routes {
		mv.routes[i] = mv.routes[i].on(s.Index, up.Index)
	}
	mv.merge(own, up.Index)
	if s.Taken, err = sinceBoot(); err != nil {
		return false, err
	}
	s.Index, s.Device = up.Index, is
	s.Addresses, s.Routes = nil, nil
	for _, a := range mv.addresses {
		s.Addresses = append(s.Addresses, a.bytes())
	}
	for _, r := range mv.routes {
		s.Routes = append(s.Routes, r.saved())
	}
	return true, nil
}

// merge adds what the link with that index has to the move, in the place of what is the
// same but for lifetimes, or which a client of DHCP has changed.
func (mv *move) merge(own *belongings, index int) {
	for _, a := range own.addresses {
		if n := slices.IndexFunc(mv.addresses, a.same); n >= 0 {
			mv.addresses[n] = a
			continue
		}
		mv.addresses = append(mv.addresses, a)
	}
	for _, r := range own.routes {
		r = r.on(index, index)
		switch n := slices.IndexFunc(mv.routes, r.supersedes); {
		case n < 0:
			mv.routes = append(mv.routes, r)
		default:
			if !mv.routes[n].same(r) {
				own.superseded = append(own.superseded, mv.routes[n])
			}
			mv.routes[n] = r
		}
	}
	slices.SortStableFunc(mv.routes, byRank)
}

// restore gives the bridge what it lost of the state: all of it, or what nobody but an
// admin can have taken away.
func (u *Uplinks) restore(s *State, up, br bridge.Link, whole bool, f *Found) error {
	mv, err := newMove(s, up, br)
	if err != nil {
		return err
	}
	mv.dropExpired()
	if !whole {
		mv.some, mv.lasting, mv.neighbours = true, true, nil
	}
	lost, err := u.lost(mv)
	if err != nil || len(lost) == 0 {
		return err
	}
	if !whole {
		f.Repaired = append(f.Repaired, lost...)
	}
	if err := u.prepare(mv); err != nil {
		return err
	}
	return u.settle(mv)
}

// lost names the addresses and routes that the new link lacks.
func (u *Uplinks) lost(mv *move) ([]string, error) {
	have, err := u.kernel.addresses(mv.to.Index)
	if err != nil {
		return nil, err
	}
	var lost []string
	for _, a := range mv.addresses {
		if mv.wants(a) && !slices.ContainsFunc(have, a.same) {
			lost = append(lost, fmt.Sprintf("address %v was gone", a.prefix))
		}
	}
	changes, err := u.unsettled(mv)
	for _, c := range changes {
		lost = append(lost, "a route was missing or too much: "+c.what)
	}
	return lost, err
}

// again makes the VLAN device of s, whose parent is back, and finds it.
func again(u *Uplinks, s *State, br int) (nic, error) {
	if s.Parent == "" {
		return nic{}, ErrAway
	}
	_, err := devices{u.kernel, u.afterChange}.make(s.Uplink, s.Parent, s.VLAN)
	switch {
	case errors.Is(err, bridge.ErrNotFound):
		return nic{}, ErrAway
	case err != nil:
		return nic{}, err
	}
	return u.find(s, br)
}

// fitAgain is fit for an uplink that is a port already.
func fitAgain(u *Uplinks, s *State, up, br bridge.Link, save func(State) error, f *Found) error {
	raised, err := devices{u.kernel, u.afterChange}.fit(s, up, br, save)
	if raised {
		f.Repaired = append(f.Repaired, fmt.Sprintf("the uplink had an MTU of %d", up.MTU))
	}
	return err
}

// Fit has the bridge's MTU be that one from now on, as Config.MTU says, or the one that the
// uplink had; the bridge may be away. save stores the state before anything changes.
func (u *Uplinks) Fit(s *State, mtu int, save func(State) error) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	br, err := u.bridge(s)
	if err != nil {
		return err
	}
	up, err := u.find(s, br.Index)
	if err != nil && !errors.Is(err, ErrAway) {
		return err
	}
	was, d := *s, devices{u.kernel, u.afterChange}
	s.AskedMTU = mtu
	if mtu == 0 {
		err = errors.Join(d.setMTU(br, was.MTU), d.restoreMTU(&was, up.Link))
		s.OwnMTU = 0
		return errors.Join(err, save(*s))
	}
	if err := save(*s); err != nil {
		*s = was
		return err
	}
	_, err = d.fit(s, up.Link, br, save)
	return err
}
