package client

import (
	"context"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/pkg/api"
)

// DefineNetwork writes a network's definition, a libvirt <network> document,
// to disk; it replaces the definition with the same name, unless that has another
// UUID. It does not start the network; an active one becomes at once what cuts no
// guest off. ErrInvalid, ErrExists and ErrConflict say what is wrong with it.
func (c *Client) DefineNetwork(ctx context.Context, xml string) (api.Network, error) {
	return c.makeNetwork(ctx, managerInterface+".DefineNetwork", xml)
}

// DefineNetworkWith is DefineNetwork with options, which may make it refuse more with
// ErrExists. It tells what has changed, and what of it is still to come.
func (c *Client) DefineNetworkWith(ctx context.Context, xml string, opts api.DefineOptions) (api.Defined, error) {
	options := map[string]dbus.Variant{"new": dbus.MakeVariant(opts.New), "strict": dbus.MakeVariant(opts.Strict)}
	if opts.Apply != "" {
		options["apply"] = dbus.MakeVariant(string(opts.Apply))
	}
	var path dbus.ObjectPath
	var result properties
	if err := c.call(ctx, rootPath, managerInterface+".DefineNetworkWithOptions", xml, options).into(&path, &result); err != nil {
		return api.Defined{}, err
	}
	n, err := c.networkAt(ctx, path)
	return api.Defined{
		Network: n, Action: api.Action(property[string](result, "action")),
		Changes: property[[]string](result, "changes"), Pending: property[[]string](result, "pending"),
	}, err
}
