// Package packaging holds what makes the Debian packages, and the test of the
// script that defines the default network.
package packaging

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
)

const (
	defaultNetwork = "/etc/vnetd/networks/default.xml"
	libvirtNetwork = "/etc/libvirt/qemu/networks/default.xml"
)

// TestDefaultNetwork holds that the default network is defined and marked for
// autostart on the first installation, and only where nobody has its bridge or
// its subnet.
func TestDefaultNetwork(t *testing.T) {
	for _, tt := range []struct {
		name   string
		host   []string // commands that make the host what it is
		args   string
		define bool
	}{
		{"on a fresh host", nil, "configure", true},
		{"on a host with a LAN", []string{
			"ip link add eno1 type bridge", "ip link set eno1 up", "ip addr add 192.168.1.2/24 dev eno1", "ip route add default via 192.168.1.1",
		}, "configure", true},
		{"beside a bridge of that name", []string{"ip link add virbr0 type bridge"}, "configure", false},
		{"beside a link in the subnet", []string{
			"ip link add br1 type bridge", "ip link set br1 up", "ip addr add 192.168.122.77/28 dev br1",
		}, "configure", false},
		{"below a larger subnet", []string{
			"ip link add br1 type bridge", "ip link set br1 up", "ip addr add 192.168.0.1/16 dev br1",
		}, "configure", false},
		{"beside libvirt's", []string{
			"mkdir -p " + filepath.Dir(libvirtNetwork), "cp $ROOT/configs/default.xml " + libvirtNetwork,
		}, "configure", false},
		{"at an upgrade", nil, "configure 1.0", false},
		{"after a failure", nil, "abort-upgrade", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				root := host(t)
				for _, command := range tt.host {
					nstest.Exec(t, "sh", "-c", strings.ReplaceAll(command, "$ROOT", root))
				}
				nstest.Exec(t, "sh", "-c", "sh "+root+"/packaging/vnetd.postinst "+tt.args)
				_, err := os.Stat(defaultNetwork)
				if tt.define != (err == nil) || err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Fatalf("the default network is defined: %v, want %v: %v", err == nil, tt.define, err)
				}
				if tt.define {
					inOrder(t, root)
				}
			})
		})
	}
}

// inOrder checks a default network: started with the host, the daemon's, and not
// that of every other host.
func inOrder(t *testing.T, root string) {
	t.Helper()
	if to, err := filepath.EvalSymlinks("/etc/vnetd/networks/autostart/default.xml"); err != nil || to != defaultNetwork {
		t.Errorf("it is started with the host as %q: %v", to, err)
	}
	owner := nstest.Exec(t, "stat", "-c", "%U", defaultNetwork)
	if strings.TrimSpace(owner) != "vnetd" {
		t.Errorf("it belongs to %s", owner)
	}
	own, err1 := os.ReadFile(defaultNetwork)
	shipped, err2 := os.ReadFile(filepath.Join(root, "configs/default.xml"))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(shipped)) {
		same := strings.Contains(string(own), line)
		if unique := strings.Contains(line, "<uuid>") || strings.Contains(line, "<mac "); unique == same {
			t.Errorf("line %q of the shipped network is in it: %v", line, same)
		}
	}
}

// host makes folders of the machine private, empty of vnetd and libvirt, with what
// the package brings, and returns the source tree.
func host(t *testing.T) string {
	t.Helper()
	root, err := nstest.Root()
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"/usr", "/etc", "/var/lib"} {
		layer := "/run/layers" + dir
		err := errors.Join(os.MkdirAll(layer+"/upper", 0o755), os.MkdirAll(layer+"/work", 0o755))
		if err == nil {
			err = unix.Mount("layer", dir, "overlay", 0, "lowerdir="+dir+",upperdir="+layer+"/upper,workdir="+layer+"/work")
		}
		if err != nil {
			t.Fatalf("laying a private folder over %s: %v", dir, err)
		}
	}
	for from, to := range map[string]string{
		"configs/vnetd.sysusers": "/usr/lib/sysusers.d/vnetd.conf", "configs/vnetd.tmpfiles": "/usr/lib/tmpfiles.d/vnetd.conf",
		"configs/default.xml": "/usr/share/vnetd/networks/default.xml",
	} {
		nstest.Exec(t, "install", "-D", "-m", "644", filepath.Join(root, from), to)
	}
	if err := errors.Join(os.RemoveAll("/etc/vnetd"), os.RemoveAll("/etc/libvirt")); err != nil {
		t.Fatal(err)
	}
	return root
}
