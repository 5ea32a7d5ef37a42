package dbusapi_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dbusapi"
)

// The users of these tests.
var (
	alice = nstest.User{Name: "alice", UID: 4001}
	bob   = nstest.User{Name: "bob", UID: 4002, Groups: []string{"vnet"}}
	carol = nstest.User{Name: "carol", UID: 4003, Groups: []string{"vm"}}
)

// as runs busctl as a user and returns all that it said.
func as(t *testing.T, u nstest.User, args ...string) (string, error) {
	t.Helper()
	must(t, os.Chmod("/run/dbus/system_bus_socket", 0o777))
	cmd := exec.Command("busctl", append([]string{"--address=" + os.Getenv("DBUS_SYSTEM_BUS_ADDRESS"), "--allow-interactive-authorization=no"}, args...)...)
	must(t, u.Become(cmd))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// asksPort has a user ask for a port with options as busctl takes them, and holds
// the answer to what it says; an empty text is a port.
func asksPort(t *testing.T, u nstest.User, network, says string, options ...string) {
	t.Helper()
	if len(options) == 0 {
		options = []string{"0"}
	}
	out, err := as(t, u, append([]string{"call", name, string(root), manager, "RequestPort", "sa{sv}", network}, options...)...)
	if (err == nil) != (says == "") || !strings.Contains(out, says) {
		t.Errorf("%s asks for a port on %s with %v: %v, %s\nwant %q", u.Name, network, options, err, out, says)
	}
}

// accessXML is a network that lets alice have ports, and the group vm choose.
const accessXML = "<network xmlns:vnetd='urn:vnetd:network:1'><name>two</name><bridge name='two'/>" +
	"<ip address='198.51.100.1' netmask='255.255.255.0'><dhcp><range start='198.51.100.2' end='198.51.100.254'/></dhcp></ip>" +
	"<vnetd:access><vnetd:user name='alice'/><vnetd:group name='vm' choose='yes'/></vnetd:access></network>"

// rights is what holds with polkit and without.
func rights(t *testing.T, conn *dbus.Conn, denied string) {
	t.Helper()
	var path dbus.ObjectPath
	invoke(t, conn, root, manager+".CreateNetwork", []any{natXML}, &path)
	invoke(t, conn, root, manager+".CreateNetwork", []any{accessXML}, &path)
	asksPort(t, alice, "one", "user alice may not request ports"+denied)
	asksPort(t, alice, "one", `network "one"`)
	asksPort(t, alice, "two", "")
	asksPort(t, alice, "two", "may not choose a port's MAC address", "1", "mac", "s", "52:54:00:00:00:01")
	asksPort(t, alice, "two", "may not choose", "1", "address", "as", "1", "198.51.100.50")
	asksPort(t, alice, "two", "may not choose", "1", "ifname", "s", "docker0")
	asksPort(t, alice, "two", "may not choose", "1", "owner_uid", "u", "4002")
	asksPort(t, alice, "two", "may not choose", "1", "bandwidth", "a{st}", "1", "inbound.average", "1000")
	asksPort(t, alice, "two", "may not choose", "1", "portgroup", "s", "fast")
	asksPort(t, alice, "two", "", "1", "owner_uid", "u", "4001")
	asksPort(t, carol, "one", "user carol may not")
	asksPort(t, carol, "two", "", "2", "mac", "s", "52:54:00:00:00:01", "address", "as", "1", "198.51.100.50")
	asksPort(t, bob, "one", "", "1", "mac", "s", "52:54:00:00:00:02")
	if out, err := as(t, alice, "call", name, string(path), name+".Network", "Stop"); err == nil || !strings.Contains(out, "may not manage networks") {
		t.Errorf("alice stops a network: %v\n%s", err, out)
	}
	if out, err := as(t, alice, "call", name, string(root), manager, "ListNetworks"); err != nil {
		t.Errorf("alice may not look: %s", out)
	}
	// Whose port it is may release it, and nobody else but who manages networks.
	options := map[string]dbus.Variant{"lifetime": dbus.MakeVariant("persistent"), "owner_uid": dbus.MakeVariant(alice.UID)}
	for u, may := range map[*nstest.User]bool{&alice: true, &bob: true, &carol: false} {
		var port dbus.ObjectPath
		var fds []dbus.UnixFD
		var info map[string]dbus.Variant
		invoke(t, conn, root, manager+".RequestPort", []any{"two", options}, &port, &fds, &info)
		limits := []string{"call", name, string(port), name + ".Port", "Set", "a{sv}", "1", "bandwidth", "a{st}", "1", "inbound.average", "1000"}
		if out, err := as(t, *u, limits...); (err == nil) != (u.UID == bob.UID) {
			t.Errorf("%s limits alice's port: %v\n%s", u.Name, err, out)
		}
		out, err := as(t, *u, "call", name, string(port), name+".Port", "Release")
		if (err == nil) != may || !may && !strings.Contains(out, "belongs to user 4001") {
			t.Errorf("%s releases alice's port: %v\n%s", u.Name, err, out)
		}
	}
	if out, err := as(t, bob, "call", name, string(path), name+".Network", "Stop"); err != nil {
		t.Errorf("bob stops a network: %v\n%s", err, out)
	}
}

func TestRightsWithoutPolkit(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewUsers(t, alice, bob, carol)
		rights(t, serve(t), `: root and members of the group "vnet" may`)
	})
}

