package dbusapi

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"
)

// tree is the objects, by path, and what the bus is told of them.
type tree struct {
	*objects
	*announcer
}

// object finds what stands at path, with its standard interfaces; nil when
// nothing does.
func (t tree) object(path dbus.ObjectPath) *object {
	o := &object{path: path}
	if uuid, ok := uuidOf(networkPaths, path); ok {
		n, err := t.cfg.Manager.ByUUID(uuid)
		if err != nil {
			return nil
		}
		o.ifaces = []iface{t.network(n)}
	} else if uuid, ok := uuidOf(portPaths, path); ok {
		p, err := t.cfg.Manager.Ports().Find(uuid)
		if err != nil || !strings.EqualFold(p.UUID, uuid) {
			return nil
		}
		o.ifaces = []iface{t.port(p)}
	} else if uuid, ok := uuidOf(forwardPaths, path); ok {
		f, err := t.cfg.Manager.Forwards().Find(uuid)
		if err != nil {
			return nil
		}
		o.ifaces = []iface{t.forward(f)}
	} else if slices.Contains(innerNodes(), path) {
		o.children = func() []string { return t.children(path) }
	} else {
		return nil
	}
	if path == rootPath {
		o.ifaces = []iface{t.manager(), t.objectManager()}
	}
	o.ifaces = append(o.ifaces, t.properties(o), introspectable(o))
	return o
}

// innerNodes are the paths that are there without objects.
func innerNodes() []dbus.ObjectPath {
	return []dbus.ObjectPath{"/", "/org", rootPath, rootPath + "/network", rootPath + "/port", rootPath + "/forward"}
}

// children lists the next path elements below an inner node of the tree.
func (t tree) children(path dbus.ObjectPath) []string {
	base := strings.TrimSuffix(string(path), "/") + "/"
	var below []string
	for _, p := range append(t.paths(), innerNodes()...) {
		rest, ok := strings.CutPrefix(string(p), base)
		if next, _, _ := strings.Cut(rest, "/"); ok && next != "" {
			below = append(below, next)
		}
	}
	slices.Sort(below)
	return slices.Compact(below)
}

// paths lists the objects below the root.
func (t tree) paths() []dbus.ObjectPath {
	var paths []dbus.ObjectPath
	for _, n := range t.cfg.Manager.Networks() {
		paths = append(paths, pathOf(networkPaths, n.Info().UUID))
	}
	for _, p := range t.cfg.Manager.Ports().List() {
		paths = append(paths, pathOf(portPaths, p.UUID))
	}
	for _, f := range t.cfg.Manager.Forwards().List() {
		paths = append(paths, pathOf(forwardPaths, f.UUID))
	}
	return paths
}

// introspectable is org.freedesktop.DBus.Introspectable of o.
func introspectable(o *object) iface {
	return iface{
		name: introspectInterface,
		methods: []method{{"Introspect", nil, []arg{{"xml", "s"}}, read, func(context.Context, *call) ([]any, error) {
			return []any{o.document()}, nil
		}}},
	}
}

// objectManager is org.freedesktop.DBus.ObjectManager of the root.
func (t tree) objectManager() iface {
	return iface{
		name: objectsInterface,
		methods: []method{{"GetManagedObjects", nil, []arg{{"objects", "a{oa{sa{sv}}}"}}, read, func(context.Context, *call) ([]any, error) {
			return []any{t.listed()}, nil
		}}},
		signals: []signal{
			{"InterfacesAdded", []arg{{"object", "o"}, {"interfaces", "a{sa{sv}}"}}},
			{"InterfacesRemoved", []arg{{"object", "o"}, {"interfaces", "as"}}},
		},
	}
}

// listed is managedObjects for a client: what it is told of now, it is told the end of, too. So all
// subscribers are told first of what nobody was told of yet.
func (t tree) listed() map[dbus.ObjectPath]map[string]map[string]dbus.Variant {
	all := t.managedObjects()
	t.mu.Lock()
	defer t.mu.Unlock()
	told := func(path dbus.ObjectPath) bool { return t.known[path] != nil }
	if !slices.ContainsFunc(slices.Collect(maps.Keys(all)), func(path dbus.ObjectPath) bool { return !told(path) }) {
		return all
	}
	all = t.managedObjects() // some may have gone, and that was told
	for path, ifaces := range all {
		if !told(path) {
			t.introduce(path, ifaces)
		}
	}
	return all
}

