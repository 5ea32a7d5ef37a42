package docs

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
)

// sshPort is that of the host which leads to the guest's SSH.
const sshPort = "2222"

// TestLaunchers starts a guest by each of the example launchers and logs into it by SSH, from
// the host; nothing of the guest is left when QEMU has ended.
func TestLaunchers(t *testing.T) {
	for _, name := range []string{"launch.sh", "launch.py", "launch.go"} {
		t.Run(name, func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				root, err := nstest.Root()
				if err != nil {
					t.Fatal(err)
				}
				install(t, root)
				launcher := filepath.Join(root, "configs", "examples", name)
				if filepath.Ext(name) == ".go" {
					nstest.Exec(t, "env", "CGO_ENABLED=0", "go", "build", "-o", "/run/launch", launcher)
					launcher = "/run/launch"
				}
				lab := nstest.NewLab(t)
				nstest.IP(t, "link set lo up")
				lab.StartVnetd()
				start(t, lab)
				console, end := launched(t, launcher)
				loggedIn(t, console)
				end()
				nstest.Eventually(t, limit, "the guest's port and forward being gone", func() error { return nothingLeft(t.Context(), lab) })
			})
		})
	}
}

// launched has a launcher start the guest web1, and returns what the guest reads, once the
// launcher has said that it has an address. end ends the guest.
func launched(t *testing.T, launcher string) (console io.Writer, end func()) {
	t.Helper()
	initrd := nstest.GuestInitrd(t, nstest.GuestFiles{
		Programs: []string{"/usr/sbin/dropbear"},
		Texts:    map[string]string{"etc/passwd": "root::0:0:root:/:/bin/sh\n"},
	})
	root, err := nstest.Root()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), launcher, "web1", sshPort, "-accel", "tcg", "-m", "192", "-display", "none", "-nodefaults", "-no-reboot", "-serial", "stdio",
		"-kernel", filepath.Join(root, ".cache", "guest", "vmlinuz"), "-initrd", initrd, "-append", nstest.CommandLine+"vnet.name=web1")
	cmd.Env = append(os.Environ(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	t.Cleanup(end)
	defer time.AfterFunc(limit, end).Stop() // what never comes must not be waited for
	said, lines := new(strings.Builder), bufio.NewScanner(stdout)
	for lines.Scan() {
		fmt.Fprintln(said, lines.Text())
		if strings.Contains(lines.Text(), "web1 has an address: ssh -p "+sshPort+" 127.0.0.1") {
			go func() { _, _ = io.Copy(io.Discard, stdout) }()
			return stdin, end
		}
	}
	t.Fatalf("%s ended and said\n%s", launcher, said)
	return nil, nil
}

// loggedIn logs into the guest by SSH, as its root without a password.
func loggedIn(t *testing.T, console io.Writer) {
	t.Helper()
	if _, err := io.WriteString(console, "sshd mkdir -p /etc/dropbear; dropbear -R -B -p 22\n"); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, limit, "logging into the guest", func() error {
		out, err := exec.CommandContext(t.Context(), "ssh", "-p", sshPort, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
			"-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "root@127.0.0.1", "hostname").CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != "web1" {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// nothingLeft tells what is left of the guest.
func nothingLeft(ctx context.Context, lab *nstest.Lab) error {
	for _, what := range []string{"port", "forward"} {
		if r := lab.Vnetctl(ctx, what, "list", "--json"); r.Code != 0 || strings.TrimSpace(r.Stdout) != "[]" {
			return fmt.Errorf("%ss: %s%s", what, r.Stdout, r.Stderr)
		}
	}
	return nil
}
