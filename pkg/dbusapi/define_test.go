package dbusapi_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/internal/nstest"
)

// TestDefineWithOptions defines an active network anew, in each way there is.
func TestDefineWithOptions(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		conn := serve(t)
		var path dbus.ObjectPath
		var result map[string]dbus.Variant
		define := func(xml string, options map[string]any) []any {
			variants := make(map[string]dbus.Variant)
			for key, v := range options {
				variants[key] = dbus.MakeVariant(v)
			}
			return []any{xml, variants}
		}
		const method = manager + ".DefineNetworkWithOptions"
		moved := strings.ReplaceAll(natXML, "192.0.2.", "198.51.100.")
		for _, tt := range []struct {
			xml     string
			options map[string]any
			action  string
			pending bool
		}{
			{natXML, map[string]any{"new": true, "strict": true}, "defined", false},
			{natXML, nil, "unchanged", false},
			{moved, nil, "changed", true},
			{moved, map[string]any{"apply": "none"}, "unchanged", true},
			{moved, map[string]any{"apply": "all"}, "applied", false},
			{natXML, map[string]any{"apply": "harmless"}, "changed", true},
		} {
			invoke(t, conn, root, method, define(tt.xml, tt.options), &path, &result)
			pending := result["pending"].Value().([]string)
			if got := result["action"].Value(); got != tt.action || (len(pending) > 0) != tt.pending {
				t.Errorf("%v: %v, pending %q, want %s, pending %v", tt.options, got, pending, tt.action, tt.pending)
			}
			if changes := result["changes"].Value().([]string); (len(changes) > 0) != (tt.action == "changed" || tt.action == "applied") {
				t.Errorf("%v: %s, changes %q", tt.options, tt.action, changes)
			}
			if got := properties(t, conn, path)["Pending"].Value().([]string); !slices.Equal(got, pending) {
				t.Errorf("%v: the property Pending is %q, the result %q", tt.options, got, pending)
			}
			var text string
			invoke(t, conn, path, name+".Network.Describe", nil, &text)
			if strings.Contains(text, `"pending":[]`) == tt.pending {
				t.Errorf("%v: the description is %s", tt.options, text)
			}
			if tt.action == "defined" {
				invoke(t, conn, path, name+".Network.Start", nil)
			}
		}
		for _, tt := range []struct {
			options       map[string]any
			errName, says string
		}{
			{map[string]any{"new": true}, "Exists", "already exists with uuid"},
			{map[string]any{"strict": true}, "Exists", "already exists with uuid"},
			{map[string]any{"apply": "later"}, "Invalid", "want harmless, span, all or none"},
			{map[string]any{"apply": true}, "Invalid", "type b"},
			{map[string]any{"colour": "red"}, "Invalid", "colour"},
		} {
			fails(t, conn, root, method, define(natXML, tt.options), name+".Error."+tt.errName, tt.says)
		}
	})
}
