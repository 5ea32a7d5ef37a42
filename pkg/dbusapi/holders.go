package dbusapi

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/internal/sysbus"
	"github.com/vnetd/vnetd/pkg/network"
)

// A port with the lifetime "bus" is held by a client, by "BUS NAME": the id of
// the bus, and the client's unique name there.

// busInterface is the bus itself.
const busInterface = "org.freedesktop.DBus"

// holders follows the clients of the bus: those that leave are forgotten, and
// lose the ports and forwards that they hold.
type holders struct {
	conn    *sysbus.Conn
	busID   string // of the bus; tells its clients from those of another
	manager *network.Manager
	clients *clients
}

// holder is how the hub knows a client of this bus.
func (h *holders) holder(name string) string { return h.busID + " " + name }

// isOf reports whether a holder is a client of that user, as far as it has called.
func (h *holders) isOf(holder string, user uint32) bool {
	name, ours := strings.CutPrefix(holder, h.busID+" ")
	return ours && h.clients.isOf(name, user)
}

// follow learns which clients have left, from now on, and ends what those
// held that have left before. Its goroutine ends with the connection.
func (h *holders) follow(ctx context.Context, running *sync.WaitGroup) error {
	left := make(chan *dbus.Signal, 100)
	h.conn.Signal(left)
	err := h.conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(busInterface), dbus.WithMatchInterface(busInterface),
		dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(2, ""))
	if err == nil {
		err = h.conn.BusObject().CallWithContext(ctx, busInterface+".GetId", 0).Store(&h.busID)
	}
	if err != nil {
		return fmt.Errorf("following the clients of the bus: %w", err)
	}
	running.Go(func() {
		for signal := range left { // until the connection ends
			h.onLeft(signal)
		}
	})
	for _, holder := range append(h.manager.Ports().Holders(), h.manager.Forwards().Holders()...) {
		bus, name, _ := strings.Cut(holder, " ")
		if bus != h.busID || !h.isConnected(ctx, name) {
			h.gone(holder)
		}
	}
	return nil
}

// gone ends what a client held.
func (h *holders) gone(holder string) {
	h.manager.Ports().HolderGone(holder)
	h.manager.Forwards().HolderGone(holder)
}

// onLeft ends what a client held that has left. Its unique name begins with a
// colon, others are of services.
func (h *holders) onLeft(signal *dbus.Signal) {
	if signal.Name != busInterface+".NameOwnerChanged" || signal.Sender != busInterface || len(signal.Body) != 3 {
		return
	}
	name, _ := signal.Body[0].(string)
	if owner, _ := signal.Body[2].(string); owner != "" || !strings.HasPrefix(name, ":") {
		return
	}
	h.clients.forget(name)
	h.gone(h.holder(name))
}

// isConnected reports whether a client is on the bus; true where the bus does not
// say.
func (h *holders) isConnected(ctx context.Context, name string) bool {
	var has bool
	err := h.conn.BusObject().CallWithContext(ctx, busInterface+".NameHasOwner", 0, name).Store(&has)
	return has || err != nil
}
