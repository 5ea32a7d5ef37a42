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
	}
	if live.Mode().OwnsBridge() != next.Mode().OwnsBridge() {
		fixed = append(fixed, struct{ path, is, want string }{"network/forward/@mode", string(live.Mode()), string(next.Mode())})
	}
	var refused []error
	for _, f := range fixed {
		if f.is != f.want {
			refused = append(refused, api.Errorf(api.InvalidState, "%s: can't change from %q to %q while network %q is active: stop it first", f.path, f.is, f.want, live.Name))
		}
	}
	return errors.Join(refused...)
}

// Harmless is live with all elements of next that cut no guest off, and that make a
// document which works: a route goes with its subnet, say.
func Harmless(live, next *netdef.Network, works func(*netdef.Network) bool) *netdef.Network {
	left := slices.DeleteFunc(elements(), func(e element) bool { return e.harms(live, next) })
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
