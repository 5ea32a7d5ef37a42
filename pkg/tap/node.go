package tap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// node is the device node of a macvtap device.
type node struct {
	path string
	dev  uint64 // its number
	made bool   // not the kernel's
}

// How long udev may take to give the daemon a node, on a host that starts many guests at once as
// well, and how often that is tried.
const (
	udevPatience = 15 * time.Second
	udevPace     = 10 * time.Millisecond
)

// findNode finds the node of the macvtap device of that name. The kernel makes /dev/tapN in
// the host's /dev, N being the ifindex. Two devices in different network namespaces may
// have one ifindex, and a container has a /dev of its own: where /dev/tapN is not there, or
// another device's, a node is made in dir.
func findNode(name, dir string) (node, error) {
	at := filepath.Join("/sys/class/net", name, "macvtap")
	entries, err := os.ReadDir(at)
	if err != nil || len(entries) != 1 {
		return node{}, fmt.Errorf("%s does not tell its device: is /sys that of another network namespace? %w", at, err)
	}
	tap := entries[0].Name()
	text, err := os.ReadFile(filepath.Join(at, tap, "dev"))
	if err != nil {
		return node{}, err
	}
	dev, err := parseDev(strings.TrimSpace(string(text)))
	if err != nil {
		return node{}, err
	}
	n := node{path: filepath.Join("/dev", tap), dev: dev}
	if n.stands() {
		return n, nil
	}
	n = node{path: filepath.Join(dir, fmt.Sprintf("tap-%d-%d", unix.Major(dev), unix.Minor(dev))), dev: dev, made: true}
	return n, n.make()
}

// parseDev reads the number of a device as sysfs has it.
func parseDev(text string) (uint64, error) {
	major, minor, ok := strings.Cut(text, ":")
	a, errA := strconv.ParseUint(major, 10, 12)
	b, errB := strconv.ParseUint(minor, 10, 20)
	if err := errors.Join(errA, errB); !ok || err != nil {
		return 0, fmt.Errorf("%.80q is no number of a device, want MAJOR:MINOR", text)
	}
	return unix.Mkdev(uint32(a), uint32(b)), nil
}

// stands reports whether the node is there and the device's.
func (n *node) stands() bool {
	var st unix.Stat_t
	return unix.Stat(n.path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == n.dev
}

// make makes the node, where it is not there.
func (n *node) make() error {
	if n.stands() {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(n.path), 0o700); err != nil {
		return err
	}
	if err := os.Remove(n.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := unix.Mknod(n.path, unix.S_IFCHR|0o600, int(n.dev)); err != nil {
		return fmt.Errorf("/dev has no node of the device (%d:%d), and none can be made: mknod %s: %w", unix.Major(n.dev), unix.Minor(n.dev), n.path, err)
	}
	return nil
}

// open opens the device once, which is a queue. A node of the kernel's becomes the daemon's
// by a rule of udev, which takes a moment.
func (n *node) open() (int, error) {
	for end := time.Now().Add(udevPatience); ; time.Sleep(udevPace) {
		fd, err := unix.Open(n.path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		switch {
		case err == nil:
			return fd, nil
		case errors.Is(err, unix.EACCES) && !n.made && time.Now().Before(end):
		case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
			return 0, fmt.Errorf("opening %s, which takes a rule of udev, and DeviceAllow=char-macvtap rw where systemd runs the daemon; no mount of it may be nodev: %w", n.path, err)
		default:
			return 0, fmt.Errorf("opening %s: %w", n.path, err)
		}
	}
}

// RemoveNode removes a node that was made in dir, once its device is gone; it leaves the
// kernel's alone.
func RemoveNode(path, dir string) error {
	if path == "" || filepath.Dir(path) != filepath.Clean(dir) {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