func TestRightsWithPolkit(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewUsers(t, alice, bob, carol)
		conn := serve(t)
		nstest.StartPolkit(t)
		rights(t, conn, " without a password, and the call does not allow to ask for one")
		// With leave to ask, polkit looks for somebody to ask, and finds nobody.
		out, err := as(t, alice, "--allow-interactive-authorization=yes", "call", name, string(root), manager, "Reload")
		if err == nil || !strings.Contains(out, "nobody could be asked for one") {
			t.Errorf("alice may be asked for a password: %v\n%s", err, out)
		}
	})
}

// TestBridgeList asks for ports by QEMU's own list of bridges.
func TestBridgeList(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewUsers(t, alice, bob, carol)
		dir := t.TempDir()
		acl := filepath.Join(dir, "bridge.conf")
		write := func(path, text string, perm os.FileMode, uid int) {
			t.Helper()
			must(t, os.WriteFile(path, []byte(text), perm))
			must(t, os.Chmod(path, perm))
			must(t, os.Chown(path, uid, -1))
		}
		conn := serveWith(t, func(cfg *dbusapi.Config) { cfg.BridgeACL = acl })
		var path dbus.ObjectPath
		invoke(t, conn, root, manager+".CreateNetwork", []any{natXML}, &path)
		const denied = "may not request ports"
		asksPort(t, alice, "one", denied) // there is no list
		for _, tt := range []struct{ list, says string }{
			{"allow one # mine\n", ""},
			{"# nothing\n\nallow all\n", ""},
			{"allow other\n", denied},
			{"allow all\ndeny one\n", denied},
			{"deny all\nallow one\n", denied},
			{"permit one\nallow one\n", denied},
			{"include /nowhere\nallow one\n", ""},
			{"include " + acl + "\nallow one\n", denied},
		} {
			write(acl, tt.list, 0o644, 0)
			asksPort(t, alice, "one", tt.says)
		}
		more := filepath.Join(dir, "more.conf")
		must(t, os.Chmod(dir, 0o755))
		write(acl, "include "+more+"\n", 0o644, 0)
		write(more, "allow one\n", 0o600, int(carol.UID))
		asksPort(t, alice, "one", denied)
		asksPort(t, carol, "one", "")
		write(acl, "allow one\n", 0o600, 0)
		asksPort(t, alice, "one", denied)
		write(acl, "allow one\n", 0o644, 0)
		asksPort(t, alice, "one", "may not choose", "1", "mac", "s", "52:54:00:00:00:01")
	})
}

// TestPortsPerSecond paces a user, and not root.
func TestPortsPerSecond(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewUsers(t, alice, bob, carol)
		conn := serveWith(t, func(cfg *dbusapi.Config) { cfg.PortsPerSecond = 1 })
		must(t, os.Chmod("/run/dbus/system_bus_socket", 0o777))
		refused := false
		for range 50 {
			out, _ := as(t, alice, "call", name, string(root), manager, "RequestPort", "sa{sv}", "nowhere", "0")
			refused = refused || strings.Contains(out, "too often")
		}
		if !refused {
			t.Error("50 requests in a row were not too often")
		}
		for range 50 {
			fails(t, conn, root, manager+".RequestPort", []any{"nowhere", map[string]dbus.Variant{}}, name+".Error.NotFound", "nowhere")
		}
	})
}

// TestPortOfAClient ends with the client that asked for it.
func TestPortOfAClient(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		conn := serve(t)
		var path dbus.ObjectPath
		invoke(t, conn, root, manager+".CreateNetwork", []any{natXML}, &path)
		client := connect(t)
		options := map[string]dbus.Variant{"lifetime": dbus.MakeVariant("bus")}
		for range 2 {
			var fds []dbus.UnixFD
			var info map[string]dbus.Variant
			invoke(t, client, root, manager+".RequestPort", []any{"one", options}, &path, &fds, &info)
		}
		var list []listed
		invoke(t, conn, root, manager+".ListPorts", nil, &list)
		if len(list) != 2 {
			t.Fatalf("ports %v, want two", list)
		}
		must(t, client.Close())
		nstest.Eventually(t, wait, "the client's ports are gone", func() error {
			invoke(t, conn, root, manager+".ListPorts", nil, &list)
			if taps := nstest.Exec(t, "ip", "tuntap"); len(list) > 0 || taps != "" {
				return cmpError(0, len(list))
			}
			return nil
		})
	})
}
