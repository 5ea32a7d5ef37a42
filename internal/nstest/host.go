package nstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Host is a hypervisor beside others: namespaces for its network and its mounts, with /run,
// /etc and /var/lib of its own, a system bus, and vnetd.
type Host struct {
	*NS
	// Bin is the folder of vnetd and vnetctl.
	Bin string

	root  string // of its mounts, as this process sees it
	pid   int    // of who keeps its namespaces
	vnetd *exec.Cmd
	log   *syncBuffer
}

// NewHost makes a host with nothing on it but a bus. Make it in the namespaces of Run or
// Alone.
func NewHost(t TB, name string) *Host {
	t.Helper()
	top := "/" // of RunInGuest
	if os.Getenv(envInGuest) == "" {
		var err error
		if top, err = Root(); err != nil {
			t.Fatalf("finding the programs: %v", err)
		}
	}
	h := &Host{NS: NewNS(t, name), Bin: filepath.Join(top, "bin"), log: new(syncBuffer)}
	if err := h.begin(t); err != nil {
		t.Fatalf("making host %s: %v", name, err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of vnetd on %s:\n%s", name, h.log)
		}
	})
	return h
}

// hostScript makes what is a host's own, and keeps it until its standard input ends.
const hostScript = `set -e
mount -t tmpfs run /run
mkdir -p /run/dbus /run/host/etc /run/host/lib
cp -a /etc/. /run/host/etc
rm -f /run/host/etc/resolv.conf
mkdir -p /run/host/etc/vnetd
printf 'nameserver 192.0.2.53\n' >/run/host/etc/resolv.conf
printf 'firewall_backend = "nftables"\n' >/run/host/etc/vnetd/vnetd.toml
mount --bind /run/host/etc /etc
mount --bind /run/host/lib /var/lib
cat >/run/dbus/bus.conf <<'END'
` + BusConfig + `END
dbus-daemon --nofork --nopidfile --config-file=/run/dbus/bus.conf --print-address=1 &
echo $$
exec 1>&-
read end || true
kill $!
wait`

// begin starts who keeps the host's namespaces, and waits until its bus answers.
func (h *Host) begin(t TB) error {
	keeper := h.NS.Command(context.WithoutCancel(t.Context()), "unshare", "--mount", "--propagation", "private", "sh", "-c", hostScript)
	said, err := keeper.StdoutPipe()
	if err != nil {
		return err
	}
	held, err := keeper.StdinPipe()
	if err != nil {
		return err
	}
	complaints := new(syncBuffer)
	keeper.Stderr = complaints
	if err := keeper.Start(); err != nil {
		return err
	}
	t.Cleanup(func() {
		_ = held.Close()
		_ = keeper.Wait()
	})
	var lines string
	buffer := make([]byte, 512)
	for strings.Count(lines, "\n") < 2 { // its id, and where the bus listens
		n, err := said.Read(buffer)
		if err != nil {
			return fmt.Errorf("it said %q: %w: %s", lines, err, complaints)
		}
		lines += string(buffer[:n])
	}
	for line := range strings.Lines(lines) {
		if _, err := fmt.Sscanf(line, "%d\n", &h.pid); err == nil {
			h.root = fmt.Sprintf("/proc/%d/root", h.pid)
			return nil
		}
	}
	return fmt.Errorf("it said %q", lines)
}

// PID is that of a process in the host's namespaces, which runs as long as the host does.
func (h *Host) PID() int { return h.pid }

// Bus is the address of the host's system bus.
func (h *Host) Bus() string {
	return "unix:path=" + filepath.Join(h.root, "run/dbus/system_bus_socket")
}

// Command is a program that will run on the host and be killed when ctx ends.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	all := append([]string{"--target", fmt.Sprint(h.pid), "--mount", "--net", name}, args...)
	cmd := exec.CommandContext(ctx, "nsenter", all...)
	cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+busAddress)
	return cmd
}

// Exec runs a program on the host, returns its standard output and fails the test when it
// fails.
func (h *Host) Exec(name string, args ...string) string {
	h.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := h.Command(context.Background(), name, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		h.t.Fatalf("%s: %s %s: %v\n%s%s", h.Name, name, strings.Join(args, " "), err, &stdout, &stderr)
	}
	return stdout.String()
}

// Vnetctl runs vnetctl on the host, with a standard input, to its end or until ctx ends.
func (h *Host) Vnetctl(ctx context.Context, stdin string, args ...string) Result {
	return resultOf(h.Command(ctx, filepath.Join(h.Bin, "vnetctl"), args...), stdin)
}

// StartVnetd starts vnetd on the host and waits until it answers. It is killed when the test
// ends.
func (h *Host) StartVnetd() {
	h.t.Helper()
	h.vnetd = h.Command(context.WithoutCancel(h.t.Context()), filepath.Join(h.Bin, "vnetd"))
	h.vnetd.Stdout, h.vnetd.Stderr = h.log, h.log
	if err := h.vnetd.Start(); err != nil {
		h.t.Fatalf("starting vnetd on %s: %v", h.Name, err)
	}
	h.t.Cleanup(h.KillVnetd)
	Eventually(h.t, startLimit, "vnetd answers on "+h.Name, func() error {
		return errors.Join(h.Vnetctl(h.t.Context(), "", "list").Err())
	})
}

// KillVnetd ends vnetd on the host with SIGKILL, if it runs, and waits until it is gone.
func (h *Host) KillVnetd() {
	if h.vnetd == nil {
		return
	}
	_ = h.vnetd.Process.Kill() // nsenter executes vnetd in its own place
	_ = h.vnetd.Wait()
	h.vnetd = nil
}

// VnetdPID is the process of vnetd on the host, which must run.
func (h *Host) VnetdPID() int { return h.vnetd.Process.Pid }

// Log is what vnetd wrote on the host.
func (h *Host) Log() string { return h.log.String() }
