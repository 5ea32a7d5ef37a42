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

// LibvirtLog is where a Libvirtd writes its log.
const LibvirtLog = "/run/libvirt.log"

// The configuration of a Libvirtd: QEMU runs as root, without what needs more than
// the namespaces of a test have.
const (
	libvirtConf = "unix_sock_group = \"root\"\nauth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\nlog_outputs = \"3:file:" + LibvirtLog + "\"\n"
	qemuConf    = "user = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\ncgroup_controllers = []\nnamespaces = []\n" +
		"stdio_handler = \"file\"\ndynamic_ownership = 0\nremember_owner = 0\n"
)

// libvirtInit is the first process of the PID namespace in which the daemon $0 runs:
// for each line that it reads it runs the daemon, until SIGTERM, which it passes on,
// or SIGUSR1, upon which it kills the daemon, and then says so. It reaps the guests,
// which outlive the daemon: that waits for their end, and a test does not reap.
const libvirtInit = `
mount -t proc proc /proc
trap 'kill $pid' TERM
trap 'kill -KILL $pid' USR1
while read -r _; do
	"$0" & pid=$!
	while kill -0 $pid; do wait $pid; done
	echo ended
done 2>/dev/null
`

// Libvirtd is a real daemon of libvirt's that runs guests, with nothing defined.
type Libvirtd struct {
	t    TB
	uri  string
	init *exec.Cmd
	in   io.Writer
	out  *bufio.Reader
}

// StartLibvirtd starts a monolithic libvirtd on the lab's /etc and /var/lib. It ends
// with the test, its guests too, and its log is shown when the test failed.
func (lab *Lab) StartLibvirtd() *Libvirtd {
	lab.t.Helper()
	return lab.startLibvirtd("libvirtd", "qemu:///system?mode=legacy")
}

// StartVirtqemud is StartLibvirtd of virtqemud, which has no networks of its own: it
// asks whoever answers where virtnetworkd would.
func (lab *Lab) StartVirtqemud() *Libvirtd {
	lab.t.Helper()
	root, err := Root()
	if err != nil {
		lab.t.Fatalf("finding virtqemud: %v", err)
	}
	program := filepath.Join(root, ".cache/virtqemud/virtqemud")
	if _, err := os.Stat(program); err != nil {
		lab.t.Fatalf("no virtqemud, run test/deps.sh: %v", err)
	}
	return lab.startLibvirtd(program, "qemu:///system?mode=direct")
}

func (lab *Lab) startLibvirtd(program, uri string) *Libvirtd {
	t := lab.t
	t.Helper()
	if err := libvirtHome(filepath.Base(program)); err != nil {
		t.Fatalf("making the folders of %s: %v", program, err)
	}
	l := &Libvirtd{t: t, uri: uri, init: exec.Command("sh", "-c", libvirtInit, program)}
	// On the bus it would wait for systemd's services, which are not there.
	l.init.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/nobus")
	l.init.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: unix.SIGKILL}
	if err := l.launch(); err != nil {
		t.Fatalf("starting libvirt's namespaces: %v", err)
	}
	t.Cleanup(func() {
		_ = l.init.Process.Kill()
		_ = l.init.Wait()
		if t.Failed() {
			log, _ := os.ReadFile(LibvirtLog)
			t.Logf("log of %s:\n%s", filepath.Base(program), log)
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

// libvirtHome puts the configuration of a daemon of libvirt's where it is read, and
// empty folders where it writes.
func libvirtHome(daemon string) error {
	for _, at := range []string{"/var/cache", "/var/log"} {
		if err := unix.Mount("tmpfs", at, "tmpfs", 0, ""); err != nil {
			return err
		}
	}
	if err := os.RemoveAll("/etc/libvirt"); err != nil {
		return err
	}
	for path, text := range map[string]string{daemon + ".conf": libvirtConf, "qemu.conf": qemuConf} {
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
		l.t.Fatalf("starting libvirt's daemon: %v", err)
	}
	Eventually(l.t, startLimit, "reaching libvirt's daemon", func() error {
		_, err := l.Virsh("", "uri")
		return err
	})
}

// Restart ends the daemon and starts it again. Guests go on meanwhile.
func (l *Libvirtd) Restart() {
	l.t.Helper()
	l.end(unix.SIGTERM)
	l.start()
}

// Kill ends the daemon with SIGKILL, and returns what starts it again. Guests go on
// meanwhile.
func (l *Libvirtd) Kill() (start func()) {
	l.t.Helper()
	l.end(unix.SIGUSR1)
	return l.start
}

// end sends the namespace's first process a signal upon which it ends the daemon.
func (l *Libvirtd) end(signal unix.Signal) {
	l.t.Helper()
	if err := l.init.Process.Signal(signal); err != nil {
		l.t.Fatalf("ending libvirt's daemon: %v", err)
	}
	if _, err := l.out.ReadString('\n'); err != nil {
		l.t.Fatalf("waiting for the end of libvirt's daemon: %v", err)
	}
}

// Virsh runs virsh on the daemon with an input, and returns what it prints.
func (l *Libvirtd) Virsh(input string, args ...string) (string, error) {
	cmd := exec.Command("virsh", append([]string{"-q", "-c", l.uri}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("virsh %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return string(out), nil
}
