package client

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/pkg/api"
)

// EventKind says what happened.
type EventKind string

// What Watch tells.
const (
	NetworkAdded   EventKind = "network-added"
	NetworkChanged EventKind = "network-changed"
	NetworkRemoved EventKind = "network-removed"
	PortAdded      EventKind = "port-added"
	PortChanged    EventKind = "port-changed"
	PortRemoved    EventKind = "port-removed"
	// LeaseChanged: Event.Change says how, Event.Lease of what.
	LeaseChanged EventKind = "lease"
	// HostChanged: a property of vnetd itself, as the conditions of the host.
	HostChanged EventKind = "host-changed"
	// DaemonStarted and DaemonStopped: vnetd came and went. Its networks stay.
	DaemonStarted EventKind = "vnetd-started"
	DaemonStopped EventKind = "vnetd-stopped"
)

// Event is one thing that happened. A newer vnetd may have other kinds.
type Event struct {
	Kind EventKind
	// Network is the name of the network that it happened to or on, if any.
	Network string
	// Port is the port that it happened to, as it is now or last was; else nil.
	Port *api.Port
	// Changed are the properties with new values, of a change, by name. A list of
	// dictionaries, as of conditions, is an []any of map[string]any.
	Changed map[string]any
	// Change is bound, renewed, released, expired or declined, and Lease the lease.
	Change string
	Lease  *api.Lease
}

// Watch calls f with what happens from now on, in order and from the caller's
// goroutine, until ctx ends, and then returns nil. The error is that of f, or
// api.NotRunning when the bus is lost; a vnetd that goes and comes is an event.
// One Watch at a time and Client.
func (c *Client) Watch(ctx context.Context, f func(Event) error) error {
	signals := make(chan *dbus.Signal, 1000)
	c.conn.Signal(signals)
	defer c.conn.RemoveSignal(signals)
	for _, match := range [][]dbus.MatchOption{
		{dbus.WithMatchSender(busName)},
		{dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, busName)},
	} {
		if err := c.conn.AddMatchSignalContext(ctx, match...); err != nil {
			return convertError(err)
		}
		defer func() { _ = c.conn.RemoveMatchSignal(match...) }()
	}
	w := watcher{networks: make(map[dbus.ObjectPath]string), ports: make(map[dbus.ObjectPath]properties)}
	if err := w.learn(ctx, c); err != nil && !errors.Is(err, api.NotRunning) {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.conn.Context().Done():
			return &Error{Kind: api.NotRunning, Message: "the connection to the system bus broke"}
		case s, ok := <-signals:
			if !ok {
				return &Error{Kind: api.NotRunning, Message: "the connection to the system bus broke"}
			}
			if e, ok := w.event(s); ok {
				if err := f(e); err != nil {
					return err
				}
			}
		}
	}
}

// watcher turns signals into events; it remembers what the paths are of.
type watcher struct {
	networks map[dbus.ObjectPath]string
	ports    map[dbus.ObjectPath]properties
}

// learn asks what there is.
func (w *watcher) learn(ctx context.Context, c *Client) error {
	networks, err := c.managedObjects(ctx, networkInterface)
	if err != nil {
		return err
	}
	for path, props := range networks {
		w.networks[path] = property[string](props, "Name")
	}
	ports, err := c.managedObjects(ctx, portInterface)
	maps.Copy(w.ports, ports)
	return err
}

// event reads a signal; ok is false for one that means nothing here.
func (w *watcher) event(s *dbus.Signal) (e Event, ok bool) {
	switch s.Name {
	case "org.freedesktop.DBus.NameOwnerChanged":
		var name, before, after string
		if dbus.Store(s.Body, &name, &before, &after) != nil || name != busName {
			return e, false
		}
		e.Kind = DaemonStarted
		if after == "" {
			e.Kind = DaemonStopped
		}
		return e, true
	case "org.freedesktop.DBus.ObjectManager.InterfacesAdded":
		return w.added(s.Body)
	case "org.freedesktop.DBus.ObjectManager.InterfacesRemoved":
		return w.removed(s.Body)
	case propertiesInterface + ".PropertiesChanged":
		return w.changed(s.Path, s.Body)
	case networkInterface + ".LeaseChanged":
		return w.lease(s.Path, s.Body)
	}
	return e, false
}

func (w *watcher) added(body []any) (e Event, ok bool) {
	var path dbus.ObjectPath
	var ifaces map[string]map[string]dbus.Variant
	if dbus.Store(body, &path, &ifaces) != nil {
		return e, false
	}
	if props, is := ifaces[networkInterface]; is {
		w.networks[path] = property[string](props, "Name")
		return Event{Kind: NetworkAdded, Network: w.networks[path]}, true
	}
	if props, is := ifaces[portInterface]; is {
		w.ports[path] = props
		return w.port(PortAdded, path, nil)
	}
	return e, false
}

func (w *watcher) removed(body []any) (e Event, ok bool) {
	var path dbus.ObjectPath
	var ifaces []string
	if dbus.Store(body, &path, &ifaces) != nil {
		return e, false
	}
	switch {
	case slices.Contains(ifaces, networkInterface):
		e = Event{Kind: NetworkRemoved, Network: w.networks[path]}
		delete(w.networks, path)
		return e, true
	case slices.Contains(ifaces, portInterface):
		e, ok = w.port(PortRemoved, path, nil)
		delete(w.ports, path)
	}
	return e, ok
}

func (w *watcher) changed(path dbus.ObjectPath, body []any) (e Event, ok bool) {
	var iface string
	var props properties
	var invalidated []string
	if dbus.Store(body, &iface, &props, &invalidated) != nil {
		return e, false
	}
	values := make(map[string]any, len(props))
	for name, v := range props {
		values[name] = plainValue(v.Value())
	}
	switch iface {
	case networkInterface:
		return Event{Kind: NetworkChanged, Network: w.networks[path], Changed: values}, true
	case managerInterface:
		return Event{Kind: HostChanged, Changed: values}, true
	case portInterface:
		if w.ports[path] == nil {
			w.ports[path] = make(properties)
		}
		maps.Copy(w.ports[path], props)
		return w.port(PortChanged, path, values)
	}
	return e, false
}

// plainValue returns a value of a property without the bus library's types: what
// is a dictionary of variants on the bus is a map[string]any here.
func plainValue(v any) any {
	switch v := v.(type) {
	case dbus.Variant:
		return plainValue(v.Value())
	case dbus.ObjectPath:
		return string(v)
	case map[string]dbus.Variant:
		plain := make(map[string]any, len(v))
		for name, value := range v {
			plain[name] = plainValue(value)
		}
		return plain
	case []map[string]dbus.Variant:
		plain := make([]any, 0, len(v))
		for _, entry := range v {
			plain = append(plain, plainValue(entry))
		}
		return plain
	}
	return v
}

// port is an event of a port.
func (w *watcher) port(kind EventKind, path dbus.ObjectPath, changed map[string]any) (Event, bool) {
	info, err := newPortInfo(path, w.ports[path])
	if err != nil {
		return Event{}, false
	}
	return Event{Kind: kind, Network: info.Network, Port: &info, Changed: changed}, true
}

func (w *watcher) lease(path dbus.ObjectPath, body []any) (e Event, ok bool) {
	var change string
	var wire wireLease
	if dbus.Store(body, &change, &wire) != nil {
		return e, false
	}
	lease, err := newLease(wire)
	if err != nil {
		return e, false
	}
	return Event{Kind: LeaseChanged, Network: w.networks[path], Change: change, Lease: &lease}, true
}
