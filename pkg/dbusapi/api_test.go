package dbusapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/introspect"
	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dbusapi"
)

// listed is an entry of ListNetworks and ListPorts.
type listed struct {
	First, Second string
	Path          dbus.ObjectPath
}

// TestLifeOfANetwork goes once through all that a client does with a network.
func TestLifeOfANetwork(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		conn := serve(t)
		var path, again dbus.ObjectPath
		invoke(t, conn, root, manager+".DefineNetwork", []any{natXML}, &path)
		invoke(t, conn, root, manager+".GetNetwork", []any{"one"}, &again)
		if path != again || !strings.HasPrefix(string(path), "/org/vnetd1/network/") {
			t.Errorf("paths %s and %s", path, again)
		}
		uuid := properties(t, conn, path)["UUID"].Value().(string)
		invoke(t, conn, root, manager+".GetNetworkByUUID", []any{strings.ToUpper(uuid)}, &again)
		var list []listed
		invoke(t, conn, root, manager+".ListNetworks", nil, &list)
		if diff := cmp.Diff([]listed{{"one", uuid, path}}, list); diff != "" || path != again {
			t.Errorf("ListNetworks (-want +got):\n%s", diff)
		}
		invoke(t, conn, path, name+".Network.Start", nil)
		fails(t, conn, path, name+".Network.Start", nil, name+".Error.InvalidState", "already active")
		invoke(t, conn, path, "org.freedesktop.DBus.Properties.Set", []any{name + ".Network", "Autostart", dbus.MakeVariant(true)})
		want := map[string]any{
			"Name": "one", "UUID": uuid, "Active": true, "Persistent": true, "Autostart": true,
			"Bridge": "one", "Mode": "nat", "State": "active", "LastError": "", "Pending": []string{}, "Conditions": []map[string]dbus.Variant{},
		}
		got := make(map[string]any)
		for key, v := range properties(t, conn, path) {
			got[key] = v.Value()
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("properties (-want +got):\n%s", diff)
		}
		var live, next string
		invoke(t, conn, path, name+".Network.GetXML", []any{uint32(0)}, &live)
		invoke(t, conn, path, name+".Network.GetXML", []any{uint32(1)}, &next)
		if !strings.Contains(live, "<port start='1024' end='65535'/>") || strings.Contains(next, "<port ") {
			t.Errorf("live document:\n%s\nnext:\n%s", live, next)
		}
		host := "<host mac='52:54:00:01:02:03' name='web' ip='192.0.2.80'/>"
		invoke(t, conn, path, name+".Network.Update", []any{"add", "ip-dhcp-host", int32(-1), host, uint32(3)})
		fails(t, conn, path, name+".Network.Update", []any{"add", "ip-dhcp-host", int32(-1), host, uint32(1)}, name+".Error.Exists", "192.0.2.80")
		fails(t, conn, path, name+".Network.Update", []any{"bend", "ip-dhcp-host", int32(-1), host, uint32(1)}, name+".Error.Invalid", "bend")
		for _, flags := range []uint32{0, 1} {
			var text string
			invoke(t, conn, path, name+".Network.GetXML", []any{flags}, &text)
			if !strings.Contains(text, "192.0.2.80") {
				t.Errorf("after the update the document %d is\n%s", flags, text)
			}
		}
		var leases [][]any
		invoke(t, conn, path, name+".Network.GetLeases", nil, &leases)
		if len(leases) != 0 {
			t.Errorf("leases %v, want none", leases)
		}
		invoke(t, conn, root, manager+".Reload", nil)
		invoke(t, conn, path, name+".Network.Stop", nil)
		invoke(t, conn, path, name+".Network.Undefine", nil)
		fails(t, conn, root, manager+".GetNetwork", []any{"one"}, name+".Error.NotFound", `"one"`)
		invoke(t, conn, root, manager+".CreateNetwork", []any{natXML}, &path)
		invoke(t, conn, path, name+".Network.Stop", nil)
		fails(t, conn, path, name+".Network.Start", nil, "org.freedesktop.DBus.Error.UnknownObject", string(path))
	})
}

