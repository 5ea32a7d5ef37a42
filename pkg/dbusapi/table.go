package dbusapi

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/godbus/dbus/v5"
)

// Names on the bus.
const (
	busName  = "org.vnetd1"
	rootPath = dbus.ObjectPath("/org/vnetd1")

	networkPaths = rootPath + "/network/"
	portPaths    = rootPath + "/port/"
	forwardPaths = rootPath + "/forward/"

	managerInterface    = busName + ".Manager"
	networkInterface    = busName + ".Network"
	portInterface       = busName + ".Port"
	forwardInterface    = busName + ".Forward"
	propertiesInterface = "org.freedesktop.DBus.Properties"
	introspectInterface = "org.freedesktop.DBus.Introspectable"
	objectsInterface    = "org.freedesktop.DBus.ObjectManager"
)

// Errors of the bus itself, as other services give them.
const (
	errUnknownObject    = "org.freedesktop.DBus.Error.UnknownObject"
	errUnknownInterface = "org.freedesktop.DBus.Error.UnknownInterface"
	errUnknownMethod    = "org.freedesktop.DBus.Error.UnknownMethod"
	errUnknownProperty  = "org.freedesktop.DBus.Error.UnknownProperty"
	errReadOnly         = "org.freedesktop.DBus.Error.PropertyReadOnly"
	errInvalidArgs      = "org.freedesktop.DBus.Error.InvalidArgs"
	errTimeout          = "org.freedesktop.DBus.Error.Timeout" // of a wait that was in vain
)

// busError is an error with a name of its own.
type busError struct{ name, text string }

func (e busError) Error() string { return e.text }

// iface is one interface of one object.
type iface struct {
	name       string
	methods    []method
	properties []property
	signals    []signal
}

// arg is an argument: its name, for introspection, and its type.
type arg struct{ name, sig string }

// method is a callable member. call gets arguments that match in, and returns
// values that match out.
type method struct {
	name    string
	in, out []arg
	needs   action
	call    func(ctx context.Context, c *call) ([]any, error)
}

// property is a readable member; set is nil where it can't be written.
type property struct {
	name, sig string
	constant  bool // never changes while the object lives
	get       func() any
	set       func(ctx context.Context, v any) error
}

// signal is a member that the object sends.
type signal struct {
	name string
	args []arg
}

// object is what stands at a path: its interfaces, and how to list the path
// elements below it, nil for none.
type object struct {
	path     dbus.ObjectPath
	ifaces   []iface
	children func() []string
}

// find returns the method that a call names; without an interface, the first
// of that name.
func (o *object) find(ifaceName, member string) (*method, bool) {
	for i := range o.ifaces {
		if ifaceName != "" && o.ifaces[i].name != ifaceName {
			continue
		}
		for j := range o.ifaces[i].methods {
			if o.ifaces[i].methods[j].name == member {
				return &o.ifaces[i].methods[j], true
			}
		}
	}
	return nil, false
}

// has reports whether the object has an interface.
func (o *object) has(ifaceName string) bool {
	for i := range o.ifaces {
		if o.ifaces[i].name == ifaceName {
			return true
		}
	}
	return false
}

// values reads all properties of the interface.
func (i *iface) values() map[string]dbus.Variant {
	all := make(map[string]dbus.Variant, len(i.properties))
	for _, p := range i.properties {
		all[p.name] = dbus.MakeVariant(p.get())
	}
	return all
}

// signature joins the types of args.
func signature(args []arg) string {
	var b strings.Builder
	for _, a := range args {
		b.WriteString(a.sig)
	}
	return b.String()
}

// pathOf is the object path of a UUID below base. A path has no dashes.
func pathOf(base dbus.ObjectPath, uuid string) dbus.ObjectPath {
	return base + dbus.ObjectPath(strings.ReplaceAll(uuid, "-", "_"))
}

// uuidOf takes the UUID out of a path below base.
func uuidOf(base, path dbus.ObjectPath) (uuid string, ok bool) {
	rest, ok := strings.CutPrefix(string(path), string(base))
	return strings.ReplaceAll(rest, "_", "-"), ok && rest != ""
}

// toJSON is the reply that holds v as JSON text.
func toJSON(v any) ([]any, error) {
	text, err := json.Marshal(v)
	return []any{string(text)}, err
}

// orJSON is toJSON of what something returned, but for its error.
func orJSON[T any](v T, err error) ([]any, error) {
	if err != nil {
		return nil, err
	}
	return toJSON(v)
}
