package bridge

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

const (
	// watchBuffer is the size of the socket's receive buffer: thousands of
	// link messages may wait for a slow callback.
	watchBuffer = 8 << 20

	// resubscribeDelay is the pause before a subscription that broke is tried
	// again.
	resubscribeDelay = time.Second
)

// LinkEvent is something that happened to a link.
type LinkEvent struct {
	// Resync says that events may have been lost, or that the watch begins:
	// look at every link of interest. The other fields are then empty.
	Resync bool
	// Deleted says that Link is gone; otherwise it is new or changed.
	Deleted bool
	Link
}

// Watch calls f with every event of a link until ctx ends, and then returns nil.
// The first call is a Resync, made when no later event can be missed. f is
// called from one goroutine, the caller's; while it runs, events queue.
//
// The error is that of the first subscription; one that breaks later is renewed.
func (b *Bridges) Watch(ctx context.Context, f func(LinkEvent)) error {
	for renewed := false; ; renewed = true {
		err := watchOnce(ctx, f)
		if ctx.Err() != nil {
			return nil
		}
		var broken *brokenError
		if !renewed && !errors.As(err, &broken) {
			return fmt.Errorf("subscribing to link events: %w", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(resubscribeDelay):
		}
	}
}

// brokenError says that a subscription ended after it had begun.
type brokenError struct{ error }

// watchOnce subscribes and calls f until the subscription breaks or ctx ends.
func watchOnce(ctx context.Context, f func(LinkEvent)) error {
	s, err := netlink.Open(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	s.SetBuffers(0, watchBuffer)
	// A closed socket ends Receive.
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	f(LinkEvent{Resync: true})
	for {
		datagram, err := s.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			// netlink(7): messages were dropped, the socket goes on.
			f(LinkEvent{Resync: true})
		case err != nil:
			return &brokenError{err}
		default:
			deliver(ctx, datagram, f)
		}
	}
}

// deliver calls f with the events in a datagram.
func deliver(ctx context.Context, datagram []byte, f func(LinkEvent)) {
	for m := range netlink.Messages(datagram) {
		if ctx.Err() != nil {
			return
		}
		if e, ok := parseEvent(m); ok {
			f(e)
		}
	}
}

// parseEvent reads one message; ok is false if it is none of a link. Messages of
// family AF_BRIDGE are about the port of a bridge: its RTM_DELLINK says that a
// link isn't a port any more, not that it is gone.
func parseEvent(m netlink.Message) (e LinkEvent, ok bool) {
	kind := m.Type
	if kind != unix.RTM_NEWLINK && kind != unix.RTM_DELLINK {
		return LinkEvent{}, false
	}
	if len(m.Body) == 0 || m.Body[0] != unix.AF_UNSPEC {
		return LinkEvent{}, false
	}
	l, err := parseLink(m.Body)
	if err != nil {
		return LinkEvent{Resync: true}, true
	}
	return LinkEvent{Deleted: kind == unix.RTM_DELLINK, Link: l.Link}, true
}