// properties reads all of a network's properties.
func properties(t *testing.T, conn *dbus.Conn, path dbus.ObjectPath) map[string]dbus.Variant {
	t.Helper()
	var all map[string]dbus.Variant
	invoke(t, conn, path, "org.freedesktop.DBus.Properties.GetAll", []any{name + ".Network"}, &all)
	return all
}

func TestLifeOfAPort(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		conn := serve(t)
		var netPath, path, again dbus.ObjectPath
		invoke(t, conn, root, manager+".CreateNetwork", []any{natXML}, &netPath)
		options := map[string]dbus.Variant{
			"name": dbus.MakeVariant("guest"), "mac": dbus.MakeVariant("52:54:00:01:02:03"),
			"ifname": dbus.MakeVariant("mytap"), "queues": dbus.MakeVariant(uint32(2)),
		}
		var fds []dbus.UnixFD
		var info map[string]dbus.Variant
		invoke(t, conn, root, manager+".RequestPort", []any{"one", options}, &path, &fds, &info)
		uuid, _ := info["uuid"].Value().(string)
		want := map[string]dbus.Variant{
			"uuid": dbus.MakeVariant(uuid), "network": dbus.MakeVariant("one"), "bridge": dbus.MakeVariant("one"),
			"mac": dbus.MakeVariant("52:54:00:01:02:03"), "ifname": dbus.MakeVariant("mytap"), "mtu": dbus.MakeVariant(uint32(1500)), "guard": dbus.MakeVariant("off"),
			"parent": dbus.MakeVariant(""), "mode": dbus.MakeVariant(""), "host_reach": dbus.MakeVariant(true),
		}
		if diff := cmp.Diff(values(want), values(info)); diff != "" || len(fds) != 2 {
			t.Errorf("%d fds, info (-want +got):\n%s", len(fds), diff)
		}
		// Here client and server are one process: theirs must be closed, ours not.
		nstest.Eventually(t, wait, "vnetd's own descriptors are closed", func() error {
			if now := openAs(t, "/dev/net/tun"); now != len(fds) {
				return cmpError(len(fds), now)
			}
			return nil
		})
		invoke(t, conn, root, manager+".GetPort", []any{uuid}, &again)
		var list []listed
		invoke(t, conn, root, manager+".ListPorts", nil, &list)
		if diff := cmp.Diff([]listed{{uuid, "one", path}}, list); diff != "" || path != again {
			t.Errorf("ListPorts (-want +got):\n%s", diff)
		}
		var description map[string]any
		var text string
		invoke(t, conn, path, name+".Port.Describe", nil, &text)
		must(t, json.Unmarshal([]byte(text), &description))
		if description["ifname"] != "mytap" || description["owner"] != float64(0) {
			t.Errorf("Describe: %s", text)
		}
		set := func(settings map[string]any, want map[string]uint64) {
			t.Helper()
			variants := make(map[string]dbus.Variant)
			for key, value := range settings {
				variants[key] = dbus.MakeVariant(value)
			}
			invoke(t, conn, path, name+".Port.Set", []any{variants})
			var all map[string]dbus.Variant
			invoke(t, conn, path, "org.freedesktop.DBus.Properties.GetAll", []any{name + ".Port"}, &all)
			if diff := cmp.Diff(want, all["Bandwidth"].Value()); diff != "" {
				t.Errorf("bandwidth after %v (-want +got):\n%s", settings, diff)
			}
		}
		set(map[string]any{"bandwidth": map[string]uint64{"inbound.average": 1000, "outbound.average": 50}}, map[string]uint64{"inbound.average": 1000, "outbound.average": 50})
		set(map[string]any{"bandwidth": map[string]uint64{"inbound.average": 0}, "portgroup": ""}, map[string]uint64{"outbound.average": 50})
		set(map[string]any{"bandwidth": map[string]uint64{}}, map[string]uint64{})
		for setting, value := range map[string]any{"colour": "red", "portgroup": uint32(1), "bandwidth": map[string]uint64{"inbound.burst": 1}} {
			fails(t, conn, path, name+".Port.Set", []any{map[string]dbus.Variant{setting: dbus.MakeVariant(value)}}, name+".Error.Invalid", "")
		}
		invoke(t, conn, path, name+".Port.Release", nil)
		fails(t, conn, path, name+".Port.Release", nil, "org.freedesktop.DBus.Error.UnknownObject", string(path))
		for _, fd := range fds {
			must(t, syscall.Close(int(fd)))
		}
	})
}

