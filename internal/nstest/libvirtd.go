package nstest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// LibvirtdLog is where a Libvirtd writes its log.
const LibvirtdLog = "/run/libvirtd.log"

// The configuration of a Libvirtd: QEMU runs as root, without what needs more than
// the namespaces of a test have.
const (
	libvirtdConf = "unix_sock_group = \"root\"\nauth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\nlog_outputs = \"3:file:" + LibvirtdLog + "\"\n"
	qemuConf     = "user = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\ncgroup_controllers = []\nnamespaces = []\n" +
		"stdio_handler = \"file\"\ndynamic_ownership = 0\nremember_owner = 0\n"
)


// Libvirtd is a real monolithic libvirtd, with nothing defined.
type Libvirtd struct {
	t   TB
	cmd *exec.Cmd
}

// StartLibvirtd starts one in the namespaces of Run, on a Lab's /etc and /var/lib. It
// ends with the test, and its log is shown when the test failed.
func StartLibvirtd(t TB) *Libvirtd {
	t.Helper()
	if err := libvirtdHome(); err != nil {
		t.Fatalf("making the folders of libvirtd: %v", err)
	}
	l := &Libvirtd{t: t}
	t.Cleanup(func() {
		_ = l.cmd.Process.Kill()
		_ = l.cmd.Wait()
		if t.Failed() {
			log, _ := os.ReadFile(LibvirtdLog)
			t.Logf("log of libvirtd:\n%s", log)
		}
	})
	l.start()
	return l
}

// libvirtdHome puts libvirtd's configuration where it is read, and empty folders
// where it writes.
func libvirtdHome() error {
	for _, at := range []string{"/var/cache", "/var/log"} {
		if err := unix.Mount("tmpfs", at, "tmpfs", 0, ""); err != nil {
			return err
		}
	}
	if err := os.RemoveAll("/etc/libvirt"); err != nil {
		return err
	}
	for path, text := range map[string]string{"libvirtd.conf": libvirtdConf, "qemu.conf": qemuConf} {
		if err := writeFile(filepath.Join("/etc/libvirt", path), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (l *Libvirtd) start() {
	l.t.Helper()
	l.cmd = exec.Command("libvirtd")
	if err := l.cmd.Start(); err != nil {
		l.t.Fatalf("starting libvirtd: %v", err)
	}
	Eventually(l.t, startLimit, "reaching libvirtd", func() error {
		out, err := exec.Command("virsh", "-c", "qemu:///system?mode=legacy", "uri").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// Restart ends libvirtd and starts it again. Guests go on meanwhile.
func (l *Libvirtd) Restart() {
	l.t.Helper()
	if err := l.cmd.Process.Signal(unix.SIGTERM); err != nil {
		l.t.Fatalf("stopping libvirtd: %v", err)
	}
	_ = l.cmd.Wait()
	l.start()
}

// Virsh runs virsh on libvirtd with an input, and returns what it prints.
func (l *Libvirtd) Virsh(input string, args ...string) (string, error) {
	cmd := exec.Command("virsh", append([]string{"-q", "-c", "qemu:///system?mode=legacy"}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("virsh %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return string(out), nil
}
