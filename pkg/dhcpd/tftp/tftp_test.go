package tftp_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/tftp"
)

// read is a read request.
func read(fields ...string) []byte {
	return []byte("\x00\x01" + strings.Join(fields, "\x00") + "\x00")
}

func TestTFTPRequest(t *testing.T) {
	const plain = "false 0 0 0s false"
	for _, c := range []struct {
		name  string
		data  []byte
		path  string
		rest  string // mode and options
		fault int    // the error's code
	}{
		{"plain", read("pxe/boot.0", "octet"), "pxe/boot.0", plain, 0},
		{"from the top", read("/boot.0", "OCTET"), "boot.0", plain, 0},
		{"as on the host", read("/srv/tftp/boot.0", "netascii"), "boot.0", "true 0 0 0s false", 0},
		{"another directory of the host", read("/srv/tftp2/boot.0", "octet"), "srv/tftp2/boot.0", plain, 0},
		{"backslashes", read(`\Boot\x64\wds.com`, "octet"), "Boot/x64/wds.com", plain, 0},
		{"options", read("f", "octet", "BLKSIZE", "1468", "tsize", "0", "windowsize", "4", "timeout", "3"), "f", "false 1468 4 3s true", 0},
		{"odd options", read("f", "octet", "blksize", "7", "tsize", "x", "windowsize", "-1", "timeout", "999", "multicast", "", "cut"), "f", plain, 0},
		{"odd path", read("//./a//b/.", "octet"), "a/b", plain, 0},
		{"up", read("../etc/passwd", "octet"), "", "", 2},
		{"up and down", read("a/../b", "octet"), "", "", 2},
		{"up with backslashes", read(`..\..\etc\passwd`, "octet"), "", "", 2},
		{"up from the host's path", read("/srv/tftp/../x", "octet"), "", "", 2},
		{"nothing", read("", "octet"), "", "", 1},
		{"the directory", read("/", "octet"), "", "", 1},
		{"control bytes", read("a\nb", "octet"), "", "", 1},
		{"mail", read("f", "mail"), "", "", 4},
		{"no mode", read("f"), "", "", 4},
		{"no end", []byte("\x00\x01f\x00octet"), "", "", 4},
		{"write", []byte("\x00\x02f\x00octet\x00"), "", "", 4},
	} {
		path, rest, fault := tftp.Parse(c.data, "/srv/tftp")
		switch {
		case c.fault != 0 && (len(fault) < 5 || fault[1] != 5 || int(fault[3]) != c.fault):
			t.Errorf("%s: answered with %q", c.name, fault)
		case c.fault == 0 && (path != c.path || rest != c.rest):
			t.Errorf("%s: got %q, %q, want %q, %q", c.name, path, rest, c.path, c.rest)
		}
	}
}

// tftpEnv is a running TFTP server and a guest with an address.
func tftpEnv(t *testing.T) (guest *nstest.NS, root string, srv *tftp.Server) {
	t.Helper()
	dhcpdtest.MakeBridge(t)
	dir := t.TempDir()
	root = filepath.Join(dir, "root")
	if err := errors.Join(
		os.MkdirAll(filepath.Join(root, "sub"), 0o755),
		os.WriteFile(filepath.Join(dir, "secret"), []byte("secret"), 0o600),
		os.WriteFile(filepath.Join(root, "sub", "boot.0"), bytes.Repeat([]byte("0123456789abcdef"), 1<<14), 0o600),
		os.WriteFile(filepath.Join(root, "empty"), nil, 0o600),
		os.Symlink("../secret", filepath.Join(root, "link")),
		os.Symlink("sub/boot.0", filepath.Join(root, "inside")),
		syscall.Mkfifo(filepath.Join(root, "fifo"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	srv, err := tftp.Open(tftp.Config{Network: "test", Interface: "br0", Addr: dhcpdtest.IP(1), Root: root})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, srv.Close()); err != nil {
			t.Errorf("running: %v", err)
		}
	})
	guest = nstest.Guest(t, "br0", "g1", "")
	guest.IP("addr add 192.0.2.50/24 dev eth0")
	return guest, root, srv
}