type cmpErr struct{ want, got int }

func (e cmpErr) Error() string { return cmp.Diff(e.want, e.got) }

func cmpError(want, got int) error { return cmpErr{want, got} }

// values takes variants apart, for comparison.
func values(m map[string]dbus.Variant) map[string]any {
	out := make(map[string]any)
	for key, v := range m {
		out[key] = v.Value()
	}
	return out
}

func TestWrongCalls(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		conn := serve(t)
		var path dbus.ObjectPath
		invoke(t, conn, root, manager+".CreateNetwork", []any{natXML}, &path)
		option := func(key string, v any) []any {
			return []any{"one", map[string]dbus.Variant{key: dbus.MakeVariant(v)}}
		}
		const bus = "org.freedesktop.DBus.Error."
		for _, tt := range []struct {
			path          dbus.ObjectPath
			member        string
			args          []any
			errName, says string
		}{
			{"/nowhere", manager + ".Reload", nil, bus + "UnknownObject", "/nowhere"},
			{root, name + ".Nothing.Reload", nil, bus + "UnknownInterface", "Nothing"},
			{root, manager + ".Nothing", nil, bus + "UnknownMethod", "Nothing"},
			{root, manager + ".DefineNetwork", []any{7}, bus + "InvalidArgs", `"s"`},
			{root, manager + ".DefineNetwork", []any{"<network>"}, name + ".Error.Invalid", "line 1"},
			{root, manager + ".DefineNetwork", []any{strings.ReplaceAll(natXML, "one", "two")}, name + ".Error.Conflict", "192.0.2.0/24"},
			{root, manager + ".CreateNetwork", []any{natXML}, name + ".Error.Exists", "one"},
			{root, manager + ".GetNetworkByUUID", []any{"x"}, name + ".Error.NotFound", "x"},
			{root, manager + ".GetPort", []any{"x"}, name + ".Error.NotFound", "x"},
			{root, manager + ".RequestPort", []any{"two", map[string]dbus.Variant{}}, name + ".Error.NotFound", "two"},
			{root, manager + ".RequestPort", option("colour", "red"), name + ".Error.Invalid", "colour"},
			{root, manager + ".RequestPort", option("queues", "many"), name + ".Error.Invalid", "queues"},
			{root, manager + ".RequestPort", option("bandwidth", map[string]uint64{"inbound.speed": 1}), name + ".Error.Invalid", "inbound.speed"},
			{root, manager + ".RequestPort", option("bandwidth", map[string]uint64{"inbound.peak": 1}), name + ".Error.Invalid", "inbound/@average: missing"},
			{root, manager + ".RequestPort", option("bandwidth", "fast"), name + ".Error.Invalid", "bandwidth"},
			{root, manager + ".RequestPort", option("portgroup", "fast"), name + ".Error.Invalid", "<portgroup name='fast'>"},
			{root, manager + ".RequestPort", option("mac", "52:54"), name + ".Error.Invalid", "52:54"},
			{root, manager + ".RequestPort", option("lifetime", "long"), name + ".Error.Invalid", "long"},
			{root, manager + ".RequestPort", option("address", []string{"192.0.2"}), name + ".Error.Invalid", "192.0.2"},
			{path, name + ".Network.GetXML", []any{uint32(4)}, name + ".Error.Invalid", "flags"},
			{path, bus[:len(bus)-6] + "Properties.Get", []any{name + ".Network", "Colour"}, bus + "UnknownProperty", "Colour"},
			{path, bus[:len(bus)-6] + "Properties.Set", []any{name + ".Network", "Name", dbus.MakeVariant("x")}, bus + "PropertyReadOnly", "Name"},
			{path, bus[:len(bus)-6] + "Properties.Set", []any{name + ".Network", "Autostart", dbus.MakeVariant("x")}, bus + "InvalidArgs", "Autostart"},
			{path, bus[:len(bus)-6] + "Properties.Set", []any{name + ".Network", "Autostart", dbus.MakeVariant(true)}, name + ".Error.InvalidState", "transient"},
		} {
			fails(t, conn, tt.path, tt.member, tt.args, tt.errName, tt.says)
		}
	})
}

