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

// manager is the Manager interface.
func (o *objects) manager() iface {
	xml := []arg{{"xml", "s"}}
	path := func(name string) []arg { return []arg{{name, "o"}} }
	return iface{
		name: managerInterface,
		methods: []method{
			{"DefineNetwork", xml, path("network"), manageNetworks, o.defineNetwork},
			{
				"DefineNetworkWithOptions",
				[]arg{{"xml", "s"}, {"options", "a{sv}"}},
				[]arg{{"network", "o"}, {"result", "a{sv}"}},
				manageNetworks, o.defineNetworkWithOptions,
			},
			{"CreateNetwork", xml, path("network"), manageNetworks, o.createNetwork},
			{"Plan", xml, []arg{{"json", "s"}}, read, o.plan},
			{"Reach", []arg{{"question", "a{sv}"}}, []arg{{"answer", "a{sv}"}}, read, o.reach},
			{
				"TakeOver",
				[]arg{{"definition", "s"}, {"status", "s"}, {"ports", "as"}, {"leases", "s"}, {"autostart", "b"}, {"dry", "b"}},
				[]arg{{"json", "s"}},
				manageNetworks, o.takeOver,
			},
			{"GetNetwork", []arg{{"name", "s"}}, path("network"), read, o.getNetwork},
			{"GetNetworkByUUID", []arg{{"uuid", "s"}}, path("network"), read, o.getNetworkByUUID},
			{"ListNetworks", nil, []arg{{"networks", "a(sso)"}}, read, o.listNetworks},
			{
				"RequestPort",
				[]arg{{"network", "s"}, {"options", "a{sv}"}},
				[]arg{{"port", "o"}, {"fds", "ah"}, {"info", "a{sv}"}},
				selfCheck, o.requestPort,
			},
			{"GetPort", []arg{{"uuid", "s"}}, path("port"), read, o.getPort},
			{"ListPorts", nil, []arg{{"ports", "a(sso)"}}, read, o.listPorts},
			{"Reload", nil, nil, manageNetworks, o.reload},
			{"Clusters", nil, []arg{{"json", "s"}}, read, func(context.Context, *call) ([]any, error) { return toJSON(o.cfg.Manager.Clusters().Status()) }},
			{"RestoreCluster", []arg{{"name", "s"}}, nil, manageNetworks, func(_ context.Context, c *call) ([]any, error) {
				return nil, o.cfg.Manager.Clusters().Restore(c.body[0].(string))
			}},
			{"Describe", nil, []arg{{"json", "s"}}, read, o.describe},
			{"Count", nil, []arg{{"json", "s"}}, read, func(context.Context, *call) ([]any, error) { return orJSON(o.cfg.Manager.Counts()) }},
			{"CountForwards", nil, []arg{{"json", "s"}}, read, func(context.Context, *call) ([]any, error) { return orJSON(o.cfg.Manager.Forwards().CountAll()) }},
		},
		properties: []property{
			{name: "Version", sig: "s", constant: true, get: func() any { return o.cfg.Version }},
			{name: "LogLevel", sig: "s", get: func() any { return strings.ToLower(o.cfg.LogLevel.Level().String()) }, set: o.setLogLevel},
			{name: "Conditions", sig: "aa{sv}", get: func() any { return busConditions(o.cfg.Manager.Conditions()) }},
			{name: "ImportPending", sig: "b", get: func() any { return o.cfg.ImportPending() }, set: o.setImportPending},
		},
	}
}

func (o *objects) createNetwork(ctx context.Context, c *call) ([]any, error) {
	return networkPath(o.cfg.Manager.Create(ctx, []byte(c.body[0].(string))))
}

func (o *objects) plan(_ context.Context, c *call) ([]any, error) {
	p, err := o.cfg.Manager.Plan([]byte(c.body[0].(string)))
	if err != nil {
		return nil, err
	}
	return toJSON(p)
}

func (o *objects) takeOver(ctx context.Context, c *call) ([]any, error) {
	t, err := o.cfg.Manager.TakeOver(ctx, api.Takeover{
		Definition: c.body[0].(string), Status: c.body[1].(string), Ports: c.body[2].([]string),
		Leases: c.body[3].(string), Autostart: c.body[4].(bool),
	}, c.body[5].(bool))
	if err != nil {
		return nil, err
	}
	return toJSON(t)
}

