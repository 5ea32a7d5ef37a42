package nstest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// GuestConfig says what guest QEMU boots.
type GuestConfig struct {
	// Name is the guest's host name, which it sends to the DHCP server.
	Name string
	// Netdev is the value of -netdev, with id=n0. Empty means no network card.
	Netdev string
	// MAC is the card's address; empty leaves it to QEMU, which gives every
	// guest the same.
	MAC string
	// More are values of -netdev for further cards, with id=n1, id=n2, …
	More []string
	// Initrd is what GuestInitrd packed, empty for the usual file system.
	Initrd string
	// CPUs is how many the guest has; 0 for one. Every queue of a card takes one.
	CPUs int
	// Memory is what the guest has, in MiB; 0 for what a small one needs.
	Memory int
	// NoDHCP leaves eth0 up without an address.
	NoDHCP bool
	// NetBoot leaves the kernel and all else to what the card's firmware, iPXE, gets
	// from the network: a script with BootScript. It needs Netdev.
	NetBoot bool
	// UEFI has the machine's own firmware boot from the network, in the place of the
	// card's: by "pxe" or "http". It needs NetBoot.
	UEFI string
	// Wrap stands before QEMU's name on the command line: a program that runs QEMU.
	Wrap []string
	// Env is added to the environment of QEMU.
	Env []string
	// Files are QEMU's from descriptor 3 on. The caller may close them once it runs.
	Files []*os.File
}

// QEMU is a virtual machine: Debian's cloud kernel and a busybox, driven over
// its serial console. Its methods are safe for concurrent use.
type QEMU struct {
	cmd     *exec.Cmd
	stdin   io.Writer
	console *console
	done    chan struct{} // closed when the process is gone
	err     error         // of the process, valid after done

	run sync.Mutex // one command at a time
	seq int
}

// Root is the top of the source tree in which the process works.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("no go.mod in %s or above it", dir)
		}
	}
}

// StartGuest boots a guest by QEMU without hardware virtualisation, so that it
// runs alike everywhere. It returns once the process runs; the boot itself
// takes seconds. The caller ends it with Kill.
func StartGuest(cfg GuestConfig) (*QEMU, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	images := filepath.Join(root, ".cache", "guest")
	if _, err := os.Stat(filepath.Join(images, "initramfs.gz")); err != nil {
		return nil, fmt.Errorf("no guest to boot, run test/deps.sh: %w", err)
	}
	argv := append(append([]string(nil), cfg.Wrap...), cfg.arguments(images)...)
	q := &QEMU{cmd: exec.Command(argv[0], argv[1:]...), console: newConsole(), done: make(chan struct{})}
	q.cmd.Stdout, q.cmd.Stderr = q.console, q.console
	q.cmd.Env = append(os.Environ(), cfg.Env...)
	q.cmd.ExtraFiles = cfg.Files
	q.cmd.WaitDelay = time.Second
	if q.stdin, err = q.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := q.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting QEMU: %w", err)
	}
	go func() {
		defer close(q.done)
		q.err = q.cmd.Wait()
		q.console.end()
	}()
	return q, nil
}

// arguments is QEMU's command line.
func (cfg GuestConfig) arguments(images string) []string {
	args := []string{
		"qemu-system-x86_64", "-accel", "tcg", "-m", strconv.Itoa(cmp.Or(cfg.Memory, 160)), "-nodefaults", "-no-user-config", "-no-reboot",
		"-display", "none", "-monitor", "none", "-serial", "stdio",
	}
	device := "virtio-net-pci,netdev=n0"
	switch {
	case cfg.UEFI != "":
		args = append(args, uefi(cfg.UEFI)...)
		device += ",romfile=,bootindex=1"
	case cfg.NetBoot:
		args = append(args, "-boot", "n")
	default:
		initrd := cmp.Or(cfg.Initrd, filepath.Join(images, Initramfs))
		args = append(args, "-kernel", filepath.Join(images, Kernel), "-initrd", initrd, "-append", cfg.commandLine())
		device += ",romfile="
	}
	if cfg.CPUs > 0 {
		args = append(args, "-smp", strconv.Itoa(cfg.CPUs))
	}
	if cfg.Netdev == "" {
		return args
	}
	if cfg.MAC != "" {
		device += ",mac=" + cfg.MAC
	}
	args = append(args, "-netdev", cfg.Netdev, "-device", device)
	for i, netdev := range cfg.More {
		args = append(args, "-netdev", netdev, "-device", fmt.Sprintf("virtio-net-pci,netdev=n%[1]d,romfile=,mac=52:54:00:00:53:%02[1]x", i+1))
	}
	return args
}