// counted waits for what the server counts: a client is gone before its last packet is read.
func counted(t *testing.T, srv *tftp.Server, want string, is func(tftp.Stats) bool) {
	t.Helper()
	nstest.Eventually(t, dhcpdtest.ReplyLimit, want, func() error {
		if s := srv.Stats(); !is(s) {
			return fmt.Errorf("counted %+v", s)
		}
		return nil
	})
}

func TestTFTPClients(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		guest, root, srv := tftpEnv(t)
		got := filepath.Join(t.TempDir(), "got")
		want, err := os.ReadFile(filepath.Join(root, "sub", "boot.0"))
		if err != nil {
			t.Fatal(err)
		}
		busybox := func(args ...string) []string {
			return append(append([]string{"busybox", "tftp", "-g", "-l", got}, args...), "192.0.2.1")
		}
		curl := func(path string, args ...string) []string {
			return append(append([]string{"curl", "-sS", "-m", "20", "-o", got}, args...), "tftp://192.0.2.1/"+path)
		}
		for _, c := range []struct {
			name string
			args []string
		}{
			{"busybox, blocks of 512", busybox("-r", "sub/boot.0")},
			{"busybox, large blocks", busybox("-r", "/sub/boot.0", "-b", "1468")},
			{"busybox, larger blocks than fit", busybox("-r", root+"/sub/boot.0", "-b", "65464")},
			{"curl", curl("sub/boot.0", "--tftp-blksize", "1468")},
			{"curl without options", curl("/inside", "--tftp-no-options")},
		} {
			_ = os.Remove(got)
			dhcpdtest.RunClient(t, guest, c.args[0], c.args[1:]...)
			if data, err := os.ReadFile(got); err != nil || !bytes.Equal(data, want) {
				t.Errorf("%s: got %d bytes, %v", c.name, len(data), err)
			}
		}
		dhcpdtest.RunClient(t, guest, "busybox", busybox("-r", "empty")[1:]...)
		for _, path := range []string{"nosuch", "sub", "link", "fifo", "%2e%2e/secret", "/../secret"} {
			ctx, cancel := context.WithTimeout(t.Context(), dhcpdtest.ClientLimit)
			if out, err := guest.Command(ctx, "curl", append(curl(path)[1:], "--path-as-is")...).CombinedOutput(); err == nil || bytes.Contains(out, []byte("timed out")) {
				t.Errorf("%s: %v, %s", path, err, out)
			}
			cancel()
		}
		if out, err := guest.Command(t.Context(), "busybox", "tftp", "-p", "-l", "/etc/hostname", "-r", "new", "192.0.2.1").CombinedOutput(); err == nil || !strings.Contains(string(out), "illegal") {
			t.Errorf("a write: %v, %s", err, out)
		}
		counted(t, srv, "6 transfers, and refusals", func(s tftp.Stats) bool { return s.Started == 6 && s.Done == 6 && s.Refused > 0 })
	})
}

// A guest that asks for a file and goes away, again and again, keeps nobody else
// from it; the server ends without waiting for it.
func TestTFTPHostileGuest(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		guest, _, srv := tftpEnv(t)
		err := guest.Do(func() error {
			for i := range 400 {
				// No port comes twice: it would have another transfer in the place of its own.
				conn, err := net.DialUDP("udp", &net.UDPAddr{Port: 10000 + i}, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 69})
				if err != nil {
					return err
				}
				for _, packet := range [][]byte{
					read("sub/boot.0", "octet", "blksize", fmt.Sprint(i)), {0, 4, 0, 1}, {0, 4, 0, 0}, {0, 5}, {0, 6, 1, 1}, nil, {0},
				} {
					if _, err := conn.Write(packet); err != nil {
						return err
					}
				}
				if err := conn.Close(); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatal(err)
		}
		guest.IP("addr add 192.0.2.51/24 dev eth0")
		dhcpdtest.RunClient(t, guest, "curl", "-sS", "-m", "20", "--interface", "192.0.2.51", "-o", "/dev/null", "tftp://192.0.2.1/sub/boot.0")
		counted(t, srv, "8 transfers of the guest, and another's", func(s tftp.Stats) bool { return s.Started == 9 && s.Done == 1 })
	})
}

