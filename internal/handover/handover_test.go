package handover_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/handover"
	"github.com/vnetd/vnetd/internal/nstest"
)

// listen binds a socket to a device, none if that is empty, and returns a copy.
func listen(t *testing.T, network, at, device string) *os.File {
	t.Helper()
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), device) }), err)
	}}
	var conn interface{ File() (*os.File, error) }
	if network[:3] == "tcp" {
		l, err := lc.Listen(context.Background(), network, at)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		conn = l.(*net.TCPListener)
	} else {
		c, err := lc.ListenPacket(context.Background(), network, at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conn = c.(*net.UDPConn)
	}
	f, err := conn.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestFind(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.IP(t, "link add br0 type bridge")
		nstest.IP(t, "link add br1 type bridge")
		pipe, other, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer pipe.Close()
		defer other.Close()
		files := []*os.File{
			pipe,
			listen(t, "udp4", "0.0.0.0:67", "br0"),
			listen(t, "udp4", "0.0.0.0:67", "br1"),
			listen(t, "udp6", "[::]:547", "br0"),
			listen(t, "udp4", "127.0.0.1:53", ""),
			listen(t, "tcp4", "127.0.0.1:53", ""),
			listen(t, "tcp6", "[::1]:53", "lo"),
			raw(t, "br0"),
			raw(t, "br1"),
		}
		check := func(kind int, at, device string, want *os.File) {
			t.Helper()
			s := handover.Socket{Type: kind, Addr: netip.MustParseAddrPort(at), Device: device}
			if got := s.Find(files); got != want {
				t.Errorf("%+v is %v, want %v", s, got, want)
			}
		}
		check(unix.SOCK_DGRAM, "0.0.0.0:67", "br0", files[1])
		check(unix.SOCK_DGRAM, "0.0.0.0:67", "br1", files[2])
		check(unix.SOCK_DGRAM, "[::]:547", "br0", files[3])
		check(unix.SOCK_DGRAM, "127.0.0.1:53", "", files[4])
		check(unix.SOCK_STREAM, "127.0.0.1:53", "", files[5])
		check(unix.SOCK_STREAM, "[::1]:53", "lo", files[6])
		check(unix.SOCK_RAW, "[::]:58", "br1", files[8])
		check(unix.SOCK_RAW, "[::]:58", "", nil)
		check(unix.SOCK_DGRAM, "0.0.0.0:67", "", nil)
		check(unix.SOCK_DGRAM, "0.0.0.0:68", "br0", nil)
		check(unix.SOCK_DGRAM, "[::]:67", "br0", nil)
		check(unix.SOCK_STREAM, "0.0.0.0:67", "br0", nil)

		// The same name is another device.
		nstest.IP(t, "link del br0")
		nstest.IP(t, "link add br0 type bridge")
		check(unix.SOCK_DGRAM, "0.0.0.0:67", "br0", nil)
		check(unix.SOCK_DGRAM, "[::]:547", "br0", nil)
		check(unix.SOCK_RAW, "[::]:58", "br0", nil)
	})
}

// raw is the socket of router advertisements on a device.
func raw(t *testing.T, device string) *os.File {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "raw")
	t.Cleanup(func() { _ = f.Close() })
	if err := unix.BindToDevice(fd, device); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestConnections(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.IP(t, "addr add 127.0.0.2/8 dev lo")
		var files []*os.File
		var accepted []*os.File
		for _, at := range []string{"127.0.0.1:53", "127.0.0.2:53"} {
			l, err := net.Listen("tcp4", at)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			client, err := net.Dial("tcp4", at)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			server, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			for _, c := range []any{l, client, server} {
				f, err := c.(interface{ File() (*os.File, error) }).File()
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				files = append(files, f)
			}
			accepted = append(accepted, files[len(files)-1])
		}
		for i, at := range []string{"127.0.0.1:53", "127.0.0.2:53"} {
			s := handover.Socket{Type: unix.SOCK_STREAM, Addr: netip.MustParseAddrPort(at)}
			if got := s.Connections(files); len(got) != 1 || got[0] != accepted[i] {
				t.Errorf("the connections of %s are %v", at, got)
			}
			if got := s.Find(files); got != files[3*i] {
				t.Errorf("what listens at %s is %v", at, got)
			}
		}
	})
}
