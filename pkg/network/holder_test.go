package network_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/network"
)

// tunIoctl is an ioctl that whoever holds a descriptor of a TAP device may use.
func tunIoctl(t *testing.T, f *os.File, request uint, value int) {
	t.Helper()
	raw, err := f.SyscallConn()
	must(t, err)
	var failed error
	must(t, raw.Control(func(fd uintptr) { failed = unix.IoctlSetInt(int(fd), request, value) }))
	must(t, failed)
}

// setHWAddr sets the address of a TAP device by its descriptor. It fails with EBADFD where
// the device is gone.
func setHWAddr(t *testing.T, f *os.File, mac ...byte) error {
	t.Helper()
	raw, err := f.SyscallConn()
	must(t, err)
	// struct ifreq: the name, then a sockaddr of the family ARPHRD_ETHER.
	request := struct {
		name   [unix.IFNAMSIZ]byte
		family uint16
		mac    [22]byte
	}{family: unix.ARPHRD_ETHER}
	copy(request.mac[:], mac)
	var errno unix.Errno
	must(t, raw.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, unix.SIOCSIFHWADDR, uintptr(unsafe.Pointer(&request)))
	}))
	if errno != 0 {
		return errno
	}
	return nil
}

// TestHolderChangesDevice changes by the descriptor of a port what the kernel lets its
// holder change: the port ends where nobody else can take that back, or has its
// address again.
func TestHolderChangesDevice(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(natXML("one", "192.0.2"))
		ended := func(what string, opts network.PortOptions, change func(f *os.File)) {
			t.Helper()
			info, f := h.port(n, opts)
			change(f)
			until(t, "the port ends whose holder "+what, func() bool { return len(h.Ports().List()) == 0 && !linkExists(info.IfName) })
			_ = f.Close()
		}
		ended("has its device stay", network.PortOptions{Owner: 1000}, func(f *os.File) { tunIoctl(t, f, unix.TUNSETPERSIST, 1) })
		ended("gives its device to another user", network.PortOptions{Owner: 1000}, func(f *os.File) { tunIoctl(t, f, unix.TUNSETOWNER, 1001) })
		ended("opens its device to a group", network.PortOptions{Owner: 1000}, func(f *os.File) { tunIoctl(t, f, unix.TUNSETGROUP, 1001) })
		ended("gives a device that stays to another user", network.PortOptions{Owner: 1000, Lifetime: "persistent"},
			func(f *os.File) { tunIoctl(t, f, unix.TUNSETOWNER, 1001) })
		ended("sets its address again and again", network.PortOptions{Owner: 1000}, func(f *os.File) {
			for i := range byte(100) {
				err := setHWAddr(t, f, 2, 0, 0, 0, 1, i)
				if errors.Is(err, unix.EBADFD) {
					return
				}
				must(t, err)
				nstest.Exec(t, "sleep", "0.05")
			}
		})
		info, f := h.port(n, network.PortOptions{Owner: 1000})
		address := func() string {
			text, err := os.ReadFile("/sys/class/net/" + info.IfName + "/address")
			must(t, err)
			return strings.TrimSpace(string(text))
		}
		was := address()
		must(t, setHWAddr(t, f, 2, 0, 0, 0, 0, 1))
		until(t, "the device has its address again", func() bool { return address() == was })
		// What is the guest's to say stays so.
		tunIoctl(t, f, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM)
		nstest.IP(t, "link set "+info.IfName+" mtu 1400")
		bus, g := h.port(n, network.PortOptions{Lifetime: "bus", Holder: "a"})
		must(t, h.Reload(t.Context()))
		if len(h.Ports().List()) != 2 || !linkExists(info.IfName) || !linkExists(bus.IfName) {
			t.Errorf("ports %v, want two", h.Ports().List())
		}
		must(t, f.Close())
		must(t, g.Close())
	})
}
