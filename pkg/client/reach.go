package client

import (
	"context"
	"encoding/json"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/pkg/api"
)

// Reach tells whether a connection can be opened, and why. It sends nothing. api.NotFound and
// api.Conflict say that the name of a guest is that of none, or of several; api.Invalid that
// the question makes no sense.
func Reach(ctx context.Context, c *Client, q api.ReachQuestion) (r api.Reach, err error) {
	options := map[string]dbus.Variant{"from": dbus.MakeVariant(q.From), "to": dbus.MakeVariant(q.To)}
	if q.Protocol != "" {
		options["protocol"] = dbus.MakeVariant(q.Protocol)
	}
	if q.Port != 0 {
		options["port"] = dbus.MakeVariant(q.Port)
	}
	var reply map[string]dbus.Variant
	if err := c.call(ctx, rootPath, managerInterface+".Reach", options).into(&reply); err != nil {
		return r, err
	}
	text, _ := reply["json"].Value().(string)
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return r, badReply(managerInterface+".Reach", err)
	}
	return r, nil
}
