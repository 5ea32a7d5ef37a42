package netlink

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// watchBuffer is the size of the socket's receive buffer: thousands of messages
	// may wait for a slow callback, and a routing daemon changes as many routes at once.
	watchBuffer = 8 << 20

	// resubscribeDelay is the pause before a subscription that broke is tried again.
	resubscribeDelay = time.Second
)

// Watch calls f with every message of multicast groups of a protocol until ctx ends, and
// then returns nil. It calls missed at the beginning, when no later message can be missed,
// and whenever messages may have been lost. Both are called from one goroutine, the
// caller's; while they run, messages queue.
//
// The error is that of the first subscription; one that breaks later is renewed.
func Watch(ctx context.Context, protocol int, groups []uint, missed func(), f func(Message)) error {
	for renewed := false; ; renewed = true {
		subscribed, err := watchOnce(ctx, protocol, groups, missed, f)
		if ctx.Err() != nil {
			return nil
		}
		if !renewed && !subscribed {
			return fmt.Errorf("subscribing to changes of the host: %w", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(resubscribeDelay):
		}
	}
}

// watchOnce is Watch until the subscription breaks, if there ever was one.
func watchOnce(ctx context.Context, protocol int, groups []uint, missed func(), f func(Message)) (subscribed bool, err error) {
	s, err := Open(protocol, groups...)
	if err != nil {
		return false, err
	}
	defer func() { _ = s.Close() }()
	s.SetBuffers(0, watchBuffer)
	stop := context.AfterFunc(ctx, func() { _ = s.Close() }) // ends Receive
	defer stop()
	missed()
	for {
		datagram, err := s.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS): // netlink(7): messages were dropped, the socket goes on
			missed()
		case err != nil:
			return true, err
		}
		for m := range Messages(datagram) {
			if ctx.Err() == nil {
				f(m)
			}
		}
	}
}
