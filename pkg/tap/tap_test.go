package tap_test

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/tap"
	"golang.org/x/sys/unix"
)

// shown is what ip(8) shows of a TAP device.
type shown struct {
	Index   int      `json:"ifindex"`
	Name    string   `json:"ifname"`
	Flags   []string `json:"flags"`
	MTU     int      `json:"mtu"`
	Address string   `json:"address"`
	Info    struct {
		Kind string `json:"info_kind"`
		Data struct {
			Type       string `json:"type"`
			PI         bool   `json:"pi"`
			VnetHdr    bool   `json:"vnet_hdr"`
			MultiQueue bool   `json:"multi_queue"`
			Queues     int    `json:"numqueues"`
			Persist    bool   `json:"persist"`
		} `json:"info_data"`
	} `json:"linkinfo"`
}

// show reads all TAP devices by ip(8).
func show(t *testing.T) []shown {
	t.Helper()
	var all, taps []shown
	if err := json.Unmarshal([]byte(nstest.IP(t, "-d -j link")), &all); err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		if l.Info.Kind == "tun" {
			taps = append(taps, l)
		}
	}
	return taps
}

func create(t *testing.T, cfg tap.Config) *tap.Device {
	t.Helper()
	d, err := tap.Create(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func parseMAC(t *testing.T, s string) net.HardwareAddr {
	t.Helper()
	mac, err := net.ParseMAC(s)
	if err != nil {
		t.Fatal(err)
	}
	return mac
}

func TestCreate(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		mac := parseMAC(t, "fe:54:00:00:53:01")
		for _, tt := range []struct {
			what string
			cfg  tap.Config
			want func(*shown)
		}{
			{"no wishes", tap.Config{MAC: mac}, func(s *shown) { s.Name = "vnet0" }},
			{"template", tap.Config{MAC: mac, Name: "guest%d"}, func(s *shown) { s.Name = "guest0" }},
			{"longest name", tap.Config{MAC: mac, Name: "fifteen-bytes-x"}, func(s *shown) { s.Name = "fifteen-bytes-x" }},
			{"MTU", tap.Config{MAC: mac, MTU: 9000}, func(s *shown) { s.MTU = 9000 }},
			{"vnet_hdr", tap.Config{MAC: mac, VnetHdr: true}, func(s *shown) { s.Info.Data.VnetHdr = true }},
			{"one queue", tap.Config{MAC: mac, Queues: 1}, func(*shown) {}},
			{"four queues", tap.Config{MAC: mac, Queues: 4}, func(s *shown) {
				s.Info.Data.MultiQueue, s.Info.Data.Queues = true, 4
			}},
		} {
			d := create(t, tt.cfg)
			if len(d.Files) != max(tt.cfg.Queues, 1) {
				t.Errorf("%s: %d files", tt.what, len(d.Files))
			}
			want := shown{Index: d.Index, Name: "vnet0", Flags: []string{"BROADCAST", "MULTICAST"}, MTU: 1500, Address: mac.String()}
			want.Info.Kind, want.Info.Data.Type = "tun", "tap"
			tt.want(&want)
			if diff := cmp.Diff([]shown{want}, show(t)); diff != "" || d.Name != want.Name {
				t.Errorf("%s: name %q (-want +got):\n%s", tt.what, d.Name, diff)
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
			if left := show(t); len(left) != 0 {
				t.Errorf("%s: after Close there is %+v", tt.what, left)
			}
		}
	})
}

func TestNamesCountUp(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		for _, want := range []string{"vnet0", "vnet1", "vnet2"} {
			d := create(t, tap.Config{})
			if d.Name != want {
				t.Errorf("name %q, want %q", d.Name, want)
			}
			if ifi, err := net.InterfaceByName(want); err != nil || ifi.Index != d.Index {
				t.Errorf("index %d, want that of %+v, %v", d.Index, ifi, err)
			}
		}
	})
}

