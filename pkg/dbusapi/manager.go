package dbusapi

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network"
)

// listed is an entry of ListNetworks and ListPorts.
type listed struct {
	First, Second string
	Path          dbus.ObjectPath
}

// managerObject answers the methods of the Manager interface.
type managerObject struct{ *Server }

// manager is the Manager interface.
func (s *Server) manager() iface {
	m := managerObject{s}
	xml := []arg{{"xml", "s"}}
	path := func(name string) []arg { return []arg{{name, "o"}} }
	return iface{
		name: managerInterface,
		methods: []method{
			{"DefineNetwork", xml, path("network"), manageNetworks, m.defineNetwork},
			{
				"DefineNetworkWithOptions",
				[]arg{{"xml", "s"}, {"options", "a{sv}"}},
				[]arg{{"network", "o"}, {"result", "a{sv}"}},
				manageNetworks, m.defineNetworkWithOptions,
			},
			{"CreateNetwork", xml, path("network"), manageNetworks, m.createNetwork},
			{"Plan", xml, []arg{{"json", "s"}}, read, m.plan},
			{
				"TakeOver",
				[]arg{{"definition", "s"}, {"status", "s"}, {"ports", "as"}, {"leases", "s"}, {"autostart", "b"}, {"dry", "b"}},
				[]arg{{"json", "s"}},
				manageNetworks, m.takeOver,
			},
			{"GetNetwork", []arg{{"name", "s"}}, path("network"), read, m.getNetwork},
			{"GetNetworkByUUID", []arg{{"uuid", "s"}}, path("network"), read, m.getNetworkByUUID},
			{"ListNetworks", nil, []arg{{"networks", "a(sso)"}}, read, m.listNetworks},
			{
				"RequestPort",
				[]arg{{"network", "s"}, {"options", "a{sv}"}},
				[]arg{{"port", "o"}, {"fds", "ah"}, {"info", "a{sv}"}},
				selfCheck, m.requestPort,
			},
			{"GetPort", []arg{{"uuid", "s"}}, path("port"), read, m.getPort},
			{"ListPorts", nil, []arg{{"ports", "a(sso)"}}, read, m.listPorts},
			{"Reload", nil, nil, manageNetworks, m.reload},
			{"Describe", nil, []arg{{"json", "s"}}, read, m.describe},
		},
		properties: []property{
			{name: "Version", sig: "s", constant: true, get: func() any { return s.cfg.Version }},
			{name: "LogLevel", sig: "s", get: func() any { return strings.ToLower(s.cfg.LogLevel.Level().String()) }, set: m.setLogLevel},
			{name: "Conditions", sig: "aa{sv}", get: func() any { return busConditions(s.cfg.Manager.Conditions()) }},
			{name: "ImportPending", sig: "b", get: func() any { return s.cfg.ImportPending() }, set: m.setImportPending},
		},
	}
}

func (m managerObject) createNetwork(ctx context.Context, c *call) ([]any, error) {
	return networkPath(m.cfg.Manager.Create(ctx, []byte(c.body[0].(string))))
}

func (m managerObject) plan(_ context.Context, c *call) ([]any, error) {
	p, err := m.cfg.Manager.Plan([]byte(c.body[0].(string)))
	if err != nil {
		return nil, err
	}
	return toJSON(p)
}

func (m managerObject) takeOver(ctx context.Context, c *call) ([]any, error) {
	t, err := m.cfg.Manager.TakeOver(ctx, api.Takeover{
		Definition: c.body[0].(string), Status: c.body[1].(string), Ports: c.body[2].([]string),
		Leases: c.body[3].(string), Autostart: c.body[4].(bool),
	}, c.body[5].(bool))
	if err != nil {
		return nil, err
	}
	return toJSON(t)
}

// setImportPending records that libvirt's networks have been imported.
func (m managerObject) setImportPending(_ context.Context, v any) error {
	if v.(bool) {
		return api.Errorf(api.Invalid, "ImportPending can only be set to false: libvirt's networks are imported")
	}
	if err := m.cfg.ImportDone(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.update(rootPath, m.manager())
	return nil
}

func (m managerObject) getNetwork(_ context.Context, c *call) ([]any, error) {
	return networkPath(m.cfg.Manager.ByName(c.body[0].(string)))
}

func (m managerObject) getNetworkByUUID(_ context.Context, c *call) ([]any, error) {
	return networkPath(m.cfg.Manager.ByUUID(c.body[0].(string)))
}

// networkPath is the reply that names a network.
func networkPath(n *network.Network, err error) ([]any, error) {
	if err != nil {
		return nil, err
	}
	return []any{pathOf(networkPaths, n.Info().UUID)}, nil
}

func (m managerObject) listNetworks(context.Context, *call) ([]any, error) {
	list := []listed{}
	for _, n := range m.cfg.Manager.Networks() {
		info := n.Info()
		list = append(list, listed{info.Name, info.UUID, pathOf(networkPaths, info.UUID)})
	}
	return []any{list}, nil
}

func (m managerObject) getPort(_ context.Context, c *call) ([]any, error) {
	p, err := m.cfg.Manager.Ports().Find(c.body[0].(string))
	if err != nil {
		return nil, err
	}
	return []any{pathOf(portPaths, p.UUID)}, nil
}

func (m managerObject) listPorts(context.Context, *call) ([]any, error) {
	list := []listed{}
	for _, p := range m.cfg.Manager.Ports().List() {
		list = append(list, listed{p.UUID, p.Network, pathOf(portPaths, p.UUID)})
	}
	return []any{list}, nil
}

func (m managerObject) reload(ctx context.Context, _ *call) ([]any, error) {
	return nil, m.cfg.Reload(ctx)
}

func (m managerObject) describe(context.Context, *call) ([]any, error) {
	networks := []api.NetworkStatus{}
	for _, n := range m.cfg.Manager.Networks() {
		networks = append(networks, describeNetwork(m.cfg.Manager.Ports(), n))
	}
	return toJSON(map[string]any{
		"version": m.cfg.Version, "networks": networks,
		"conditions": append([]api.Condition{}, m.cfg.Manager.Conditions()...), "firewall": m.cfg.Manager.Firewall(),
	})
}

// setLogLevel changes what is logged from now on.
func (m managerObject) setLogLevel(_ context.Context, v any) error {
	levels := []string{"debug", "info", "warn", "error"}
	name := v.(string)
	var level slog.Level
	if !slices.Contains(levels, name) || level.UnmarshalText([]byte(name)) != nil {
		return api.Errorf(api.Invalid, "log level %q is not known: want %s", name, strings.Join(levels, ", "))
	}
	before := m.cfg.LogLevel.Level()
	// Said at whichever level is the lower one, so that it is seen.
	m.cfg.LogLevel.Set(min(level, before))
	m.cfg.Logger.Info("log level changed", "from", before, "to", level)
	m.cfg.LogLevel.Set(level)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.update(rootPath, m.manager())
	return nil
}

// toJSON is the reply that holds v as JSON text.
func toJSON(v any) ([]any, error) {
	text, err := json.Marshal(v)
	return []any{string(text)}, err
}
