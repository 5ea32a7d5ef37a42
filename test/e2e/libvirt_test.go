package e2e

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/test/story"
)

// libvirtSocket is where libvirt's clients look.
const libvirtSocket = "/run/libvirt/virtnetworkd-sock"

// startByConnecting has systemd make libvirt's sockets, and vnetd start when
// somebody connects.
func startByConnecting(t *testing.T, l *nstest.Lab) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(libvirtSocket), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "systemd-socket-activate",
		"-l", libvirtSocket, "-l", libvirtSocket+"-ro", "-E", "DBUS_SYSTEM_BUS_ADDRESS", filepath.Join(l.Bin, "vnetd"))
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("log of vnetd:\n%s", &log)
		}
	})
	nstest.Eventually(t, limit, "making the sockets", func() error {
		return errors.Join(os.Chmod(libvirtSocket, 0o666), os.Chmod(libvirtSocket+"-ro", 0o666))
	})
}

// virsh runs an unmodified virsh as a user and returns what it prints.
func virsh(t *testing.T, user string, args ...string) (string, error) {
	t.Helper()
	args = append([]string{"-u", user, "--", "virsh", "-c", "network:///system"}, args...)
	cmd := exec.CommandContext(t.Context(), "runuser", args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// An unmodified virsh finds vnetd where virtnetworkd would be, starts it by
// connecting, and may there what polkit says.
func TestVirshStartsVnetd(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		nstest.NewUsers(t, nstest.User{Name: "alice", UID: 61001, Groups: []string{"libvirt"}}, nstest.User{Name: "bob", UID: 61002})
		nstest.StartPolkit(t)
		startByConnecting(t, l)
		for _, step := range []struct {
			user string
			args []string
			says string
			ok   bool
		}{
			{"root", []string{"net-define", testdata(t, story.Network+".xml")}, "Network " + story.Network + " defined", true},
			{"alice", []string{"net-start", story.Network}, "Network " + story.Network + " started", true},
			{"alice", []string{"net-list", "--name"}, story.Network, true},
			{"bob", []string{"-r", "net-list", "--name"}, story.Network, true},
			{"bob", []string{"-r", "net-destroy", story.Network}, "read only access prevents virNetworkDestroy", false},
			{"bob", []string{"net-destroy", story.Network}, "authentication unavailable: no polkit agent available", false},
		} {
			out, err := virsh(t, step.user, step.args...)
			if !strings.Contains(out, step.says) || (err == nil) != step.ok {
				t.Errorf("virsh %s as %s: %v, want %q:\n%s", strings.Join(step.args, " "), step.user, err, step.says, out)
			}
		}
		if n := networks(t)[story.Network]; !n.Active {
			t.Errorf("on the bus the network is %+v", n)
		}
	})
}

// A socket that another daemon answers on stays its own.
func TestSocketOfAnother(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		const config = "/run/vnetd.toml"
		if err := os.WriteFile(config, []byte("[libvirt]\nsocket = '"+libvirtSocket+"'\npolkit = false\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(libvirtSocket), 0o755); err != nil {
			t.Fatal(err)
		}
		other, err := net.Listen("unix", libvirtSocket)
		if err != nil {
			t.Fatal(err)
		}
		v := l.StartVnetd("--config", config)
		if !strings.Contains(v.Log(), "another daemon answers there") {
			t.Errorf("vnetd does not say that it leaves the socket alone:\n%s", v.Log())
		}
		if err := v.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := other.Close(); err != nil {
			t.Fatal(err)
		}
		l.StartVnetd("--config", config)
		// Without polkit it is for the group to say.
		nstest.NewUsers(t, nstest.User{Name: "alice", UID: 61001, Groups: []string{"vnet"}}, nstest.User{Name: "bob", UID: 61002})
		if out, err := virsh(t, "alice", "net-list", "--all"); err != nil {
			t.Errorf("once the socket is free: %v\n%s", err, out)
		}
		if out, err := virsh(t, "bob", "net-list", "--all"); err == nil || !strings.Contains(out, "no member of the group") {
			t.Errorf("who is not in the group: %v\n%s", err, out)
		}
	})
}