// TestRegisterPort holds that a port whose device another program makes is told of,
// shown and released.
func TestRegisterPort(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		conn := serve(t)
		var path, portPath dbus.ObjectPath
		invoke(t, conn, root, manager+".CreateNetwork", []any{natXML}, &path)
		const uuid = "0e1c9f52-77a4-4c0b-9d59-6a1f0f1d2c3c"
		const doc = "<networkport><uuid>" + uuid + "</uuid><owner><name>web</name><uuid>6f0f6d4c-6a38-4a0c-8a8e-0d6a3f2b6f12</uuid></owner>" +
			"<mac address='52:54:00:12:34:57'/></networkport>"
		const register = name + ".Network.RegisterPort"
		var full string
		invoke(t, conn, path, register, []any{doc, uint32(0)}, &portPath, &full)
		if portPath != root+"/port/0e1c9f52_77a4_4c0b_9d59_6a1f0f1d2c3c" || !strings.Contains(full, "<plug type='network' bridge='one'/>") {
			t.Errorf("%s is\n%s", portPath, full)
		}
		var all map[string]dbus.Variant
		invoke(t, conn, portPath, "org.freedesktop.DBus.Properties.GetAll", []any{name + ".Port"}, &all)
		if all["Lifetime"].Value() != "external" || all["Name"].Value() != "web" || all["MAC"].Value() != "52:54:00:12:34:57" {
			t.Errorf("the port is %v", all)
		}
		fails(t, conn, path, register, []any{doc, uint32(0)}, name+".Error.Exists", uuid)
		fails(t, conn, path, register, []any{doc, uint32(2)}, name+".Error.Invalid", "flags")
		fails(t, conn, path, register, []any{"<networkport/>", uint32(0)}, name+".Error.Invalid", "uuid")
		fails(t, conn, path, register, []any{full, uint32(0)}, name+".Error.Invalid", "plug")
		invoke(t, conn, portPath, name+".Port.Release", nil)
		fails(t, conn, root, manager+".GetPort", []any{uuid}, name+".Error.NotFound", uuid)
	})
}

