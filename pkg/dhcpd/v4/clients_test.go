package v4_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
)

// clientEnv is a running server on br0 and a guest without an address.
func clientEnv(t *testing.T, hw string) (*env, *nstest.NS) {
	t.Helper()
	dhcpdtest.MakeBridge(t)
	cfg := testConfig()
	cfg.LeaseTime = 2 * time.Minute
	e := start(t, cfg, nil, v4.Open)
	guest := nstest.Guest(t, "br0", "g1", hw)
	return e, guest
}

// wantLease fails the test unless the one lease is hw's, with that name.
func wantLease(t *testing.T, e *env, hw, name string) dhcpd.Lease {
	t.Helper()
	got := e.srv.Leases()
	if len(got) != 1 || got[0].MAC.String() != hw || got[0].Hostname != name {
		t.Fatalf("leases are %+v, want one of %s, name %q; counters %+v", got, hw, name, e.srv.Stats())
	}
	return got[0]
}

// script writes a udhcpc script, which sets the guest's address and notes its
// environment in a file.
func script(t *testing.T) (path, notes string) {
	t.Helper()
	dir := t.TempDir()
	path, notes = filepath.Join(dir, "script"), filepath.Join(dir, "notes")
	text := `#!/bin/sh
set >>` + notes + `
[ "$1" = bound ] && ip addr replace $ip/24 dev $interface
[ "$1" = deconfig ] && ip addr flush dev $interface
exit 0
`
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path, notes
}

func TestUdhcpc(t *testing.T) {
	const hw = "00:00:5e:00:53:42"
	nstest.Run(t, func(t *testing.T) {
		e, guest := clientEnv(t, hw)
		path, notes := script(t)
		for _, flags := range [][]string{nil, {"-B"}} {
			out := dhcpdtest.RunClient(t, guest, "udhcpc", append(flags, "-i", "eth0", "-f", "-q", "-n", "-s", path, "-x", "hostname:busy", "-O", "broadcast")...)
			l := wantLease(t, e, hw, "busy")
			if !strings.Contains(out, l.Addr.String()) {
				t.Errorf("the client says %s, its lease is %v", out, l.Addr)
			}
		}
		got, err := os.ReadFile(notes)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			"router='192.0.2.1'", "dns='192.0.2.1'", "subnet='255.255.255.0'", "domain='vm.example'", "lease='120'", "serverid='192.0.2.1'",
			"broadcast='192.0.2.255'",
		} {
			if !strings.Contains(string(got), want) {
				t.Errorf("the client's script was not told %s:\n%s", want, got)
			}
		}
	})
}

// A client that has its address asks by unicast UDP and gives it back at the end.
func TestUdhcpcRenewsAndReleases(t *testing.T) {
	const hw = "00:00:5e:00:53:44"
	nstest.Run(t, func(t *testing.T) {
		e, guest := clientEnv(t, hw)
		path, _ := script(t)
		cmd := guest.Command(t.Context(), "udhcpc", "-i", "eth0", "-f", "-n", "-R", "-s", path)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		wait := func(event string) {
			t.Helper()
			var seen []string
			nstest.Eventually(t, dhcpdtest.ClientLimit, event, func() error {
				seen = append(seen, e.events.Take()...)
				if !slices.ContainsFunc(seen, func(s string) bool { return strings.HasPrefix(s, event) }) {
					return fmt.Errorf("events %q", seen)
				}
				return nil
			})
		}
		wait("bound")
		nstest.Eventually(t, dhcpdtest.ClientLimit, "the guest has its address", func() error {
			if !strings.Contains(guest.IP("-4 addr show dev eth0"), "192.0.2.") {
				return errors.New("no address")
			}
			return nil
		})
		if err := cmd.Process.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		wait("renewed")
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // the signal's status
		wait("released")
		if got := e.srv.Stats(); got.Nak != 0 || got.SendErrors != 0 {
			t.Errorf("counters %+v", got)
		}
	})
}

func TestDhclient(t *testing.T) {
	const hw = "00:00:5e:00:53:43"
	nstest.Run(t, func(t *testing.T) {
		e, guest := clientEnv(t, hw)
		dir := t.TempDir()
		conf := filepath.Join(dir, "conf")
		if err := os.WriteFile(conf, []byte("send host-name \"isc\";\nsend dhcp-client-identifier \"abc\";\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		args := []string{
			"-4", "-v", "-1", "-cf", conf, "-sf", "/bin/true",
			"-lf", filepath.Join(dir, "leases"), "-pf", filepath.Join(dir, "pid"), "eth0",
		}
		dhcpdtest.RunClient(t, guest, "dhclient", args...)
		first := wantLease(t, e, hw, "isc")
		dhcpdtest.RunClient(t, guest, "dhclient", append([]string{"-x"}, args...)...)
		// It remembers its lease: INIT-REBOOT.
		dhcpdtest.RunClient(t, guest, "dhclient", args...)
		if again := wantLease(t, e, hw, "isc"); again.Addr != first.Addr || string(again.ClientID) != "abc" {
			t.Errorf("got %+v, had %+v", again, first)
		}
		guest.IP("addr add " + first.Addr.String() + "/24 dev eth0") // as the script would
		dhcpdtest.RunClient(t, guest, "dhclient", append([]string{"-r"}, args...)...)
		nstest.Eventually(t, dhcpdtest.ClientLimit, "the lease is released", func() error {
			if len(e.srv.Leases()) != 0 {
				return os.ErrExist
			}
			return nil
		})
	})
}