// TestFlagsThatQEMUSees reads what QEMU asks of a descriptor it was handed.
func TestFlagsThatQEMUSees(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		for _, tt := range []struct {
			cfg  tap.Config
			want uint16
		}{
			{tap.Config{}, unix.IFF_TAP | unix.IFF_NO_PI},
			{tap.Config{VnetHdr: true}, unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR},
			{tap.Config{Queues: 2, VnetHdr: true}, unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE},
		} {
			for _, f := range create(t, tt.cfg).Files {
				checkDescriptor(t, f, tt.want)
			}
		}
	})
}

func checkDescriptor(t *testing.T, f *os.File, want uint16) {
	t.Helper()
	fd := int(f.Fd())
	ifr, err := unix.NewIfreq("")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr); err != nil {
		t.Fatal(err)
	}
	if got := ifr.Uint16(); got != want {
		t.Errorf("%s: flags %#x, want %#x", ifr.Name(), got, want)
	}
	if size, err := unix.IoctlGetInt(fd, unix.TUNGETVNETHDRSZ); err != nil || size != 10 {
		t.Errorf("vnet_hdr has %d bytes, %v, want 10", size, err)
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor flags %#x, %v, want close-on-exec", flags, err)
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("status flags %#x, %v, want non-blocking", flags, err)
	}
}

func TestDeviceLivesAsLongAsACopyIsOpen(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		d := create(t, tap.Config{Queues: 2})
		fd, err := unix.FcntlInt(d.Files[1].Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if n := len(show(t)); n != 1 {
			t.Errorf("%d devices while a copy is open, want 1", n)
		}
		if err := unix.Close(fd); err != nil {
			t.Fatal(err)
		}
		if n := len(show(t)); n != 0 {
			t.Errorf("%d devices after the last copy was closed, want none", n)
		}
	})
}

// TestFramesPassTheFiles reads and writes a frame by way of Go's poller.
func TestFramesPassTheFiles(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		a, b := create(t, tap.Config{}), create(t, tap.Config{})
		nstest.IP(t, "link add b0 type bridge")
		nstest.IP(t, "link set b0 up")
		for _, d := range []*tap.Device{a, b} {
			nstest.IP(t, "link set "+d.Name+" master b0 up")
		}
		f := b.Files[0]
		if err := f.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
			t.Fatalf("the file doesn't use the poller: %v", err)
		}
		if err := f.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		frame := append([]byte("\xff\xff\xff\xff\xff\xff\x52\x54\x00\x00\x53\x01\x88\xb5hello"), make([]byte, 50)...)
		if _, err := a.Files[0].Write(frame); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 2000)
		for {
			n, err := f.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			if string(buf[:n]) == string(frame) {
				return
			}
		}
	})
}

// The host has no IPv6 address of its own on a device, also where it comes up: it has a use for none.
func TestNoIPv6(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		d := create(t, tap.Config{})
		nstest.IP(t, "link set "+d.Name+" up")
		if got := nstest.IP(t, "-6 addr show dev "+d.Name) + nstest.IP(t, "-6 route show table all dev "+d.Name); got != "" {
			t.Errorf("the device has IPv6:\n%s", got)
		}
	})
}

func TestCreateErrors(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.IP(t, "link add taken0 type bridge")
		nstest.IP(t, "tuntap add mode tap taken1")
		for _, tt := range []struct {
			what string
			cfg  tap.Config
			want error
		}{
			{"a bridge's name", tap.Config{Name: "taken0"}, tap.ErrExists},
			{"a persistent TAP device's name", tap.Config{Name: "taken1"}, tap.ErrExists},
			{"16 bytes", tap.Config{Name: "sixteen-bytes-xx"}, unix.EINVAL},
			{"slash", tap.Config{Name: "a/b"}, unix.EINVAL},
			{"two numbers", tap.Config{Name: "a%d%d"}, unix.EINVAL},
			{"multicast MAC", tap.Config{MAC: parseMAC(t, "01:00:5e:00:00:01")}, unix.EADDRNOTAVAIL},
			{"MTU", tap.Config{MTU: 1 << 20}, unix.EINVAL},
			{"queues", tap.Config{Queues: 257}, nil},
		} {
			d, err := tap.Create(tt.cfg)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("%s: %v, %v, want %v", tt.what, d, err, tt.want)
			}
			if taps := show(t); len(taps) != 1 || taps[0].Name != "taken1" {
				t.Errorf("%s: left %+v", tt.what, taps)
			}
		}
	})
}