// TestIntrospectionIsTrue calls or reads everything that the introspection
// documents show, on each kind of object, and finds it there.
func TestIntrospectionIsTrue(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		conn := serve(t)
		var netPath, portPath dbus.ObjectPath
		var fds []dbus.UnixFD
		var info map[string]dbus.Variant
		invoke(t, conn, root, manager+".CreateNetwork", []any{natXML}, &netPath)
		invoke(t, conn, root, manager+".RequestPort", []any{"one", map[string]dbus.Variant{}}, &portPath, &fds, &info)
		members := 0
		for _, path := range []dbus.ObjectPath{"/", "/org", root, root + "/network", netPath, root + "/port", portPath} {
			node, err := introspect.Call(conn.Object(name, path))
			must(t, err)
			for _, i := range node.Interfaces {
				for _, m := range i.Methods {
					members++
					// Of a type that no method takes: known methods say so.
					err := conn.Object(name, path).Call(i.Name+"."+m.Name, 0, [][]bool{}).Err
					if e, ok := err.(dbus.Error); i.Name != "org.freedesktop.DBus.Peer" && (!ok || e.Name != "org.freedesktop.DBus.Error.InvalidArgs") {
						t.Errorf("%s %s.%s is shown but answers %v", path, i.Name, m.Name, err)
					}
				}
				for _, p := range i.Properties {
					members++
					v, err := conn.Object(name, path).GetProperty(i.Name + "." + p.Name)
					if err != nil || v.Signature().String() != p.Type {
						t.Errorf("%s %s.%s is shown with type %s but is %v (%v)", path, i.Name, p.Name, p.Type, v, err)
					}
				}
			}
			for _, child := range node.Children {
				if _, err := introspect.Call(conn.Object(name, dbus.ObjectPath(strings.TrimSuffix(string(path), "/")+"/"+child.Name))); err != nil {
					t.Errorf("child %s of %s: %v", child.Name, path, err)
				}
			}
		}
		if members < 40 {
			t.Errorf("only %d members were seen", members)
		}
	})
}

func TestSignals(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		conn := serve(t)
		signals := make(chan *dbus.Signal, 100)
		conn.Signal(signals)
		must(t, conn.AddMatchSignal(dbus.WithMatchSender(name)))
		var path dbus.ObjectPath
		expect := func(signal string, on dbus.ObjectPath, first any) {
			t.Helper()
			for {
				select {
				case s := <-signals:
					if s.Name == signal && s.Path == on && s.Body[0] == first {
						return
					}
				case <-time.After(wait):
					t.Fatalf("no %s on %s about %v", signal, on, first)
				}
			}
		}
		const objects = "org.freedesktop.DBus.ObjectManager."
		const changed = "org.freedesktop.DBus.Properties.PropertiesChanged"
		invoke(t, conn, root, manager+".DefineNetwork", []any{natXML}, &path)
		expect(objects+"InterfacesAdded", root, path)
		invoke(t, conn, path, name+".Network.Start", nil)
		expect(changed, path, name+".Network")
		var port dbus.ObjectPath
		var fds []dbus.UnixFD
		var info map[string]dbus.Variant
		invoke(t, conn, root, manager+".RequestPort", []any{"one", map[string]dbus.Variant{}}, &port, &fds, &info)
		expect(objects+"InterfacesAdded", root, port)
		must(t, syscall.Close(int(fds[0])))
		expect(objects+"InterfacesRemoved", root, port)
		invoke(t, conn, path, name+".Network.Stop", nil)
		invoke(t, conn, path, name+".Network.Undefine", nil)
		expect(objects+"InterfacesRemoved", root, path)
		var left map[dbus.ObjectPath]map[string]map[string]dbus.Variant
		invoke(t, conn, root, objects+"GetManagedObjects", nil, &left)
		if len(left) != 0 {
			t.Errorf("objects left: %v", left)
		}
	})
}

// TestComesWhileTheNameIsClaimed has networks come, by another way than the bus, while vnetd comes to
// the bus: who lists the objects then is told of the end of each.
func TestComesWhileTheNameIsClaimed(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		ctx, end := context.WithCancel(t.Context())
		var defining sync.WaitGroup
		conn := serveWith(t, func(cfg *dbusapi.Config) {
			define := func(n int) {
				if _, err := cfg.Manager.Define(t.Context(), fmt.Appendf(nil, "<network><name>n%d</name><bridge name='n%[1]d'/></network>", n)); err != nil {
					t.Errorf("defining a network: %v", err)
				}
			}
			for n := range 60 { // so that it takes a while to list them
				define(n)
			}
			defining.Go(func() {
				for n := 60; ctx.Err() == nil; n++ {
					define(n)
				}
			})
		})
		end()
		defining.Wait()
		signals := make(chan *dbus.Signal, 1000)
		conn.Signal(signals)
		must(t, conn.AddMatchSignal(dbus.WithMatchSender(name), dbus.WithMatchMember("InterfacesRemoved")))
		var left map[dbus.ObjectPath]map[string]map[string]dbus.Variant
		invoke(t, conn, root, "org.freedesktop.DBus.ObjectManager.GetManagedObjects", nil, &left)
		for path := range left {
			invoke(t, conn, path, name+".Network.Undefine", nil)
		}
		for limit := time.After(wait); len(left) > 0; {
			select {
			case s := <-signals:
				delete(left, s.Body[0].(dbus.ObjectPath))
			case <-limit:
				t.Fatalf("%d networks are gone and nobody is told, as %v", len(left), slices.Sorted(maps.Keys(left))[0])
			}
		}
	})
}