// managedObjects reads every object below the root.
func (t tree) managedObjects() map[dbus.ObjectPath]map[string]map[string]dbus.Variant {
	all := make(map[dbus.ObjectPath]map[string]map[string]dbus.Variant)
	for _, n := range t.cfg.Manager.Networks() {
		i := t.network(n)
		all[pathOf(networkPaths, n.Info().UUID)] = map[string]map[string]dbus.Variant{i.name: i.values()}
	}
	for _, p := range t.cfg.Manager.Ports().List() {
		i := t.port(p)
		all[pathOf(portPaths, p.UUID)] = map[string]map[string]dbus.Variant{i.name: i.values()}
	}
	for _, f := range t.cfg.Manager.Forwards().List() {
		i := t.forward(f)
		all[pathOf(forwardPaths, f.UUID)] = map[string]map[string]dbus.Variant{i.name: i.values()}
	}
	return all
}

// properties is org.freedesktop.DBus.Properties of o.
func (t tree) properties(o *object) iface {
	which := []arg{{"interface", "s"}, {"property", "s"}}
	return iface{
		name: propertiesInterface,
		methods: []method{
			{"Get", which, []arg{{"value", "v"}}, read, func(_ context.Context, c *call) ([]any, error) {
				p, err := o.property(c.body[0].(string), c.body[1].(string))
				if err != nil {
					return nil, err
				}
				return []any{dbus.MakeVariant(p.get())}, nil
			}},
			{"GetAll", []arg{{"interface", "s"}}, []arg{{"properties", "a{sv}"}}, read, func(_ context.Context, c *call) ([]any, error) {
				return []any{o.all(c.body[0].(string))}, nil
			}},
			{"Set", append(which, arg{"value", "v"}), nil, manageNetworks, func(ctx context.Context, c *call) ([]any, error) {
				if err := o.set(ctx, c); err != nil {
					return nil, err
				}
				t.noteSet(o)
				return nil, nil
			}},
		},
		signals: []signal{
			{"PropertiesChanged", []arg{{"interface", "s"}, {"changed", "a{sv}"}, {"invalidated", "as"}}},
		},
	}
}

// noteSet tells what a written property has changed of an object, whose own
// interface is its first.
func (t tree) noteSet(o *object) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known[o.path] != nil {
		t.update(o.path, o.ifaces[0])
	}
}

// property finds a property; without an interface, the first of that name.
func (o *object) property(ifaceName, name string) (*property, error) {
	for i := range o.ifaces {
		if ifaceName != "" && o.ifaces[i].name != ifaceName {
			continue
		}
		for j := range o.ifaces[i].properties {
			if p := &o.ifaces[i].properties[j]; p.name == name {
				return p, nil
			}
		}
	}
	return nil, busError{errUnknownProperty, fmt.Sprintf("object %s has no property %q", o.path, name)}
}

// all reads the properties of an interface; without one, of the object.
func (o *object) all(ifaceName string) map[string]dbus.Variant {
	all := make(map[string]dbus.Variant)
	for i := range o.ifaces {
		if ifaceName == "" || o.ifaces[i].name == ifaceName {
			for name, v := range o.ifaces[i].values() {
				all[name] = v
			}
		}
	}
	return all
}

// set writes the property that c names.
func (o *object) set(ctx context.Context, c *call) error {
	p, err := o.property(c.body[0].(string), c.body[1].(string))
	if err != nil {
		return err
	}
	if p.set == nil {
		return busError{errReadOnly, fmt.Sprintf("property %q can't be written", p.name)}
	}
	v := c.body[2].(dbus.Variant)
	if v.Signature().String() != p.sig {
		return busError{errInvalidArgs, fmt.Sprintf("property %q takes a value of type %q, not %q", p.name, p.sig, v.Signature())}
	}
	return p.set(ctx, v.Value())
}
