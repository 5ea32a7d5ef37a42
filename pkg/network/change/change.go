// Package change knows what of a network's document can change while the network is
// active, and what has to wait for its next start. It is pure.
package change

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// Check refuses what an active network can't become without its guests
// losing their link.
func Check(live, next *netdef.Network) error {
	if err := translate.Unsupported(next); err != nil {
		return err
	}
	fixed := []struct{ path, is, want string }{
		{"network/uuid", live.UUID, next.UUID},
		{"network/bridge/@name", live.Bridge.Name, next.Bridge.Name},
		{"network/vnetd:uplink/@dev", live.Uplink, next.Uplink},
		{"network/vnetd:uplink/@vlan", vlanText(live.UplinkVLAN), vlanText(next.UplinkVLAN)},
	}
	if live.Mode().OwnsBridge() != next.Mode().OwnsBridge() || !live.Mode().OwnsBridge() && live.Mode() != next.Mode() {
		fixed = append(fixed, struct{ path, is, want string }{"network/forward/@mode", string(live.Mode()), string(next.Mode())})
	}
	if live.HostAccess != nil {
		fixed = append(fixed, struct{ path, is, want string }{"network/vnetd:host-access", live.HostAccess.String(), next.HostAccess.String()})
	}
	var refused []error
	for _, f := range fixed {
		if f.is != f.want {
			refused = append(refused, api.Errorf(api.InvalidState, "%s: can't change from %q to %q while network %q is active: stop it first", f.path, f.is, f.want, live.Name))
		}
	}
	return errors.Join(refused...)
}

// vlanText is the number of a VLAN, empty for none.
func vlanText(id int) string {
	if id == 0 {
		return ""
	}
	return fmt.Sprint(id)
}

// Harmless is live with all elements of next that cut no guest off, and that make a
// document which works: a route goes with its subnet, say. Of those that are meant to whatever
// becomes of guests, meant has the paths.
func Harmless(live, next *netdef.Network, works func(*netdef.Network) bool, meant ...string) *netdef.Network {
	left := slices.DeleteFunc(elements(), func(e element) bool { return e.harms(live, next) && !slices.Contains(meant, e.path) })
	if all := with(live, next, left); works(all) {
		return all
	}
	mixed := live
	for again := true; again; {
		again = false
		left = slices.DeleteFunc(left, func(e element) bool {
			try := with(mixed, next, []element{e})
			if works(try) {
				mixed, again = try, true
			}
			return mixed == try
		})
	}
	return mixed
}

// with is a copy of doc with those elements from another.
func with(doc, from *netdef.Network, parts []element) *netdef.Network {
	doc, from = doc.Clone(), from.Clone()
	for _, e := range parts {
		e.set(doc, from)
	}
	return doc
}

// describedAtMost is how many changes are told one by one.
const describedAtMost = 100

// Describe are changes in words.
func Describe(changes []netdef.Change) []string {
	var lines []string
	for i, c := range changes {
		if i == describedAtMost {
			return append(lines, fmt.Sprintf("and %d more", len(changes)-i))
		}
		lines = append(lines, c.String())
	}
	return lines
}