// The transfers that run are shared among the ports: one that has all of them, under many
// addresses, gives up some for another's, which may have one of its addresses.
func TestTFTPIsShared(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		guest, _, srv := tftpEnv(t)
		evil := nstest.Guest(t, "br0", "g2", "")
		for n := range 40 {
			evil.IP(fmt.Sprintf("addr add 192.0.2.%d/24 dev eth0", 200+n))
		}
		evil.IP("addr add 192.0.2.50/24 dev eth0")
		ask := func(from string) {
			t.Helper()
			if err := evil.Do(func() error {
				local := &net.UDPAddr{IP: net.ParseIP(from)}
				conn, err := net.DialUDP("udp", local, &net.UDPAddr{IP: net.ParseIP("192.0.2.1"), Port: 69})
				if err != nil {
					return err
				}
				t.Cleanup(func() { _ = conn.Close() })
				_, err = conn.Write(read("sub/boot.0", "octet", "timeout", "200"))
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		for range 8 {
			ask("192.0.2.50")
			for n := range 40 {
				ask(fmt.Sprintf("192.0.2.%d", 200+n))
			}
		}
		counted(t, srv, "all transfers are taken", func(s tftp.Stats) bool { return s.Started >= 256 && s.Started+s.Limited >= 8*41 })
		dhcpdtest.RunClient(t, guest, "curl", "-sS", "-m", "20", "-o", "/dev/null", "tftp://192.0.2.1/sub/boot.0")
		counted(t, srv, "the other's transfer and 256", func(s tftp.Stats) bool { return s.Started == 257 && s.Done == 1 })
	})
}

// dialTFTP is a guest's socket.
func dialTFTP(t *testing.T, guest *nstest.NS) (conn net.Conn) {
	t.Helper()
	if err := guest.Do(func() (err error) {
		conn, err = net.Dial("udp", "192.0.2.1:69")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Windows and lost packets, against a guest that a test plays.
func TestRFC7440Window(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		guest, root, _ := tftpEnv(t)
		want := bytes.Repeat([]byte("abcdefgh"), 400) // 3200 bytes: six blocks and a bit
		if err := os.WriteFile(filepath.Join(root, "w"), want, 0o600); err != nil {
			t.Fatal(err)
		}
		conn := dialTFTP(t, guest)
		buf := make([]byte, 2048)
		next := func() string {
			t.Helper()
			_ = conn.SetReadDeadline(time.Now().Add(dhcpdtest.ReplyLimit))
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			if buf[1] == 3 {
				return fmt.Sprint("data ", buf[3], " ", n-4)
			}
			return string(buf[:n])
		}
		seen := make(map[string]bool)
		expect := func(packets ...string) {
			t.Helper()
			for _, want := range packets {
				got := next()
				for got != want && seen[got] { // repeated, as this test was slow
					got = next()
				}
				if got != want {
					t.Fatalf("got %q, want %q", got, want)
				}
				seen[got] = true
			}
		}
		ack := func(n byte) { _, _ = conn.Write([]byte{0, 4, 0, n}) }
		_, _ = conn.Write(read("w", "octet", "windowsize", "4", "tsize", "0"))
		expect("\x00\x06windowsize\x004\x00tsize\x003200\x00")
		ack(0)
		expect("data 1 512", "data 2 512", "data 3 512", "data 4 512")
		ack(2) // 3 was lost
		expect("data 3 512", "data 4 512", "data 5 512", "data 6 512")
		ack(1) // late
		ack(6)
		expect("data 7 128", "data 7 128") // the first is repeated after a second
		ack(7)
		conn = dialTFTP(t, guest)
		_, _ = conn.Write(read("nosuch", "octet"))
		expect("\x00\x05\x00\x01file not found\x00")
	})
}

// TestTFTPFromSamePort has a guest that was reset ask for a file from the port from which it had
// asked for another one.
func TestTFTPFromSamePort(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		guest, root, srv := tftpEnv(t)
		if err := os.WriteFile(filepath.Join(root, "other"), []byte("other"), 0o600); err != nil {
			t.Fatal(err)
		}
		conn := dialTFTP(t, guest)
		first, other := "\x00\x03\x00\x010123", "\x00\x03\x00\x01other"
		ack := func(n byte) []byte { return []byte{0, 4, 0, n} }
		for i, c := range []struct {
			packet  []byte
			answer  string // its beginning
			started uint64 // transfers by then
		}{
			{read("sub/boot.0", "octet"), first, 1},
			{read("sub/boot.0", "octet"), first, 1}, // after a second
			{read("other", "octet"), other, 2},
			{read("sub/boot.0", "octet", "timeout", "2"), "\x00\x06timeout", 3},
			{read("sub/boot.0", "octet"), first, 4},
			{ack(1), "\x00\x03\x00\x020123", 4},
			{read("sub/boot.0", "octet"), first, 5},
			{read("nosuch", "octet"), "\x00\x05\x00\x01", 5},
			{read("other", "octet"), other, 6},
		} {
			_, _ = conn.Write(c.packet)
			_ = conn.SetReadDeadline(time.Now().Add(dhcpdtest.ReplyLimit))
			buf := make([]byte, 2048)
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatalf("packet %d: %v", i, err)
			}
			if got := srv.Stats().Started; !strings.HasPrefix(string(buf[:n]), c.answer) || got != c.started {
				t.Errorf("packet %d is answered %.20q, by transfer %d; want %q by %d", i, buf[:n], got, c.answer, c.started)
			}
		}
		_, _ = conn.Write(ack(1))
		counted(t, srv, "one transfer is done", func(s tftp.Stats) bool { return s.Done == 1 })
	})
}

