package dbusapi_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dbusapi"
)

// leads is the forward of ports of a loopback address to a guest, at other ports.
func leads(address, ports string) map[string]dbus.Variant {
	return map[string]dbus.Variant{
		"address": dbus.MakeVariant(address), "ports": dbus.MakeVariant(ports), "to_port": dbus.MakeVariant(uint16(5001)),
	}
}

// TestForwardsOfOneUser has a user who may have ports ask for forwards by several
// connections and with ports, and finds that all of them are bounded together, that others
// are not concerned, and that what ends counts no more.
func TestForwardsOfOneUser(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewUsers(t, alice, carol)
		conn := serve(t)
		var path dbus.ObjectPath
		xml := strings.Replace(strings.Replace(accessXML, "<bridge", "<forward mode='nat'/><bridge", 1), "</vnetd:access>", "<vnetd:user name='carol'/></vnetd:access>", 1)
		invoke(t, conn, root, manager+".CreateNetwork", []any{xml}, &path)
		add := func(by *dbus.Conn, address, ports string) error {
			options := leads(address, ports)
			options["lifetime"], options["to"] = dbus.MakeVariant("bus"), dbus.MakeVariant("198.51.100.9")
			return by.Object(name, path).Call(name+".Network.AddForward", 0, options).Err
		}
		tooMany := func(what string, err error) {
			t.Helper()
			if err == nil || !strings.Contains(err.Error(), "the forwards of user alice would take more than 256 rules") {
				t.Errorf("%s: %v, want it to be too much", what, err)
			}
		}
		first, second := connectAs(t, alice), connectAs(t, alice)
		tooMany("a wide range", add(first, "127.0.0.2", "2000-60000"))
		must(t, add(first, "127.0.0.2", "2000-2199"))
		tooMany("the rest by another connection", add(second, "127.0.0.3", "2000-2056"))
		port := map[string]dbus.Variant{"forwards": dbus.MakeVariant([]map[string]dbus.Variant{leads("127.0.0.3", "2000-2056")})}
		tooMany("the rest with a port", second.Object(name, root).Call(manager+".RequestPort", 0, "two", port).Err)
		must(t, add(second, "127.0.0.3", "2000-2055"))
		must(t, add(connectAs(t, carol), "127.0.0.4", "2000-2199"))
		must(t, add(conn, "127.0.0.5", "2000-2999"))

		must(t, first.Close())
		nstest.Eventually(t, wait, "what a client held counts no more", func() error {
			return add(second, "127.0.0.3", "3000-3199")
		})
	})
}

// TestPortWithoutItsForward asks for a port by an id, with a forward that can't be, and finds
// no port; one that was there before stays.
func TestPortWithoutItsForward(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		conn := serve(t)
		invoke(t, conn, root, manager+".CreateNetwork", []any{natXML}, new(dbus.ObjectPath))
		ask := func(from string) error {
			forward := map[string]dbus.Variant{"address": dbus.MakeVariant("127.0.0.2"), "ports": dbus.MakeVariant("2222"), "from": dbus.MakeVariant([]string{from})}
			options := map[string]dbus.Variant{
				"id": dbus.MakeVariant("mine"), "lifetime": dbus.MakeVariant("persistent"), "forwards": dbus.MakeVariant([]map[string]dbus.Variant{forward}),
			}
			var fds []dbus.UnixFD
			err := conn.Object(name, root).Call(manager+".RequestPort", 0, "one", options).Store(new(dbus.ObjectPath), &fds, new(map[string]dbus.Variant))
			for _, fd := range fds {
				must(t, unix.Close(int(fd)))
			}
			return err
		}
		for _, c := range []struct {
			from string
			made bool
			left int
		}{{"2001:db8::/64", false, 0}, {"127.0.0.0/8", true, 1}, {"2001:db8::/64", false, 1}} {
			if err := ask(c.from); (err == nil) != c.made {
				t.Errorf("a port with a forward of 127.0.0.2 from %s: %v", c.from, err)
			}
			var ports []listed
			invoke(t, conn, root, manager+".ListPorts", nil, &ports)
			if len(ports) != c.left {
				t.Errorf("after asking with a forward from %s there are the ports %v, want %d", c.from, ports, c.left)
			}
		}
	})
}

// TestForwardsOften has a user ask for forwards more often than is allowed.
func TestForwardsOften(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewUsers(t, alice, carol)
		conn := serveWith(t, func(cfg *dbusapi.Config) { cfg.PortsPerSecond = 1 })
		var path dbus.ObjectPath
		invoke(t, conn, root, manager+".CreateNetwork", []any{accessXML}, &path)
		user, refused := connectAs(t, alice), 0
		for i := range 40 {
			o := leads("127.0.0.2", fmt.Sprint(2000+i))
			if err := user.Object(name, path).Call(name+".Network.AddForward", 0, o).Err; err != nil && strings.Contains(err.Error(), "asks for forwards too often: 1 a second are allowed") {
				refused++
			}
		}
		if refused == 0 {
			t.Error("a user asks for 40 forwards at once, and none is refused")
		}
	})
}

// TestForwardReleasedByItsHolder has a user release what one of his connections holds, and
// others try.
func TestForwardReleasedByItsHolder(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewUsers(t, alice, carol)
		conn := serve(t)
		var path dbus.ObjectPath
		xml := strings.Replace(strings.Replace(accessXML, "<bridge", "<forward mode='nat'/><bridge", 1), "</vnetd:access>", "<vnetd:user name='carol'/></vnetd:access>", 1)
		invoke(t, conn, root, manager+".CreateNetwork", []any{xml}, &path)
		holder, hers, his := connectAs(t, alice), connectAs(t, alice), connectAs(t, carol)
		add := func(lifetime, ports string, by *dbus.Conn) (at dbus.ObjectPath) {
			options := leads("127.0.0.2", ports)
			options["lifetime"], options["to"] = dbus.MakeVariant(lifetime), dbus.MakeVariant("198.51.100.9")
			must(t, by.Object(name, path).Call(name+".Network.AddForward", 0, options).Store(&at))
			return at
		}
		release := func(by *dbus.Conn, at dbus.ObjectPath) error {
			return by.Object(name, at).Call(name+".Forward.Release", 0).Err
		}
		held, other := add("bus", "2000", holder), add("bus", "2001", holder)
		lasting := add("persistent", "2002", conn)
		for what, at := range map[string]dbus.ObjectPath{"what another user's client holds": held, "what nobody holds": lasting} {
			if err := release(his, at); err == nil || !strings.Contains(err.Error(), "may not manage networks") {
				t.Errorf("a user releases %s: %v", what, err)
			}
		}
		must(t, release(holder, held))
		must(t, release(hers, other))
		must(t, release(conn, lasting))
	})
}
