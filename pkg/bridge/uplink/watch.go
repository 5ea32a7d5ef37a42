package uplink

import (
	"context"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// Event says that something about a link, or its addresses or routes, changed.
type Event struct {
	// Index is that of the link, 0 when it is not known which: look at all.
	Index int
	// Link says that the link itself changed: it is new, gone, or has another name or
	// state.
	Link bool
}

// Watch calls f with every event until ctx ends, and then returns nil. The first one is
// about no link that is known, and comes when no later event can be missed. f is called
// from one goroutine, the caller's.
func (u *Uplinks) Watch(ctx context.Context, f func(Event)) error {
	groups := []uint{
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
	}
	return netlink.Watch(ctx, unix.NETLINK_ROUTE, groups, func() { f(Event{}) }, func(m netlink.Message) { eventsOf(m, f) })
}

// eventsOf calls f with what a message says: more than once for a route with several
// ways out.
func eventsOf(m netlink.Message, f func(Event)) {
	switch m.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		// Those of family AF_BRIDGE are about the port of a bridge: it leaves
		// one by a change of its link, too.
		if len(m.Body) >= unix.SizeofIfInfomsg && m.Body[0] == unix.AF_UNSPEC {
			f(Event{Index: int(binary.NativeEndian.Uint32(m.Body[4:])), Link: true})
		}
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if len(m.Body) >= unix.SizeofIfAddrmsg {
			f(Event{Index: int(binary.NativeEndian.Uint32(m.Body[4:]))})
		}
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if len(m.Body) >= unix.SizeofRtMsg {
			routeEvents(m.Body[unix.SizeofRtMsg:], f)
		}
	}
}

// routeEvents calls f for every way out of a route with these attributes.
func routeEvents(attrs []byte, f func(Event)) {
	for kind, value := range netlink.Attributes(attrs) {
		switch {
		case kind == unix.RTA_OIF && len(value) == 4:
			f(Event{Index: int(binary.NativeEndian.Uint32(value))})
		case kind == unix.RTA_MULTIPATH:
			for hop := range netlink.NextHops(value) {
				f(Event{Index: int(binary.NativeEndian.Uint32(hop[4:]))})
			}
		}
	}
}
