package dbusapi

import (
	"encoding/xml"

	"github.com/godbus/dbus/v5/introspect"
)

// document is the introspection of o, made from the same tables that answer
// its calls.
func (o *object) document() string {
	node := introspect.Node{Name: string(o.path), Interfaces: []introspect.Interface{introspect.PeerData}}
	for i := range o.ifaces {
		node.Interfaces = append(node.Interfaces, o.ifaces[i].introspect())
	}
	if o.children != nil {
		for _, c := range o.children() {
			node.Children = append(node.Children, introspect.Node{Name: c})
		}
	}
	text, err := xml.MarshalIndent(node, "", "  ")
	if err != nil {
		panic(err) // a table of ours can't be marshalled: a fault of the program
	}
	return introspect.IntrospectDeclarationString + string(text) + "\n"
}

// introspect describes the interface.
func (i *iface) introspect() introspect.Interface {
	d := introspect.Interface{Name: i.name}
	for _, m := range i.methods {
		args := append(arguments(m.in, "in"), arguments(m.out, "out")...)
		d.Methods = append(d.Methods, introspect.Method{Name: m.name, Args: args})
	}
	for _, p := range i.properties {
		d.Properties = append(d.Properties, p.introspect())
	}
	for _, s := range i.signals {
		d.Signals = append(d.Signals, introspect.Signal{Name: s.name, Args: arguments(s.args, "")})
	}
	return d
}

func (p *property) introspect() introspect.Property {
	d := introspect.Property{Name: p.name, Type: p.sig, Access: "read"}
	if p.set != nil {
		d.Access = "readwrite"
	}
	if p.constant {
		d.Annotations = []introspect.Annotation{{
			Name: "org.freedesktop.DBus.Property.EmitsChangedSignal", Value: "const",
		}}
	}
	return d
}

func arguments(args []arg, direction string) []introspect.Arg {
	var d []introspect.Arg
	for _, a := range args {
		d = append(d, introspect.Arg{Name: a.name, Type: a.sig, Direction: direction})
	}
	return d
}
