package dbusapi

import (
	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/pkg/api"
)

// busConditions are conditions as they go over the bus: a dictionary each, so
// that keys can be added.
func busConditions(all []api.Condition) []map[string]dbus.Variant {
	out := make([]map[string]dbus.Variant, 0, len(all))
	for _, c := range all {
		out = append(out, map[string]dbus.Variant{
			"kind":     dbus.MakeVariant(c.Kind),
			"severity": dbus.MakeVariant(string(c.Severity)),
			"networks": dbus.MakeVariant(c.Networks),
			"message":  dbus.MakeVariant(c.Message),
			"evidence": dbus.MakeVariant(c.Evidence),
			"remedy":   dbus.MakeVariant(c.Remedy),
			"since":    dbus.MakeVariant(c.Since.Unix()),
		})
	}
	return out
}
