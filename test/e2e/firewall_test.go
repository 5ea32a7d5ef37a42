package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/test/story"
)

// TestWithoutIPTables runs on a host without iptables: vnetd serves, an open
// network starts, one that needs rules says what is missing, and starts as soon as
// it is there.
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
		l.StartVnetd()
		open := filepath.Join(dir, "open.xml")
		if err := os.WriteFile(open, []byte(`<network><name>open</name><forward mode='open'/><bridge name='virbr7'/><ip address='192.0.2.1' prefix='24'/></network>`), 0o644); err != nil {
			t.Fatal(err)
		}
		vnetctl(t, l, "define", open)
		vnetctl(t, l, "start", "open")
		vnetctl(t, l, "define", testdata(t, story.Network+".xml"))
		const lacks = "no IPv4 firewall, which every network of mode nat, route and isolated needs: iptables is not installed"
		if r := l.Vnetctl(t.Context(), "start", story.Network); r.Err() == nil || !strings.Contains(r.Stderr, lacks) {
			t.Errorf("start of a NAT network says %+v", r)
		}
		nstest.Eventually(t, limit, "status tells of it", func() error {
			if shown := vnetctl(t, l, "status"); !strings.Contains(shown, "warning host: "+lacks) || !strings.Contains(shown, "# apt-get install iptables") {
				return errors.New(shown)
			}
			return nil
		})
		if err := unix.Unmount(program, 0); err != nil {
			t.Fatal(err)
		}
		vnetctl(t, l, "start", story.Network)
		same(t, "the rules of nat-network", listed(t), rules(t, "iptables-save"))
	})
}
