package nstest

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// OpenTAP makes a TAP device of that name, which lives as long as the file, as a
// hypervisor does that is told of no device.
func OpenTAP(name string) (*os.File, error) {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("making the TAP device %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Machine is a guest with a kernel of its own: a namespace whose eth0 speaks through the
// TAP device of a port, as a virtual machine's card does.
func Machine(t TB, name, mac string, port *os.File) *NS {
	t.Helper()
	ns := NewNS(t, name)
	var card *os.File
	if err := ns.Do(func() (err error) {
		card, err = OpenTAP("eth0")
		return err
	}); err != nil {
		t.Fatalf("the card of machine %s: %v", name, err)
	}
	t.Cleanup(func() { _ = card.Close() })
	ns.IP("link set eth0 address " + mac)
	ns.IP("link set eth0 up")
	go carry(port, card)
	go carry(card, port)
	return ns
}

// carry brings frames from one card to another until the first is gone.
func carry(to io.Writer, from io.Reader) {
	frame := make([]byte, 1<<16)
	for {
		n, err := from.Read(frame)
		if err != nil {
			return
		}
		_, _ = to.Write(frame[:n]) // a card that is down takes nothing
	}
}

// Keepalived is the command line of keepalived(8), which test/deps.sh unpacks, with its
// libraries; more follows.
func Keepalived(t TB, more ...string) []string {
	t.Helper()
	top, err := Root()
	if err != nil {
		t.Fatalf("finding keepalived: %v", err)
	}
	root := filepath.Join(top, ".cache", "keepalived", "root")
	program := filepath.Join(root, "usr", "sbin", "keepalived")
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("no keepalived, run test/deps.sh: %v", err)
	}
	const triplet = "x86_64-linux-gnu"
	libraries := filepath.Join(root, "usr", "lib", triplet) + ":" + filepath.Join(root, "lib", triplet)
	return append([]string{"env", "LD_LIBRARY_PATH=" + libraries, program}, more...)
}
