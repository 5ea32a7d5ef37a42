package network

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// pending is what changes at a network's next start, as last asked for. Documents
// don't change once they are a network's: the same two differ in the same.
type pending struct {
	live, def *netdef.Network
	changes   []string
}

// Pending lists what of an active network its next start will change: how its
// definition differs from what it is. It is empty for any other network.
func (n *Network) Pending() []string {
	n.mu.Lock()
	p := n.pending
	live, def := n.live, n.def
	n.mu.Unlock()
	if p.live == live && p.def == def {
		return slices.Clone(p.changes)
	}
	p = pending{live: live, def: def}
	if live != nil && def != nil && !bytes.Equal(live.XML(), def.XML()) {
		p.changes = described(netdef.Diff(live, def))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pending = p
	return slices.Clone(p.changes)
}

// describedAtMost is how many changes are told one by one.
const describedAtMost = 100

// described are changes in words.
func described(changes []netdef.Change) []string {
	var lines []string
	for i, c := range changes {
		if i == describedAtMost {
			return append(lines, fmt.Sprintf("and %d more", len(changes)-i))
		}
		lines = append(lines, c.String())
	}
	return lines
}

// nextLive is what an active network becomes at once when its definition becomes
// def: live itself where nothing changes now. Both may be nil. The caller holds n.op.
func (n *Network) nextLive(live, def *netdef.Network, how api.Apply) *netdef.Network {
	if live == nil || how == api.ApplyNothing {
		return live
	}
	next := def
	if how != api.ApplyAll {
		next = mixture(live, def, func(doc *netdef.Network) bool {
			return doc.Runnable() == nil && changeable(live, doc) == nil && n.newSubnets(live, doc) == nil
		})
	}
	if bytes.Equal(next.XML(), live.XML()) {
		return live
	}
	return next
}

// mixture is live with all elements of next that cut no guest off, and that make a
// document which works: a route goes with its subnet, say.
func mixture(live, next *netdef.Network, works func(*netdef.Network) bool) *netdef.Network {
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