// setImportPending records that libvirt's networks have been imported.
func (o *objects) setImportPending(_ context.Context, v any) error {
	if v.(bool) {
		return api.Errorf(api.Invalid, "ImportPending can only be set to false: libvirt's networks are imported")
	}
	return o.cfg.ImportDone()
}

func (o *objects) getNetwork(_ context.Context, c *call) ([]any, error) {
	return networkPath(o.cfg.Manager.ByName(c.body[0].(string)))
}

func (o *objects) getNetworkByUUID(_ context.Context, c *call) ([]any, error) {
	return networkPath(o.cfg.Manager.ByUUID(c.body[0].(string)))
}

func (o *objects) listNetworks(context.Context, *call) ([]any, error) {
	list := []listed{}
	for _, n := range o.cfg.Manager.Networks() {
		info := n.Info()
		list = append(list, listed{info.Name, info.UUID, pathOf(networkPaths, info.UUID)})
	}
	return []any{list}, nil
}

func (o *objects) getPort(_ context.Context, c *call) ([]any, error) {
	p, err := o.cfg.Manager.Ports().Find(c.body[0].(string))
	if err != nil {
		return nil, err
	}
	return []any{pathOf(portPaths, p.UUID)}, nil
}

func (o *objects) listPorts(context.Context, *call) ([]any, error) {
	list := []listed{}
	for _, p := range o.cfg.Manager.Ports().List() {
		list = append(list, listed{p.UUID, p.Network, pathOf(portPaths, p.UUID)})
	}
	return []any{list}, nil
}

func (o *objects) reload(ctx context.Context, _ *call) ([]any, error) {
	return nil, o.cfg.Reload(ctx)
}

func (o *objects) describe(context.Context, *call) ([]any, error) {
	networks := []api.NetworkStatus{}
	for _, n := range o.cfg.Manager.Networks() {
		networks = append(networks, describeNetwork(o.cfg.Manager, n))
	}
	return toJSON(map[string]any{
		"version": o.cfg.Version, "networks": networks,
		"conditions": append([]api.Condition{}, o.cfg.Manager.Conditions()...), "firewall": o.cfg.Manager.Firewall(), "bgp": network.AnnouncementsOf(o.cfg.Manager).Status(),
	})
}

// setLogLevel changes what is logged from now on.
func (o *objects) setLogLevel(_ context.Context, v any) error {
	levels := []string{"debug", "info", "warn", "error"}
	name := v.(string)
	var level slog.Level
	if !slices.Contains(levels, name) || level.UnmarshalText([]byte(name)) != nil {
		return api.Errorf(api.Invalid, "log level %q is not known: want %s", name, strings.Join(levels, ", "))
	}
	before := o.cfg.LogLevel.Level()
	// Said at whichever level is the lower one, so that it is seen.
	o.cfg.LogLevel.Set(min(level, before))
	o.cfg.Logger.Info("log level changed", "from", before, "to", level)
	o.cfg.LogLevel.Set(level)
	return nil
}

// reach answers whether a connection can be opened. The programs that list rules run for
// it: nobody has them run too often.
func (o *objects) reach(ctx context.Context, c *call) ([]any, error) {
	if err := o.paced(ctx, c, "who reaches whom"); err != nil {
		return nil, err
	}
	q, err := reachQuestion(c.body[0].(map[string]dbus.Variant))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	r, err := o.cfg.Manager.Reach(ctx, q)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	reasons := make([]string, 0, len(r.Ways))
	for _, w := range r.Ways {
		reasons = append(reasons, w.Family+": "+w.Reason)
	}
	return []any{map[string]dbus.Variant{
		"verdict": dbus.MakeVariant(string(r.Verdict)),
		"reasons": dbus.MakeVariant(reasons),
		"json":    dbus.MakeVariant(string(text)),
	}}, nil
}

// reachQuestion reads the question of Reach. As with RequestPort, no key is ignored.
func reachQuestion(options map[string]dbus.Variant) (q api.ReachQuestion, err error) {
	known := map[string]any{"from": &q.From, "to": &q.To, "protocol": &q.Protocol, "port": &q.Port}
	for key, v := range options {
		into, ok := known[key]
		if !ok {
			return q, api.Errorf(api.Invalid, "option %.80q is not known: want from, to, protocol or port", key)
		}
		if err := v.Store(into); err != nil {
			return q, api.Errorf(api.Invalid, "option %s: type %s is not what it takes", key, v.Signature())
		}
	}
	return q, nil
}
