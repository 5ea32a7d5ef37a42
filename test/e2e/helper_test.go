package e2e

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/test/story"
)

// QEMU's user reads why there is no port on QEMU's own standard error.
func TestHelperNamesUnknownNetwork(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		l.StartVnetd()
		s := &story.Story{Lab: l}
		q := nstest.BootGuest(t, nstest.GuestConfig{Name: story.Host, Netdev: s.Netdev("nowhere")})
		if err := q.Err(); err == nil {
			t.Error("QEMU ended with 0")
		}
		if err := story.Contains("QEMU", q.Console(), "nowhere", "vnet-bridge-helper"); err != nil {
			t.Error(err)
		}
	})
}

// A defined network is started by the first guest that asks for it.
func TestHelperStartsNetwork(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		l.StartVnetd()
		vnetctl(t, l, "define", testdata(t, story.Network+".xml"))
		if out, code := runHelper(t, l, nil, story.Network); code != 0 {
			t.Errorf("the helper ended with %d: %s", code, out)
		}
		if n := networks(t)[story.Network]; !n.Active {
			t.Errorf("after a guest asked for it the network is %+v", n)
		}
		sameAsListed(t)
	})
}

// Without polkit ports are for root and the group vnet.
func TestHelperDeniesStrangers(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		l.StartVnetd()
		startNetwork(t, l, story.Network)
		before := state(t)
		out, code := runHelper(t, l, []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}, story.Network)
		if code == 0 {
			t.Error("the helper ended with 0 for a stranger")
		}
		if err := story.Contains("the helper", out, "user nobody may not request ports", `group "vnet"`, "<vnetd:access>"); err != nil {
			t.Error(err)
		}
		same(t, "links and rules after a denied request", before, state(t))
	})
}

// runHelper runs the helper as QEMU does, behind the words of wrap, and returns
// what it printed and its exit code.
func runHelper(t *testing.T, l *nstest.Lab, wrap []string, network string) (string, int) {
	t.Helper()
	// In a place that strangers may read, wherever the source tree is.
	const helper = "/run/vnet-bridge-helper"
	nstest.Exec(t, "install", "-m", "755", l.Helper(), helper)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer ours.Close()
	defer theirs.Close()
	argv := append(wrap, helper, "--use-vnet", "--fd=3", "--br="+network)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.ExtraFiles = []*os.File{theirs}
	out, _ := cmd.CombinedOutput()
	return string(out), cmd.ProcessState.ExitCode()
}
