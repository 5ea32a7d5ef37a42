package nstest

import (
	"errors"

	"golang.org/x/sys/unix"
)

// PublicTUN makes /dev/net/tun of the test's namespaces one that every user may
// open, as udev has it on a real host.
func PublicTUN(t TB) {
	t.Helper()
	const node, device = "/run/tun", "/dev/net/tun"
	var st unix.Stat_t
	err := unix.Stat(device, &st)
	if err == nil {
		err = errors.Join(
			unix.Mknod(node, unix.S_IFCHR|0o666, int(st.Rdev)),
			unix.Chmod(node, 0o666), // whatever the umask is
			unix.Mount(node, device, "", unix.MS_BIND, ""),
		)
	}
	if err != nil {
		t.Fatalf("opening %s to everybody: %v", device, err)
	}
}
