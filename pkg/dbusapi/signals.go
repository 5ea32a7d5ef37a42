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
	for path, ifaces := range (tree{s}).managedObjects() {
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
		s.addLease(netPath, e.Change, busLease(*e.Lease))
	}
	if !e.More || s.leases.Len() > signalsAtOnce {
		s.flush()
	}
}

// signalsAtOnce is how many bytes of signals wait at most for those that are to come.
const signalsAtOnce = 64 << 10

// addLease tells of a lease when no more events are there, or many. s.mu must be
// locked.
func (s *Server) addLease(path dbus.ObjectPath, change string, l lease) {
	b := &s.leases
	b.Add(path, networkInterface+".LeaseChanged", "s"+leaseSignature)
	b.String(change)
	b.Struct()
	b.String(l.Interface)
	b.Int64(l.Expiry)
	b.Uint32(uint32(l.Type))
	b.String(l.MAC)
	b.String(l.IAID)
	b.String(l.Address)
	b.Uint32(l.Prefix)
	b.String(l.Hostname)
	b.String(l.ClientID)
	b.End()
}

// flush sends the signals of leases that wait. s.mu must be locked.
func (s *Server) flush() {
	if err := s.conn.SendSignals(&s.leases); err != nil {
		s.cfg.Logger.Debug("sending signals", "error", err)
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

// emit sends a signal, behind those that wait. s.mu must be locked.
func (s *Server) emit(path dbus.ObjectPath, name string, values ...any) {
	s.flush()
	if err := s.conn.Emit(path, name, values...); err != nil {
		s.cfg.Logger.Debug("sending a signal", "signal", name, "error", err)
	}
}
