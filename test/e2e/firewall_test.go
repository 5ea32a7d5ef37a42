package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/test/story"
)

// TestWithoutIPTables runs on a host without iptables: networks have their rules in
// nftables, and in iptables from the first start of vnetd on that finds it.
func TestWithoutIPTables(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dir := t.TempDir()
		nothing := filepath.Join(dir, "nothing")
		if err := os.WriteFile(nothing, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		program, err := filepath.EvalSymlinks("/usr/sbin/iptables")
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(nothing, program, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		l := nstest.NewLab(t)
		v := l.StartVnetd()
		startNetwork(t, l, story.Network)
		chosen(t, l, "nftables", "iptables is not installed")
		leftTo(t, "nftables")
		if err := unix.Unmount(program, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		stop(t, v)
		l.StartVnetd()
		chosen(t, l, "iptables", "firewall_backend asks for it")
		leftTo(t, "iptables")
		same(t, "the rules of nat-network", listed(t), rules(t, "iptables-save"))
	})
}
