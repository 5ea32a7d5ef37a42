package dbusapi

import (
	"context"
	"fmt"
	"strings"

	"github.com/godbus/dbus/v5"
)

// A port with the lifetime "bus" is held by a client, by "BUS NAME": the id of
// the bus, and the client's unique name there.

// busInterface is the bus itself.
const busInterface = "org.freedesktop.DBus"

// holder is how the hub knows a client of this bus.
func (s *Server) holder(name string) string { return s.busID + " " + name }

// followClients learns which clients have left, from now on, and ends what those
// held that have left before.
func (s *Server) followClients(ctx context.Context) error {
	left := make(chan *dbus.Signal, 100)
	s.conn.Signal(left)
	err := s.conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(busInterface), dbus.WithMatchInterface(busInterface),
		dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(2, ""))
	if err == nil {
		err = s.conn.BusObject().CallWithContext(ctx, busInterface+".GetId", 0).Store(&s.busID)
	}
	if err != nil {
		return fmt.Errorf("following the clients of the bus: %w", err)
	}
	s.running.Go(func() {
		for signal := range left { // until the connection ends
			s.onLeft(signal)
		}
	})
	for _, holder := range s.cfg.Manager.Ports().Holders() {
		bus, name, _ := strings.Cut(holder, " ")
		if bus != s.busID || !s.isConnected(ctx, name) {
			s.cfg.Manager.Ports().HolderGone(holder)
		}
	}
	return nil
}

// onLeft ends what a client held that has left. Its unique name begins with a
// colon, others are of services.
func (s *Server) onLeft(signal *dbus.Signal) {
	if signal.Name != busInterface+".NameOwnerChanged" || signal.Sender != busInterface || len(signal.Body) != 3 {
		return
	}
	name, _ := signal.Body[0].(string)
	if owner, _ := signal.Body[2].(string); owner != "" || !strings.HasPrefix(name, ":") {
		return
	}
	s.clients.forget(name)
	s.cfg.Manager.Ports().HolderGone(s.holder(name))
}

// isConnected reports whether a client is on the bus; true where the bus does not
// say.
func (s *Server) isConnected(ctx context.Context, name string) bool {
	var has bool
	err := s.conn.BusObject().CallWithContext(ctx, busInterface+".NameHasOwner", 0, name).Store(&has)
	return has || err != nil
}
