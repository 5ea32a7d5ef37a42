package dbusapi_test

import (
	"testing"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/internal/nstest"
)

// TestSettingsAtOnce has two clients set a limit each of the same port at the same time, and
// finds that the port has both.
func TestSettingsAtOnce(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		conn := serve(t)
		other := connectAs(t, nstest.User{Name: "root"})
		var port dbus.ObjectPath
		invoke(t, conn, root, manager+".CreateNetwork", []any{natXML}, new(dbus.ObjectPath))
		options := map[string]dbus.Variant{"lifetime": dbus.MakeVariant("persistent")}
		invoke(t, conn, root, manager+".RequestPort", []any{"one", options}, &port, new([]dbus.UnixFD), new(map[string]dbus.Variant))
		set := func(by *dbus.Conn, limit string, to uint64) *dbus.Call {
			s := map[string]dbus.Variant{"bandwidth": dbus.MakeVariant(map[string]uint64{limit: to})}
			return by.Object(name, port).Go(name+".Port.Set", 0, make(chan *dbus.Call, 1), s)
		}
		for i := range uint64(30) {
			a, b := set(conn, "inbound.average", 1000+i), set(other, "outbound.average", 2000+i)
			must(t, (<-a.Done).Err)
			must(t, (<-b.Done).Err)
			v, err := conn.Object(name, port).GetProperty(name + ".Port.Bandwidth")
			must(t, err)
			has, _ := v.Value().(map[string]uint64)
			if has["inbound.average"] != 1000+i || has["outbound.average"] != 2000+i {
				t.Fatalf("round %d: the port has %v, want what both have set", i, has)
			}
		}
	})
}