func TestOpenTFTPFaults(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dhcpdtest.MakeBridge(t)
		good := tftp.Config{Network: "test", Interface: "br0", Addr: dhcpdtest.IP(1), Root: t.TempDir()}
		for _, mod := range []func(c *tftp.Config){
			func(c *tftp.Config) { c.Root = "/nosuch" },
			func(c *tftp.Config) { c.Root = "/etc/hostname" },
			func(c *tftp.Config) { c.Interface = "nosuch" },
			func(c *tftp.Config) { c.Addr = dhcpdtest.IP(77) },
			func(c *tftp.Config) { c.Addr = tftp.Config{}.Addr },
		} {
			cfg := good
			mod(&cfg)
			if srv, err := tftp.Open(cfg); err == nil {
				t.Errorf("opened %+v", cfg)
				_ = srv.Close()
			}
		}
		srv, err := tftp.Open(good)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(srv.Close(), srv.Close()); err != nil {
			t.Error(err)
		}
	})
}

// FuzzTFTPRequest: no path leaves the root, whatever a guest asks for.
func FuzzTFTPRequest(f *testing.F) {
	for _, b := range [][]byte{
		read("boot.0", "octet"), read("../a", "octet"), read(`a\..\..\b`, "octet"), read("/srv/tftp/../a", "netascii"),
		read("f", "octet", "blksize", "1468", "tsize", "0"),
		{0, 2},
		{0, 1},
		read("/srv/tftp//../../x", "octet"),
	} {
		f.Add(b)
	}
	dir := f.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "root"), 0o755), os.WriteFile(filepath.Join(dir, "secret"), nil, 0o600)); err != nil {
		f.Fatal(err)
	}
	root, err := os.OpenRoot(filepath.Join(dir, "root"))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = root.Close() })
	f.Fuzz(func(t *testing.T, data []byte) {
		path, _, fault := tftp.Parse(data, "/srv/tftp")
		if fault != nil {
			return
		}
		if !filepath.IsLocal(path) {
			t.Errorf("%q became %q", data, path)
		}
		if file, err := root.Open(path); err == nil {
			_ = file.Close()
			t.Errorf("%q opened something in an empty directory", path)
		}
	})
}
