package libvirtrpc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
)

// TestLeaseFiles holds that libvirt's own readers of leases see those of vnetd: a
// guest's name and its domain's name resolve on the host, and virsh lists the lease.
func TestLeaseFiles(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const dir = "/var/lib/libvirt/dnsmasq"
		must(t, unix.Mount("tmpfs", "/var/lib", "tmpfs", 0, ""))
		must(t, os.MkdirAll(dir, 0o755))
		d := startDaemon(t, "/run/state", nil)
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { KeepLeaseFiles(ctx, NewBackend(d.Manager), dir, slog.Default()) })
		defer running.Wait()
		defer cancel()

		c := opened(t, socketPath)
		doc, err := os.ReadFile("testdata/virsh/files/lab.xml")
		must(t, err)
		port, err := os.ReadFile("testdata/virsh/files/port.xml")
		must(t, err)
		lab := readRef(c.ok(41, func(e *encoder) { e.string(string(doc)) }))
		c.ok(39, func(e *encoder) { e.ref(lab) })
		c.ok(406, func(e *encoder) {
			e.ref(lab)
			e.string(strings.Replace(string(port), "52:54:00:12:34:56", "52:54:00:00:00:01", 1))
			e.uint32(0)
		})
		g := nstest.Guest(t, "virbr7", "g1", "52:54:00:00:00:01")
		g.Exec("busybox", "udhcpc", "-f", "-q", "-n", "-t", "30", "-i", "eth0", "-s", "/bin/true")

		for module, name := range map[string]string{"libvirt": "one", "libvirt_guest": "guest"} {
			nstest.Eventually(t, soon, "resolving a guest's name", func() error {
				out, err := exec.CommandContext(t.Context(), "getent", "-s", module, "ahostsv4", name).CombinedOutput()
				if err != nil || !strings.HasPrefix(string(out), "192.0.2.11") {
					text, _ := os.ReadFile(dir + "/virbr7.status")
					return fmt.Errorf("%s by module %s: %w: %s\n%s", name, module, err, out, text)
				}
				return nil
			})
		}
		leases := nstest.Exec(t, "virsh", "-c", "network:///system", "net-dhcp-leases", "lab")
		for _, want := range []string{"52:54:00:00:00:01", "ipv4", "192.0.2.11/24", "one"} {
			if !strings.Contains(leases, want) {
				t.Errorf("virsh does not tell of %s:\n%s", want, leases)
			}
		}
		must(t, os.Remove(dir+"/virbr7.status"))
		nstest.Eventually(t, soon, "writing a file that somebody has removed", func() error {
			text, err := os.ReadFile(dir + "/virbr7.status")
			if err == nil && !strings.Contains(string(text), "192.0.2.11") {
				err = fmt.Errorf("it says %s", text)
			}
			return err
		})
		n, err := d.ByName("lab")
		must(t, err)
		if taken, refused, err := n.ImportLeases(t.Context(), "4102444800 52:54:00:00:00:77 192.0.2.120 two *\n"); taken != 1 || err != nil {
			t.Fatalf("importing a lease: %d, %v, %v", taken, refused, err)
		}
		nstest.Eventually(t, soon, "writing a lease that was imported", func() error {
			text, err := os.ReadFile(dir + "/virbr7.status")
			if err == nil && !strings.Contains(string(text), "192.0.2.120") {
				err = fmt.Errorf("it says %s", text)
			}
			return err
		})
		c.ok(42, func(e *encoder) { e.ref(lab) })
		c.ok(49, func(e *encoder) { e.ref(lab) })
		nstest.Eventually(t, soon, "removing the files of a network that is gone", func() error {
			if _, err := os.Stat(dir + "/virbr7.status"); !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("the file is still there: %w", err)
			}
			return nil
		})
	})
}
