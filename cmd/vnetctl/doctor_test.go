package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/pkg/client/clienttest"
)

// wellHost is a host on which nothing is amiss, and that knows no names.
func wellHost(t *testing.T) host {
	t.Helper()
	h := host{root: t.TempDir(), lookup: func(context.Context, string) []netip.Addr { return nil }}
	for _, path := range []string{
		"/dev/net/tun", "/dev/vhost-net", "/sys/module/bridge", "/run/systemd/resolve",
		"/usr/share/dbus-1/system.d/org.vnetd1.conf", helperPath,
	} {
		write(t, h, path, "", 0o755)
	}
	write(t, h, "/proc/sys/net/ipv4/ip_forward", "1\n", 0o644)
	return h
}

// write puts a file on the host.
func write(t *testing.T, h host, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(h.path(path)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.path(path), []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(h.path(path), mode); err != nil {
		t.Fatal(err)
	}
}

func TestDoctor(t *testing.T) {
	s := newSession(t)
	s.host = wellHost(t)
	s.run("doctor")
	s.run("doctor --json")
	s.quietly("create", "testdata/web.xml")
	s.server.SetConditions(
		clienttest.Condition{
			Kind: "drop-rule", Severity: "error", Networks: []string{"default"}, Since: "2026-03-01T10:00:00Z",
			Message:  "a rule drops packets of guests on virbr0 before the networks' rules are asked",
			Evidence: "iptables -A FORWARD -i virbr0 -j DROP", Remedy: "iptables -D FORWARD -i virbr0 -j DROP",
		},
		clienttest.Condition{Kind: "drop-policy", Severity: "info", Networks: []string{}, Since: "2026-03-01T10:00:00Z", Message: "FORWARD drops"},
	)
	s.quietly("enable", "lab")
	s.run("doctor")
	s.server.SetConditions()
	s.run("doctor")
	s.quietly("disable", "lab")
	s.host.lookup = func(_ context.Context, name string) []netip.Addr {
		if name != "gateway.web.test" {
			t.Errorf("doctor looks for %q", name)
		}
		return []netip.Addr{netip.MustParseAddr("203.0.113.1")}
	}
	s.run("doctor")
	s.server.SetState("web", "degraded", "dns: listening on virbr2\nport 53 is in use")
	leases := make([]clienttest.Lease, 19)
	for i := range leases {
		leases[i] = clienttest.Lease{Address: "203.0.113.2", Prefix: 24, MAC: "00:00:5e:00:53:0a"}
	}
	s.server.SetLeases("web", leases...)
	write(t, s.host, helperPath, "", 0o4750)
	s.run("doctor --json")
	s.check()
}

// Without vnetd, doctor tells what it can.
func TestDoctorAlone(t *testing.T) {
	s := newSession(t)
	s.host = wellHost(t)
	s.server.Fail("Describe", "org.freedesktop.DBus.Error.AccessDenied", "Rejected send message")
	s.run("doctor")
	if err := s.server.Leave(); err != nil {
		t.Fatal(err)
	}
	s.run("doctor")
	s.host = host{root: t.TempDir()}
	write(t, s.host, "/proc/sys/net/ipv4/ip_forward", "0\n", 0o644)
	s.run("doctor")
	s.run("doctor --json")
	s.check()
}

// A resolver that answers nobody, and a check that never ends, keep doctor from
// nothing else.
func TestDoctorWithoutAnswers(t *testing.T) {
	s := newSession(t)
	s.host = wellHost(t)
	web := readFile(t, "testdata/web.xml")
	for i := range 5 {
		path := filepath.Join(t.TempDir(), "net.xml")
		text := strings.NewReplacer(">web<", fmt.Sprintf(">web%d<", i), "web.test", fmt.Sprintf("web%d.test", i), "virbr2", fmt.Sprintf("virbr1%d", i), "555555555556", fmt.Sprintf("55555555556%d", i)).Replace(web)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		s.quietly("create", path)
	}
	s.host.limit = 6 * time.Second // of which vnetd has the half
	s.host.lookup = func(ctx context.Context, _ string) []netip.Addr {
		<-ctx.Done()
		return nil
	}
	s.run("doctor")
	hang := make(chan struct{})
	defer close(hang)
	s.host.lookup = func(context.Context, string) []netip.Addr {
		<-hang
		return nil
	}
	s.run("doctor")
	s.check()
}
