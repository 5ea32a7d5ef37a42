package dbusapi

import (
	"context"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network"
)

func (o *objects) defineNetwork(ctx context.Context, c *call) ([]any, error) {
	return networkPath(o.cfg.Manager.Define(ctx, []byte(c.body[0].(string))))
}

// defineNetworkWithOptions defines a network and tells what became of it.
func (o *objects) defineNetworkWithOptions(ctx context.Context, c *call) ([]any, error) {
	opts, err := defineOptions(c.body[1].(map[string]dbus.Variant))
	if err != nil {
		return nil, err
	}
	d, err := o.cfg.Manager.DefineWith(ctx, []byte(c.body[0].(string)), opts)
	if err != nil {
		return nil, err
	}
	return []any{pathOf(networkPaths, d.Network.Info().UUID), map[string]dbus.Variant{
		"action":  dbus.MakeVariant(string(d.Action)),
		"changes": dbus.MakeVariant(append([]string{}, d.Changes...)),
		"pending": dbus.MakeVariant(append([]string{}, d.Pending...)),
	}}, nil
}

// defineOptions reads the options of DefineNetworkWithOptions. As with RequestPort,
// none is ignored.
func defineOptions(options map[string]dbus.Variant) (api.DefineOptions, error) {
	var opts api.DefineOptions
	var apply string
	known := map[string]any{"new": &opts.New, "strict": &opts.Strict, "apply": &apply}
	for key, v := range options {
		into, ok := known[key]
		if !ok {
			return opts, api.Errorf(api.Invalid, "option %.80q is not known: want new, strict or apply", key)
		}
		if err := v.Store(into); err != nil {
			return opts, api.Errorf(api.Invalid, "option %s: type %s is not what it takes", key, v.Signature())
		}
	}
	switch opts.Apply = api.Apply(apply); opts.Apply {
	case "", api.ApplyHarmless, api.ApplySpan, api.ApplyAll, api.ApplyNothing:
		return opts, nil
	}
	return opts, api.Errorf(api.Invalid, "option apply: %.80q is not known: want harmless, span, all or none", apply)
}

// networkPath is the reply that names a network.
func networkPath(n *network.Network, err error) ([]any, error) {
	if err != nil {
		return nil, err
	}
	return []any{pathOf(networkPaths, n.Info().UUID)}, nil
}
