package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
)

// netbootLimit ends a boot that would hang: firmware, 15 MB by TFTP and a kernel,
// all emulated.
const netbootLimit = 4 * time.Minute

const netbootNetwork = `<network>
  <name>boot</name>
  <forward mode='nat'/>
  <bridge name='virbr7' stp='off' delay='0'/>
  <ip address='198.51.100.1' netmask='255.255.255.0'>
    <tftp root='ROOT'/>
    <dhcp>
      <range start='198.51.100.100' end='198.51.100.110'/>
      <bootp file='guest/boot.ipxe'/>
    </dhcp>
  </ip>
</network>
`

// TestNetBoot boots a machine without a disk: its card's firmware (iPXE) gets an
// address and a script, a kernel and an initramfs by TFTP, and the system that comes
// up gets an address, too, and talks on the serial console.
func TestNetBoot(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		root := t.TempDir()
		cfg := nstest.GuestConfig{
			Name: "diskless", MAC: "52:54:00:00:00:77", NetBoot: true,
			Netdev: "tap,id=n0,br=boot,helper=" + filepath.Join(l.Bin, "vnet-bridge-helper"),
		}
		serveFiles(t, root, cfg.BootScript())
		l.StartVnetd()
		xml := filepath.Join(t.TempDir(), "boot.xml")
		if err := os.WriteFile(xml, []byte(strings.Replace(netbootNetwork, "ROOT", root, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		vnetctl(t, l, "create", xml)
		ctx, cancel := context.WithTimeout(t.Context(), netbootLimit)
		defer cancel()
		guest := nstest.BootGuest(t, cfg)
		lease, err := guest.Lease(ctx)
		if err != nil {
			t.Fatalf("the system that was booted has no address: %v", err)
		}
		out, status, err := guest.Run(ctx, "cat /proc/cmdline; hostname; ping -c1 198.51.100.1 >&2")
		if err != nil || status != 0 || !strings.Contains(out, "vnet.name=diskless") {
			t.Errorf("on its console: %q, status %d, %v", out, status, err)
		}
		t.Logf("booted by network with %+v", lease)
	})
}

// serveFiles puts what a guest boots from into the folder guest below root.
func serveFiles(t *testing.T, root, script string) {
	t.Helper()
	tree, err := nstest.Root()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "guest")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{nstest.Kernel, nstest.Initramfs} {
		data, err := os.ReadFile(filepath.Join(tree, ".cache", "guest", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "boot.ipxe"), []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
}