// TestUninvitedDescriptorsAreClosed sends file descriptors where none belong, in
// every shape in which the bus carries them.
func TestUninvitedDescriptorsAreClosed(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		conn := serve(t)
		hostile, err := dbus.ConnectSystemBus()
		must(t, err)
		defer hostile.Close()
		f, err := os.Create(filepath.Join(t.TempDir(), "sent"))
		must(t, err)
		defer f.Close()
		fd := dbus.UnixFD(f.Fd())
		for _, member := range []string{manager + ".Describe", manager + ".Nothing", "x.y.z"} {
			for _, arg := range []any{
				fd,
				[]dbus.UnixFD{fd, fd},
				dbus.MakeVariant(fd),
				map[string]dbus.Variant{"x": dbus.MakeVariant(fd)},
				[][]dbus.UnixFD{{fd}, {fd, fd}},
				dbus.MakeVariant([]dbus.UnixFD{fd}),
			} {
				err := hostile.Object(name, root).Call(member, 0, arg).Err
				if e, ok := err.(dbus.Error); !ok || !strings.HasPrefix(e.Name, "org.freedesktop.DBus.Error.") {
					t.Fatalf("%s of %v: %v, want an answer that it is wrong", member, arg, err)
				}
			}
			must(t, hostile.Emit(root, "org.vnetd1.Manager.Made", []dbus.UnixFD{fd}))
		}
		invoke(t, conn, root, manager+".ListNetworks", nil, new([]listed))
		nstest.Eventually(t, wait, "all are closed", func() error {
			if now := openAs(t, f.Name()); now > 1 {
				return cmpError(1, now)
			}
			return nil
		})
	})
}

// credential makes a command run as a user, without other groups.
func credential(t *testing.T, username string) *syscall.SysProcAttr {
	t.Helper()
	u, err := user.Lookup(username)
	must(t, err)
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: number(t, u.Uid), Gid: number(t, u.Gid)}}
}

func TestWhoMay(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		conn := serve(t)
		var path dbus.ObjectPath
		invoke(t, conn, root, manager+".DefineNetwork", []any{natXML}, &path)
		for _, args := range [][]string{
			{manager, "ListNetworks"},
			{manager, "Describe"},
			{"org.freedesktop.DBus.ObjectManager", "GetManagedObjects"},
		} {
			if out, err := asNobody(t, slices.Concat([]string{"call", name, string(root)}, args)...); err != nil {
				t.Errorf("a user may not %v: %v\n%s", args, err, out)
			}
		}
		for _, args := range [][]string{
			{string(root), manager, "DefineNetwork", "s", natXML},
			{string(root), manager, "RequestPort", "sa{sv}", "one", "0"},
			{string(path), name + ".Network", "Start"},
			{string(path), "org.freedesktop.DBus.Properties", "Set", "ssv", name + ".Network", "Autostart", "b", "true"},
		} {
			out, err := asNobody(t, append([]string{"call", name}, args...)...)
			if err == nil || !strings.Contains(out, "root and members of the group") {
				t.Errorf("a user may %v: %v\n%s", args, err, out)
			}
		}
	})
}
