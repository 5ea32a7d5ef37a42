package e2e

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
)

// netbootLimit ends a boot that would hang: firmware, 15 MB by TFTP and a kernel,
// all emulated.
const netbootLimit = 2 * limit

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

// TestNetBootByArchitecture boots a machine with UEFI by TFTP and one by HTTP, each to
// iPXE, which then gets its own script; and one with a BIOS whose card is iPXE already.
// The one by TFTP comes up as a system, which gets an address. A BIOS does so in TestNetBoot;
// here the scripts of the others tell that they run.
func TestNetBootByArchitecture(t *testing.T) {
	nstest.Beside(t)
	const boots = `<bootp file='guest/nothing-for-others'/>
      <vnetd:boot arch='ipxe' file='guest/boot.ipxe'/>
      <vnetd:boot arch='x86-uefi' file='guest/ipxe.efi' http='http://198.51.100.1:8080/guest/ipxe.efi'/>`
	xml := strings.Replace(netbootNetwork, "<bootp file='guest/boot.ipxe'/>", boots, 1)
	xml = strings.Replace(xml, "<network>", "<network xmlns:vnetd='urn:vnetd:network:1'>", 1)
	for _, way := range []string{"", "pxe", "http"} {
		t.Run("by "+cmp.Or(way, "iPXE"), func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				l := nstest.NewLab(t)
				root := t.TempDir()
				cfg := nstest.GuestConfig{
					Name: "diskless", MAC: "52:54:00:00:00:77", NetBoot: true, UEFI: way,
					Netdev: "tap,id=n0,br=boot,helper=" + filepath.Join(l.Bin, "vnet-bridge-helper"),
				}
				const told = "/told"
				script := "#!ipxe\nimgfetch http://198.51.100.1:8080" + told + "\n"
				if way == "pxe" { // UEFI's kernels are told where their files are
					script = strings.Replace(cfg.BootScript(), "\ninitrd", " initrd="+nstest.Initramfs+"\ninitrd", 1)
				}
				serveFiles(t, root, script)
				loader, err := os.ReadFile("/usr/lib/ipxe/snponly.efi")
				if err == nil {
					err = os.WriteFile(filepath.Join(root, "guest", "ipxe.efi"), loader, 0o644)
				}
				if err != nil {
					t.Fatal(err)
				}
				l.StartVnetd()
				path := filepath.Join(t.TempDir(), "boot.xml")
				if err := os.WriteFile(path, []byte(strings.Replace(xml, "ROOT", root, 1)), 0o644); err != nil {
					t.Fatal(err)
				}
				vnetctl(t, l, "create", path)
				fetched := serveHTTP(t, "198.51.100.1:8080", root)
				ctx, cancel := context.WithTimeout(t.Context(), netbootLimit)
				defer cancel()
				guest := nstest.BootGuest(t, cfg)
				if way == "pxe" {
					if _, err := guest.Lease(ctx); err != nil {
						t.Fatalf("the system that was booted has no address: %v", err)
					}
				} else {
					nstest.Eventually(t, netbootLimit, "its script runs", func() error {
						if got := fetched(); !slices.Contains(got, told) {
							return fmt.Errorf("by HTTP it fetched %q", got)
						}
						return nil
					})
				}
				if got := fetched(); (way == "http") != slices.Contains(got, "/guest/ipxe.efi") {
					t.Errorf("it fetched %q by HTTP", got)
				}
			})
		})
	}
}

// serveHTTP serves what is below root until the test ends. fetched tells what of it was
// asked for.
func serveHTTP(t *testing.T, addr, root string) (fetched func() []string) {
	t.Helper()
	var mu sync.Mutex
	var seen []string
	files := http.FileServer(http.Dir(root))
	listener, err := net.Listen("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen = append(seen, r.URL.Path)
		mu.Unlock()
		files.ServeHTTP(w, r)
	}), ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(listener) }()
	t.Cleanup(func() { _ = srv.Close() })
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(seen)
	}
}
