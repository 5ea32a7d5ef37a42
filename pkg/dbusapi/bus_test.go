package dbusapi_test

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/internal/sysbus"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/dbusapi"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/iptables"
	"github.com/vnetd/vnetd/pkg/network"
	"github.com/vnetd/vnetd/pkg/store"
)

const (
	name    = "org.vnetd1"
	root    = dbus.ObjectPath("/org/vnetd1")
	manager = name + ".Manager"
)

// wait bounds everything that should happen soon.
const wait = 30 * time.Second

const natXML = "<network><name>one</name><forward mode='nat'/><bridge name='one'/>" +
	"<ip address='192.0.2.1' netmask='255.255.255.0'><dhcp><range start='192.0.2.2' end='192.0.2.254'/>" +
	"</dhcp></ip></network>"

// serve runs the API over a hub on the namespace of the test and returns a
// client's connection to its bus.
func serve(t *testing.T) *dbus.Conn {
	t.Helper()
	return serveWith(t, func(*dbusapi.Config) {})
}

// serveWith is serve with other settings.
func serveWith(t *testing.T, change func(*dbusapi.Config)) *dbus.Conn {
	t.Helper()
	nstest.StartBus(t)
	log := slog.New(slog.DiscardHandler)
	dir := t.TempDir()
	st, err := store.Open(store.Dirs{
		Networks: filepath.Join(dir, "networks"), Run: filepath.Join(dir, "run"), State: filepath.Join(dir, "state"),
	}, log)
	must(t, err)
	links, err := bridge.New()
	must(t, err)
	writer, err := iptables.New(t.Context(), iptables.Config{Logger: log})
	must(t, err)
	rules := firewall.New(writer, firewall.Config{Logger: log})
	m := network.New(network.Config{Store: st, Links: links, Rules: rules, Logger: log})
	cfg := dbusapi.Config{
		Manager: m, Version: "1.2.3", Reload: m.Reload, Logger: log, LogLevel: new(slog.LevelVar),
		ImportPending: func() bool { return false }, ImportDone: func() error { return nil },
	}
	change(&cfg)
	srv, err := dbusapi.Connect(cfg)
	must(t, err)

	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	ready := make(chan struct{})
	running.Go(func() {
		if err := m.Watch(ctx); err != nil {
			t.Errorf("watching links: %v", err)
		}
	})
	running.Go(func() {
		if err := srv.Serve(ctx, func() { close(ready) }); err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		m.Close()
		links.Close()
		must(t, rules.Close())
		must(t, st.Close())
	})
	select {
	case <-ready:
	case <-time.After(wait):
		t.Fatal("the name was never claimed")
	}
	return connect(t)
}

// connect joins the bus as another client.
func connect(t *testing.T) *dbus.Conn {
	t.Helper()
	conn, err := sysbus.Connect(t.Context())
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn.Conn
}

// invoke calls a method and stores its results.
func invoke(t *testing.T, conn *dbus.Conn, path dbus.ObjectPath, member string, args []any, results ...any) {
	t.Helper()
	if err := conn.Object(name, path).Call(member, 0, args...).Store(results...); err != nil {
		t.Fatalf("%s on %s: %v", member, path, err)
	}
}

// fails calls a method and holds its error to a name and a text.
func fails(t *testing.T, conn *dbus.Conn, path dbus.ObjectPath, member string, args []any, errName, says string) {
	t.Helper()
	err := conn.Object(name, path).Call(member, 0, args...).Err
	e, ok := err.(dbus.Error)
	if !ok || e.Name != errName || !strings.Contains(e.Error(), says) {
		t.Errorf("%s%v on %s: %#v, want %s that says %q", member, args, path, err, errName, says)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// openFiles counts the file descriptors of this process, in which the API runs, too.
func openFiles(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(fds)
}

// openAs counts those of a file.
func openAs(t *testing.T, file string) (count int) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	for _, fd := range fds {
		if is, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && is == file {
			count++
		}
	}
	return count
}

// asNobody runs busctl as a user without rights and returns all that it said.
func asNobody(t *testing.T, args ...string) (string, error) {
	t.Helper()
	must(t, os.Chmod("/run/dbus/system_bus_socket", 0o777))
	cmd := exec.Command("busctl", append([]string{"--address=" + os.Getenv("DBUS_SYSTEM_BUS_ADDRESS")}, args...)...)
	cmd.SysProcAttr = credential(t, "nobody")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// number parses a decimal of /etc/passwd.
func number(t *testing.T, text string) uint32 {
	t.Helper()
	n, err := strconv.ParseUint(text, 10, 32)
	must(t, err)
	return uint32(n)
}