// TestPersistentDevice opens a device again that nobody has open, as vnetd and as
// its owner, and sees that a stranger can't.
func TestPersistentDevice(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.PublicTUN(t)
		cfg := tap.Config{Name: "vnet7", Queues: 2, VnetHdr: true, Owner: 1000}
		d, err := tap.Create(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Persist(); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if got := nstest.Exec(t, "ip", "tuntap", "show"); !strings.Contains(got, "vnet7: tap") || !strings.Contains(got, "user 1000") {
			t.Errorf("after its close: %q", got)
		}
		again, err := tap.Reopen(cfg, d.Index)
		if err != nil || len(again.Files) != 2 || again.Index != d.Index {
			t.Fatalf("opened again: %+v, %v", again, err)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
		for uid, want := range map[uint32]error{1000: nil, 1001: unix.EPERM} {
			if err := openAs(uid, "vnet7"); !errors.Is(err, want) {
				t.Errorf("opened by user %d: %v, want %v", uid, err, want)
			}
		}
		nstest.IP(t, "link del vnet7")
		if _, err := tap.Reopen(cfg, d.Index); !errors.Is(err, tap.ErrGone) {
			t.Errorf("opened when it is gone: %v, want ErrGone", err)
		}
		if left := show(t); len(left) != 0 {
			t.Errorf("left: %+v", left)
		}
	})
}

// TestReopenOfADeviceInUse must not take a queue away from whoever has it.
func TestReopenOfADeviceInUse(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		d, err := tap.Create(tap.Config{Name: "vnet7"})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if _, err := tap.Reopen(tap.Config{Name: "vnet7"}, d.Index); !errors.Is(err, tap.ErrBusy) {
			t.Errorf("opened twice: %v, want ErrBusy", err)
		}
	})
}

// openAs opens the multi-queue TAP device of that name as a user without rights.
func openAs(uid uint32, name string) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		// The system call itself, which changes one thread.
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
			done <- errno
			return
		}
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR, 0)
		if err != nil {
			done <- err
			return
		}
		ifr, err := unix.NewIfreq(name)
		if err == nil {
			ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
		}
		done <- errors.Join(err, unix.Close(fd))
	}()
	return <-done
}

func TestWithoutTheCloneDevice(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		if err := unix.Mount("none", "/dev/net", "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		_, err := tap.Create(tap.Config{Name: "vnet0"})
		if !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "module tun") {
			t.Errorf("error %v, want one that speaks of the kernel module tun", err)
		}
	})
}

func TestHostMAC(t *testing.T) {
	for _, tt := range []struct{ guest, want string }{
		{"52:54:00:00:53:01", "fe:54:00:00:53:01"},
		{"00:00:5e:00:53:01", "fe:00:5e:00:53:01"},
		{"fe:00:00:00:53:01", "fa:00:00:00:53:01"},
		{"00:00:00:00:fe:80:00:00", ""}, // an EUI-64
	} {
		guest := parseMAC(t, tt.guest)
		if got := tap.HostMAC(guest).String(); got != tt.want || guest.String() != tt.guest {
			t.Errorf("HostMAC(%s) = %s, want %s (argument %s)", tt.guest, got, tt.want, guest)
		}
	}
	if got := tap.HostMAC(nil); got != nil {
		t.Errorf("HostMAC(nil) = %v, want nil", got)
	}
}

func TestCreateWithAlias(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		d := create(t, tap.Config{Alias: "what it is"})
		if got := nstest.IP(t, "link show "+d.Name); !strings.Contains(got, "alias what it is") {
			t.Errorf("the device says of itself:\n%s", got)
		}
	})
}
