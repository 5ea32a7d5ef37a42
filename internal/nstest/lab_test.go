package nstest_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
)

func TestLabHasALAN(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		name := strings.TrimSuffix(nstest.LANName, ".")
		if got, want := nstest.Exec(t, "busybox", "wget", "-q", "-O", "-", "http://"+name+"/page"), "hello "+nstest.Uplink; !strings.Contains(got, want) {
			t.Errorf("the page of the LAN host is %q, want %q in it", got, want)
		}
		if got := l.Web.Clients(); !slices.Equal(got, []string{nstest.Uplink}) {
			t.Errorf("the web server saw the clients %q, want the uplink", got)
		}
		if names, clients := l.Names.Queries(); !slices.Contains(names, nstest.LANName) || clients[0].String() != nstest.Uplink {
			t.Errorf("the name server saw queries for %q from %v", names, clients)
		}
		for _, query := range []string{"bytes=100000", "bytes=100000&rate=1000000"} {
			got := nstest.Exec(t, "busybox", "wget", "-q", "-O", "-", "http://"+nstest.LANHost+"/download?"+query)
			if len(got) != 100000 {
				t.Errorf("/download?%s has %d bytes, want 100000", query, len(got))
			}
		}
	})
}

func TestLabHasStateOfItsOwn(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewLab(t)
		for _, dir := range []string{"/etc", "/var/lib"} {
			if file, err := os.Create(dir + "/written"); err != nil {
				t.Error(err)
			} else {
				_ = file.Close()
			}
			if _, err := os.Stat("/run/lab/" + filepath.Base(dir) + "/written"); err != nil {
				t.Errorf("what is written to %s does not go to the lab's /run: %v", dir, err)
			}
		}
		if _, err := os.Stat("/etc/passwd"); err != nil {
			t.Errorf("the lab's /etc lacks the users: %v", err)
		}
	})
}

func TestRules(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		for _, args := range []string{"-P FORWARD DROP", "-N B", "-N A", "-A A -s 192.0.2.1 -j RETURN", "-t nat -A POSTROUTING -j MASQUERADE"} {
			nstest.Exec(t, "iptables", strings.Fields(args)...)
		}
		got, err := nstest.Rules(t.Context(), "iptables-save")
		const want = "*filter\n:A -\n:B -\n:FORWARD DROP\n-A A -s 192.0.2.1/32 -j RETURN\n*nat\n-A POSTROUTING -j MASQUERADE\n*mangle\n"
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("rules (-want +got), %v:\n%s", err, diff)
		}
	})
}

func TestLinks(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.IP(t, "link add b0 type bridge")
		nstest.IP(t, "tuntap add t0 mode tap")
		nstest.IP(t, "link set t0 master b0 up")
		got, err := nstest.Links(t.Context())
		if want := "b0\nlo up\nt0 up on b0\n"; got != want || err != nil {
			t.Errorf("links are %q (%v), want %q", got, err, want)
		}
	})
}

func TestPlay(t *testing.T) {
	var log bytes.Buffer
	var cleaned []int
	failure := errors.New("as told")
	err := nstest.Play(context.Background(), &log, func(t nstest.TB) {
		t.Cleanup(func() { cleaned = append(cleaned, 1) })
		t.Cleanup(func() { cleaned = append(cleaned, 2) })
		t.Logf("line %d", 1)
		t.Fatalf("failed: %w", failure)
		t.Logf("line %d", 2)
	})
	if !errors.Is(err, failure) || log.String() != "line 1\n" || !slices.Equal(cleaned, []int{2, 1}) {
		t.Errorf("Play returned %v, logged %q, cleaned up %v", err, &log, cleaned)
	}
}

func TestBrokenRulesAreAnError(t *testing.T) {
	if _, err := nstest.Rules(t.Context(), "no-such-save"); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("listing rules by a program that is missing gave %v", err)
	}
}
