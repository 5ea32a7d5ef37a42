package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// libvirtdInit is the first process of the PID namespace in which libvirtd runs:
// it starts libvirtd for each line that it reads, says when that ended, and
// reaps the dnsmasq processes, which outlive libvirtd. It sees folders of the
// bench in the place of libvirtd's own.
const libvirtdInit = `
set -e
mount -t proc proc /proc
for folder in /var/lib/libvirt /var/cache/libvirt /var/log/libvirt /etc/libvirt/qemu; do
	mkdir -p "$1$folder"
	mount --bind "$1$folder" "$folder"
done
while read -r _; do
	libvirtd --pid-file /run/libvirtd.pid &
	wait $! || true
	echo ended
done
`

// libvirtdHost is libvirtd as Debian configures it, with its state in dir, in
// mount and PID namespaces of its own within the lab.
type libvirtdHost struct {
	b    *bench
	dir  string
	init *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	log  *bytes.Buffer
}

func openLibvirtd(b *bench, dir string) host {
	if err := os.Chmod(dir, 0o755); err != nil { // dnsmasq is no longer root when it reads its files
		b.Fatalf("opening the state to libvirtd's user: %w", err)
	}
	for _, folder := range []string{"/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt", "/etc/libvirt/qemu"} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			b.Fatalf("making a folder: %w", err)
		}
	}
	h := &libvirtdHost{b: b, dir: dir, log: new(bytes.Buffer)}
	h.init = exec.CommandContext(b.cleanupContext(), "sh", "-c", libvirtdInit, "sh", dir)
	h.init.Stderr = h.log
	h.init.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: unix.SIGKILL}
	if err := h.open(); err != nil {
		b.Fatalf("starting libvirtd's namespaces: %w", err)
	}
	b.Cleanup(h.remove)
	return h
}

func (h *libvirtdHost) open() (err error) {
	if h.in, err = h.init.StdinPipe(); err != nil {
		return err
	}
	out, err := h.init.StdoutPipe()
	if err != nil {
		return err
	}
	h.out = bufio.NewReader(out)
	return h.init.Start()
}

// remove ends all processes of the namespace and takes down what they made.
func (h *libvirtdHost) remove() {
	_ = h.init.Process.Kill()
	_ = h.init.Wait()
	gone(h.b, "libvirtd")
	gone(h.b, "dnsmasq")
	removeNetworks(h.b)
	for _, path := range []string{"/run/libvirt", "/run/libvirtd.pid"} {
		_ = os.RemoveAll(path)
	}
	if h.b.Failed() {
		h.b.Logf("libvirtd: %s", h.log)
	}
}

func (h *libvirtdHost) definitions() string {
	return filepath.Join(h.dir, "/etc/libvirt/qemu/networks")
}

func (h *libvirtdHost) launch() {
	if _, err := io.WriteString(h.in, "start\n"); err != nil {
		h.b.Fatalf("starting libvirtd: %w", err)
	}
}

func (h *libvirtdHost) halt() {
	pids, err := processesOf("libvirtd")
	if err != nil || len(pids) != 1 {
		h.b.Fatalf("looking for libvirtd: %d processes, %w", len(pids), err)
	}
	if err := unix.Kill(pids[0], unix.SIGTERM); err != nil {
		h.b.Fatalf("stopping libvirtd: %w", err)
	}
	if _, err := h.out.ReadString('\n'); err != nil {
		h.b.Fatalf("waiting for the end of libvirtd: %w", err)
	}
}

func (h *libvirtdHost) start(first, count int) error {
	var commands []string
	for n := first; n < first+count; n++ {
		commands = append(commands, fmt.Sprintf("net-start net%d", n))
	}
	_, err := h.virsh(strings.Join(commands, ";"))
	return err
}

func (h *libvirtdHost) active() (int, error) {
	out, err := h.virsh("net-list --name")
	return len(strings.Fields(out)), err
}

// virsh runs commands, separated by semicolons, over one connection.
func (h *libvirtdHost) virsh(commands string) (string, error) {
	out, err := exec.CommandContext(h.b.Context(), "virsh", "-q", "-c", "qemu:///system", commands).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("virsh: %w: %s", err, bytes.TrimSpace(out))
	}
	return string(out), nil
}

func (h *libvirtdHost) usage() usage {
	u := server{comm: "libvirtd"}.usage(h.b)
	names := server{comm: "dnsmasq"}.usage(h.b)
	return usage{processes: u.processes + names.processes, cpu: u.cpu + names.cpu, pss: u.pss + names.pss}
}
