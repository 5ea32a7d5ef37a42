package uplink

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

const (
	// watchBuffer is the size of the socket's receive buffer: a routing daemon may
	// change thousands of routes at once.
	watchBuffer = 8 << 20

	// resubscribeDelay is the pause before a subscription that broke is tried again.
	resubscribeDelay = time.Second
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
	for renewed := false; ; renewed = true {
		subscribed, err := watchOnce(ctx, f)
		if ctx.Err() != nil {
			return nil
		}
		if !renewed && !subscribed {
			return fmt.Errorf("subscribing to changes of links and routes: %w", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(resubscribeDelay):
		}
	}
}

// watchOnce calls f until the subscription breaks or ctx ends.
func watchOnce(ctx context.Context, f func(Event)) (subscribed bool, err error) {
	s, err := netlink.Open(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return false, err
	}
	defer func() { _ = s.Close() }()
	s.SetBuffers(0, watchBuffer)
	stop := context.AfterFunc(ctx, func() { _ = s.Close() }) // ends Receive
	defer stop()
	f(Event{})
	for {
		datagram, err := s.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS): // messages were dropped, the socket goes on
			f(Event{})
		case err != nil:
			return true, err
		}
		for m := range netlink.Messages(datagram) {
			eventsOf(m, f)
		}
	}
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
