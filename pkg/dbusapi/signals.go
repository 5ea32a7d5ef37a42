package dbusapi

import (
	"reflect"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/pkg/network"
)

// learn notes what there is, so that subscribers are told only what changes
// from now on.
func (s *Server) learn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for path, ifaces := range s.managedObjects() {
		for _, values := range ifaces {
			s.known[path] = values
		}
	}
	m := s.manager()
	s.known[rootPath] = m.values()
}

// onEvent tells the bus what happened. It runs in one goroutine, in order.
func (s *Server) onEvent(e network.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	netPath := pathOf(networkPaths, e.Network.UUID)
	switch e.Kind {
	case network.NetworkDefined, network.NetworkChanged:
		if n, err := s.cfg.Manager.ByUUID(e.Network.UUID); err == nil {
			s.update(netPath, s.network(n))
		}
	case network.NetworkUndefined:
		s.remove(netPath, networkInterface)
	case network.PortAdded:
		s.update(pathOf(portPaths, e.Port.UUID), s.port(*e.Port))
	case network.PortChanged:
		if path := pathOf(portPaths, e.Port.UUID); s.known[path] != nil {
			s.update(path, s.port(*e.Port))
		}
	case network.PortRemoved:
		s.remove(pathOf(portPaths, e.Port.UUID), portInterface)
	case network.ConditionsChanged:
		s.update(rootPath, s.manager())
	case network.LeaseChanged:
		s.emit(netPath, networkInterface+".LeaseChanged", e.Change, busLease(*e.Lease))
	}
}

// update tells what is new about an object: that it is there, or which of its
// properties have other values than subscribers know. s.mu must be locked.
func (s *Server) update(path dbus.ObjectPath, i iface) {
	now := i.values()
	before, known := s.known[path]
	s.known[path] = now
	if !known {
		s.emit(rootPath, objectsInterface+".InterfacesAdded", path, map[string]map[string]dbus.Variant{i.name: now})
		return
	}
	changed := make(map[string]dbus.Variant)
	for name, v := range now {
		if !reflect.DeepEqual(before[name].Value(), v.Value()) {
			changed[name] = v
		}
	}
	if len(changed) > 0 {
		s.emit(path, propertiesInterface+".PropertiesChanged", i.name, changed, []string{})
	}
}

// remove tells that an object is gone, to those who knew it.
func (s *Server) remove(path dbus.ObjectPath, ifaceName string) {
	if _, known := s.known[path]; !known {
		return
	}
	delete(s.known, path)
	s.emit(rootPath, objectsInterface+".InterfacesRemoved", path, []string{ifaceName})
}

func (s *Server) emit(path dbus.ObjectPath, name string, values ...any) {
	if err := s.conn.Emit(path, name, values...); err != nil {
		s.cfg.Logger.Debug("sending a signal", "signal", name, "error", err)
	}
}
