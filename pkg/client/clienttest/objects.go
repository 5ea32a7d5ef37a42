package clienttest

import (
	"cmp"
	"encoding/json"
	"slices"

	"github.com/godbus/dbus/v5"
)

func (s manager) Reload() *dbus.Error {
	if err := s.enter("Reload"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reloads++
	return nil
}

func (s manager) Describe() (string, *dbus.Error) {
	if err := s.enter("Describe"); err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	networks := []json.RawMessage{}
	for _, uuid := range s.byNetworkName() {
		networks = append(networks, json.RawMessage(s.describe(s.networks[uuid])))
	}
	text, _ := json.Marshal(map[string]any{
		"version": Version, "networks": networks, "conditions": concerning(s.conditions, ""),
		"firewall": map[string]any{
			"repairs": 0, "by_cause": map[string]int{}, "rules": 0, "zones": 0, "checks": 0, "failed": 0,
			"last_repair": nil, "contended": false,
		},
	})
	return string(text), nil
}

func (s networkObject) Describe(msg dbus.Message) (text string, err *dbus.Error) {
	err = s.onNetwork(msg, "Describe", func(n *network) *dbus.Error {
		text = s.describe(n)
		return nil
	})
	return text, err
}

func (s portObject) Describe(msg dbus.Message) (string, *dbus.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.ports[uuidOf(pathOf(msg))]
	if p == nil {
		return "", errorf("NotFound", "the port is gone")
	}
	text, _ := json.Marshal(p.describe())
	return string(text), nil
}

func (s objects) GetManagedObjects() (map[dbus.ObjectPath]map[string]map[string]dbus.Variant, *dbus.Error) {
	if err := s.enter("GetManagedObjects"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	objects := make(map[dbus.ObjectPath]map[string]map[string]dbus.Variant)
	for uuid, n := range s.networks {
		objects[objectPath("network", uuid)] = map[string]map[string]dbus.Variant{"org.vnetd1.Network": s.networkProperties(n)}
	}
	for uuid, p := range s.ports {
		objects[objectPath("port", uuid)] = map[string]map[string]dbus.Variant{"org.vnetd1.Port": p.properties()}
	}
	return objects, nil
}

func (s objects) GetAll(msg dbus.Message, iface string) (map[string]dbus.Variant, *dbus.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	uuid := uuidOf(pathOf(msg))
	if n := s.networks[uuid]; n != nil && iface == "org.vnetd1.Network" {
		return s.networkProperties(n), nil
	}
	if p := s.ports[uuid]; p != nil && iface == "org.vnetd1.Port" {
		return p.properties(), nil
	}
	if pathOf(msg) == rootPath {
		return map[string]dbus.Variant{
			"Version": dbus.MakeVariant(Version), "Conditions": busConditions(s.conditions),
			"LogLevel": dbus.MakeVariant(cmp.Or(s.logLevel, "info")), "ImportPending": dbus.MakeVariant(s.pending),
		}, nil
	}
	return nil, errorf("NotFound", "the object is gone")
}

func (s objects) Get(msg dbus.Message, iface, name string) (dbus.Variant, *dbus.Error) {
	props, err := s.GetAll(msg, iface)
	if err != nil {
		return dbus.Variant{}, err
	}
	value, ok := props[name]
	if !ok {
		return value, dbus.NewError("org.freedesktop.DBus.Error.UnknownProperty", []any{"no property " + name})
	}
	return value, nil
}

func (s objects) Set(msg dbus.Message, _, name string, value dbus.Variant) *dbus.Error {
	switch {
	case pathOf(msg) == rootPath && name == "ImportPending":
		s.SetImportPending(false)
		return nil
	case pathOf(msg) == rootPath:
		return s.setLogLevel(value)
	}
	return s.onNetwork(msg, "Set", func(n *network) *dbus.Error {
		on, ok := value.Value().(bool)
		switch {
		case name != "Autostart" || !ok:
			return errorf("Invalid", "property %q cannot be set so", name)
		case n.definition == "":
			return errorf("InvalidState", "network %q has no definition", n.doc.Name)
		}
		n.autostart = on
		return nil
	})
}

// setLogLevel takes the levels that vnetd has.
func (s *Server) setLogLevel(value dbus.Variant) *dbus.Error {
	level, _ := value.Value().(string)
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, level) {
		return errorf("Invalid", "log level %q is not known: want debug, info, warn, error", level)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logLevel = level
	return nil
}
