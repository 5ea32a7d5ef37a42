package nstest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

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

// libvirtdInit is the first process of the PID namespace in which libvirtd runs: for
// each line that it reads it runs libvirtd, until SIGTERM, and then says so. It reaps
// the guests, which outlive libvirtd: that waits for their end, and a test does not
// reap.
const libvirtdInit = `
mount -t proc proc /proc
trap 'kill $pid' TERM
while read -r _; do
	libvirtd & pid=$!
	while kill -0 $pid; do wait $pid; done
	echo ended
done 2>/dev/null
`

// Libvirtd is a real monolithic libvirtd, with nothing defined.
type Libvirtd struct {
	t    TB
	init *exec.Cmd
	in   io.Writer
	out  *bufio.Reader
}

// StartLibvirtd starts one on the lab's /etc and /var/lib. It ends with the test, its
// guests too, and its log is shown when the test failed.
func (lab *Lab) StartLibvirtd() *Libvirtd {
	t := lab.t
	t.Helper()
	if err := libvirtdHome(); err != nil {
		t.Fatalf("making the folders of libvirtd: %v", err)
	}
	l := &Libvirtd{t: t, init: exec.Command("sh", "-c", libvirtdInit)}
	// On the bus it would wait for systemd's services, which are not there.
	l.init.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/nobus")
	l.init.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: unix.SIGKILL}
	if err := l.launch(); err != nil {
		t.Fatalf("starting libvirtd's namespaces: %v", err)
	}
	t.Cleanup(func() {
		_ = l.init.Process.Kill()
		_ = l.init.Wait()
		if t.Failed() {
			log, _ := os.ReadFile(LibvirtdLog)
			t.Logf("log of libvirtd:\n%s", log)
		}
	})
	l.start()
	return l
}

func (l *Libvirtd) launch() error {
	in, err := l.init.StdinPipe()
	if err != nil {
		return err
	}
	out, err := l.init.StdoutPipe()
	if err != nil {
		return err
	}
	l.in, l.out = in, bufio.NewReader(out)
	return l.init.Start()
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
	// libvirtd's own package does not make the user that it looks for.
	const lookedFor = "libvirt-qemu:x:64055:"
	return errors.Join(appendTo("/etc/passwd", lookedFor+"64055::/:/bin/false\n"), appendTo("/etc/group", lookedFor+"\n"))
}

// appendTo adds a line to a file.
func appendTo(path, line string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line)
	return errors.Join(err, f.Close())
}

func (l *Libvirtd) start() {
	l.t.Helper()
	if _, err := io.WriteString(l.in, "start\n"); err != nil {
		l.t.Fatalf("starting libvirtd: %v", err)
	}
	Eventually(l.t, startLimit, "reaching libvirtd", func() error {
		_, err := l.Virsh("", "uri")
		return err
	})
}

// Restart ends libvirtd and starts it again. Guests go on meanwhile.
func (l *Libvirtd) Restart() {
	l.t.Helper()
	if err := l.init.Process.Signal(unix.SIGTERM); err != nil {
		l.t.Fatalf("stopping libvirtd: %v", err)
	}
	if _, err := l.out.ReadString('\n'); err != nil {
		l.t.Fatalf("waiting for the end of libvirtd: %v", err)
	}
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
