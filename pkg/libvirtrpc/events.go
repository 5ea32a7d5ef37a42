package libvirtrpc

import (
	"context"
	"sync"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network"
)

// The events that clients can register for (virNetworkEventID).
const (
	eventLifecycle = 0
	eventMetadata  = 1

	events = 2 // how many there are
)

// The procedures that carry them.
const (
	procEventLifecycle = 315
	procEventMetadata  = 446
)

// lifecycle is what happened to a network (virNetworkEventLifecycleType).
type lifecycle int32

// What happens to networks.
const (
	defined   lifecycle = 0
	undefined lifecycle = 1
	started   lifecycle = 2
	stopped   lifecycle = 3
)

// registerArgs are those of virConnectNetworkEventRegisterAny.
type registerArgs struct {
	event   int32
	network *ref
}

func readRegister(d *decoder) registerArgs { return registerArgs{d.int32(), d.optRef()} }

func registerEvent(_ context.Context, c *session, a registerArgs, results *encoder) error {
	if a.event < 0 || a.event >= events {
		return rpcf(codeInternal, "unsupported network event ID %d", a.event)
	}
	w := &watch{event: a.event}
	if a.network != nil {
		if _, err := c.network(*a.network); err != nil {
			return err
		}
		w.network = &a.network.uuid
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, other := range c.watches {
		if w.equal(other) {
			return failf(codeInvalidArg, "event callback already tracked")
		}
	}
	c.lastWatch++
	c.watches[c.lastWatch] = w
	results.int32(c.lastWatch)
	return nil
}

func deregisterEvent(_ context.Context, c *session, id int32, _ *encoder) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watches[id] == nil {
		return rpcf(codeInternal, "network event callback %d not registered", id)
	}
	delete(c.watches, id)
	return nil
}

// history is what is known of networks, to tell what has happened to one from
// what it is now.
type history struct {
	mu   sync.Mutex
	last map[string]api.Network // by UUID
}

// learn takes what networks are as known.
func (h *history) learn(list []Network) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = make(map[string]api.Network, len(list))
	for _, n := range list {
		info := n.Info()
		h.last[info.UUID] = info
	}
}

// changes are what has happened to the network of an event, in order: as with
// libvirt, a transient network only starts and stops.
func (h *history) changes(e network.Event) []lifecycle {
	h.mu.Lock()
	defer h.mu.Unlock()
	is := e.Network
	was := h.last[is.UUID]
	var list []lifecycle
	switch e.Kind {
	case network.NetworkUndefined:
		delete(h.last, is.UUID)
		if was.Persistent {
			list = append(list, undefined)
		}
		return list
	case network.NetworkDefined:
		list = append(list, defined)
	case network.NetworkChanged:
		if was.Persistent && !is.Persistent {
			list = append(list, undefined)
		}
	default:
		return nil
	}
	h.last[is.UUID] = is
	switch {
	case is.Active && !was.Active:
		list = append(list, started)
	case was.Active && !is.Active:
		list = append(list, stopped)
	}
	return list
}
