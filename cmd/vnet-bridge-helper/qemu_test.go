package main

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
)

// TestQEMU lets a real QEMU run the helper, directly and through a shell, and
// asks its monitor for the device: QEMU accepts nothing but a TAP.
func TestQEMU(t *testing.T) {
	for name, options := range map[string]string{"exec": "", "shell": " --mac=00:00:5e:00:53:42 --name=web1"} {
		t.Run(name, func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) { runQEMU(t, options) })
		})
	}
}

// runQEMU runs QEMU without a machine and with the helper's options.
func runQEMU(t *testing.T, helperOptions string) {
	s := newServer(t)
	s.OpenPortsWith(openTAP)
	helper, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	qemu := exec.CommandContext(t.Context(), "qemu-system-x86_64", "-M", "none", "-nodefaults", "-display", "none",
		"-monitor", "stdio", "-netdev", "tap,id=n0,br=default,helper="+helper+helperOptions)
	qemu.Env = append(os.Environ(), asHelper+"=1")
	qemu.Stdin = strings.NewReader("info network\nquit\n")
	out, err := qemu.CombinedOutput()
	if err != nil {
		t.Fatalf("QEMU: %v: %s", err, out)
	}
	if !strings.Contains(string(out), "n0: index=0,type=tap") {
		t.Errorf("QEMU has no TAP: %s", out)
	}
	want := map[string]any{"network": "default", "vnet_hdr": true, "lifetime": "fd"}
	if helperOptions != "" {
		want["mac"], want["name"] = "00:00:5e:00:53:42", "web1"
	}
	if diff := cmp.Diff([]map[string]any{want}, s.Requests()); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

// openTAP makes a TAP device in the test's namespace.
func openTAP(ifname string, vnetHdr bool) (*os.File, error) {
	request, err := unix.NewIfreq(ifname)
	if err != nil {
		return nil, err
	}
	var flags uint16 = unix.IFF_TAP | unix.IFF_NO_PI
	if vnetHdr {
		flags |= unix.IFF_VNET_HDR
	}
	request.SetUint16(flags)
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), ifname), nil
}
