// Package dbusapi is vnetd on D-Bus: the object tree under /org/vnetd1, its
// methods, properties and signals, who may call them, and the hand-over of a
// port's file descriptors. docs/dbus.md describes it for callers.
//
// The interfaces stand in tables (manager.go, network.go, port.go): dispatch,
// introspection, properties and authorisation all work from them. No object is
// registered with the library, and no method is found by reflection: what is
// not in a table can't be called.
package dbusapi