// uefi has OVMF boot from the network by one way alone, and IPv4.
func uefi(way string) []string {
	args := []string{"-m", "320", "-bios", "/usr/share/ovmf/OVMF.fd", "-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n"}
	if way == "http" {
		args = append(args, "-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n")
	}
	return args
}

// The files of which a guest boots, in .cache/guest.
const (
	Kernel    = "vmlinuz"
	Initramfs = "initramfs.gz"
)

// CommandLine begins that of every kernel that a test boots. On a busy machine the emulated timer
// may not tick in time for the kernel's check of it, which panics.
const CommandLine = "console=ttyS0 quiet loglevel=1 panic=-1 no_timer_check "

// commandLine is the kernel's.
func (cfg GuestConfig) commandLine() string {
	dhcp := "on"
	if cfg.NoDHCP {
		dhcp = "off"
	}
	return CommandLine + "vnet.name=" + cfg.Name + " vnet.dhcp=" + dhcp
}

// BootScript is what iPXE does to boot the guest from Kernel and Initramfs beside
// the script.
func (cfg GuestConfig) BootScript() string {
	return "#!ipxe\nkernel " + Kernel + " " + cfg.commandLine() + "\ninitrd " + Initramfs + "\nboot\n"
}

// BootGuest is StartGuest for a test: the guest ends with the test, and its
// console is logged when the test failed.
func BootGuest(t TB, cfg GuestConfig) *QEMU {
	t.Helper()
	q, err := StartGuest(cfg)
	if err != nil {
		t.Fatalf("booting guest %q: %v", cfg.Name, err)
	}
	t.Cleanup(func() {
		q.Kill()
		if t.Failed() {
			t.Logf("console of guest %q:\n%s", cfg.Name, q.Console())
		}
	})
	return q
}

// PID is QEMU's process, or that of the program that wraps it.
func (q *QEMU) PID() int { return q.cmd.Process.Pid }

// Done is closed when QEMU is gone.
func (q *QEMU) Done() <-chan struct{} { return q.done }

// Err is how QEMU ended: nil for exit code 0. It waits for the end.
func (q *QEMU) Err() error {
	<-q.done
	return q.err
}

// Kill ends QEMU with SIGKILL and waits until it is gone.
func (q *QEMU) Kill() {
	_ = q.cmd.Process.Kill()
	<-q.done
}

// Console is what the guest and QEMU printed so far.
func (q *QEMU) Console() string { return q.console.String() }

// Expect waits for a line of the console that matches, earlier ones included,
// and returns the match and its groups.
func (q *QEMU) Expect(ctx context.Context, pattern *regexp.Regexp) ([]string, error) {
	var match []string
	err := q.console.await(ctx, 0, func(line string) bool {
		match = pattern.FindStringSubmatch(line)
		return match != nil
	})
	if err != nil {
		return nil, fmt.Errorf("waiting for %q on the console: %w\n%s", pattern, err, q.Console())
	}
	return match, nil
}

// Run runs a line of shell in the guest and returns what it printed and its
// exit status. A status other than 0 is not an error.
func (q *QEMU) Run(ctx context.Context, command string) (string, int, error) {
	if strings.Contains(command, "\n") || len(command) > maxConsoleLine-100 {
		return "", 0, errors.New("a command for a guest is one short line")
	}
	if _, err := q.Expect(ctx, readyLine); err != nil {
		return "", 0, err
	}
	q.run.Lock()
	defer q.run.Unlock()
	q.seq++
	var out output
	start := q.console.next()
	if _, err := fmt.Fprintf(q.stdin, "c%d %s\n", q.seq, command); err != nil {
		return "", 0, fmt.Errorf("typing %q into the guest: %w", command, err)
	}
	done := fmt.Sprintf("GUEST done c%d ", q.seq)
	if err := q.console.await(ctx, start, func(line string) bool { return out.take(line, done) }); err != nil {
		return "", 0, fmt.Errorf("running %q in the guest: %w\n%s", command, err, q.Console())
	}
	return out.text.String(), out.status, nil
}

// output collects what a command printed up to its end marker.
type output struct {
	text   strings.Builder
	status int
}

// take adds a line of the console and reports whether it was the last one.
// Events of the guest may stand between the command's lines.
func (o *output) take(line, done string) bool {
	before, after, found := strings.Cut(line, done)
	if found {
		o.text.WriteString(before)
		_, err := fmt.Sscanf(after, "%d", &o.status)
		return err == nil
	}
	if !strings.HasPrefix(line, "GUEST ") {
		o.text.WriteString(line + "\n")
	}
	return false
}
