package clienttest

import (
	"cmp"
	"encoding/json"
	"slices"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/pkg/api"
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
		"version": Version, "bgp": s.bgp, "networks": networks, "conditions": concerning(s.conditions, ""),
		"firewall": map[string]any{
			"repairs": 0, "by_cause": map[string]int{}, "rules": 0, "zones": 0, "checks": 0, "failed": 0,
			"last_repair": nil, "contended": false,
		},
	})
	return string(text), nil
}

// Count has zeros, where the test has said no more.
func (s manager) Count() (string, *dbus.Error) {
	if err := s.enter("Count"); err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := api.Counts{Networks: []api.NetworkCounts{}}
	switch {
	case len(s.counts) > 0:
		c = s.counts[0]
		s.counts = append(s.counts[1:], c)
	default:
		for _, uuid := range s.byNetworkName() {
			n := api.NetworkCounts{Name: s.networks[uuid].doc.Name, UUID: uuid, State: api.State(s.networks[uuid].currentState()), Ports: []api.PortCounts{}}
			c.Networks = append(c.Networks, n)
		}
	}
	text, _ := json.Marshal(c)
	return string(text), nil
}

// SetCounts says what was counted, call by call, and after the last from the first on again.
func (s *Server) SetCounts(counts ...api.Counts) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts = counts
}

// Clusters has none, where the test has not said which.
func (s manager) Clusters() (string, *dbus.Error) {
	if err := s.enter("Clusters"); err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	text, _ := json.Marshal(append([]api.Cluster{}, s.clusters...))
	return string(text), nil
}

// RestoreCluster has a cluster that lost something be whole.
func (s manager) RestoreCluster(name string) *dbus.Error {
	if err := s.enter("RestoreCluster"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.clusters {
		c := &s.clusters[i]
		switch {
		case c.Name != name:
			continue
		case c.Lost == "":
			return errorf("InvalidState", "the store has all that this host wrote: there is nothing to restore")
		}
		c.Connected, c.Lost, c.Reason = true, "", ""
		return nil
	}
	return errorf("NotFound", "this host is in no cluster %q", name)
}

// SetBGP says how the host of a server stands to routers; nil: it tells none.
func SetBGP(s *Server, b *api.BGP) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bgp = b
}

// SetClusters says how the host of a server stands to its clusters.
func SetClusters(s *Server, clusters ...api.Cluster) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clusters = clusters
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
	for uuid, f := range s.forwards {
		objects[objectPath("forward", uuid)] = map[string]map[string]dbus.Variant{"org.vnetd1.Forward": f.properties()}
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
	if f := s.forwards[uuid]; f != nil && iface == "org.vnetd1.Forward" {
		return f.properties(), nil
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
