package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
)

// inHands is how many queries vnetd may have read and not answered: those of one read, and
// some that an upstream server is asked. They end with it.
const inHands = 40

// TestCrashLosesNothing kills vnetd again and again, under 1,000 queries a second and while
// guests boot. None is refused, and what waits in the sockets is answered by the next vnetd.
func TestCrashLosesNothing(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const crashes, guests = 3, 24
		l := nstest.NewLab(t)
		boot := bootFile(t, "/run/boot")
		v := l.StartVnetd()
		if err := l.VnetctlInput(t.Context(), handoverXML, "create", "-").Err(); err != nil {
			t.Fatal(err)
		}
		guest := nstest.Guest(t, "virbr7", "guest", "52:54:00:00:00:07")
		guest.IP("addr add 192.0.2.7/24 dev eth0")
		var storm []*nstest.NS
		for n := range guests {
			storm = append(storm, nstest.Guest(t, "virbr7", fmt.Sprintf("boots%d", n), fmt.Sprintf("52:54:00:00:01:%02x", n)))
		}
		kept := stored(v)
		load, download := startLoad(t, guest), startDownloadTFTP(t, guest, boot)
		load.reaches(t, 500)

		var leases sync.WaitGroup
		var mu sync.Mutex
		got, anew := make(map[string]int), 0
		for n, each := range storm {
			leases.Go(func() {
				time.Sleep(time.Duration(n) * 100 * time.Millisecond) // some of them at each crash
				addr, again, err := boots(t, each)
				if err != nil {
					t.Errorf("guest %d: %v", n, err)
				}
				mu.Lock()
				defer mu.Unlock()
				got[addr]++
				anew += again
			})
		}
		var away time.Duration // the longest time
		for range crashes {
			load.reaches(t, 300)
			killed := time.Now()
			v.Kill()
			load.reaches(t, 300) // which wait
			v = l.StartVnetd()
			away = max(away, time.Since(killed))
		}
		load.reaches(t, 500)
		leases.Wait()
		for addr, n := range got {
			if n != 1 || !strings.HasPrefix(addr, "192.0.2.") {
				t.Errorf("%d guests got the address %q", n, addr)
			}
		}
		lost := load.askAgain(t)
		t.Logf("%d crashes, of %v at most: %d queries, %d asked again; %d guests have booted, and begun anew %d times",
			crashes, away.Round(time.Millisecond), load.n.Load(), lost, guests, anew)
		if anew > 0 && away < bootAsks-bootEvery {
			t.Errorf("%d times a guest gave up what it had asked for %v", anew, bootAsks)
		}
		if lost > crashes*inHands {
			t.Errorf("%d queries are not answered, more than vnetd had in its hands", lost)
		}
		load.end(t)
		download.end(t)
		if now := stored(v); !slices.Equal(now, kept) {
			t.Errorf("after the crashes the service manager keeps %q, before them %q", now, kept)
		}
		vnetctl(t, l, "stop", "lab")
		if now := v.Stored(); len(now) > 0 {
			t.Errorf("after the network was stopped the service manager keeps %q", now)
		}
	})
}

// stored lists what the service manager keeps, in order.
func stored(v *nstest.Vnetd) []string {
	names := v.Stored()
	slices.Sort(names)
	return names
}

// TestStaleSockets has vnetd crash, and what its sockets were bound to change before the
// next one starts. Those that do not fit are closed, and nothing is in their way.
func TestStaleSockets(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		bootFile(t, "/run/boot")
		v := l.StartVnetd()
		if err := l.VnetctlInput(t.Context(), handoverXML, "create", "-").Err(); err != nil {
			t.Fatal(err)
		}
		other := strings.NewReplacer("lab", "other", "virbr7", "virbr8", "192.0.2.", "198.51.100.", "2001:db8:7:", "2001:db8:8:").Replace(handoverXML)
		if err := l.VnetctlInput(t.Context(), other, "create", "-").Err(); err != nil {
			t.Fatal(err)
		}
		serves := func(n byte, bridge, subnet string) {
			t.Helper()
			guest := nstest.Guest(t, bridge, fmt.Sprintf("g%d", n), fmt.Sprintf("52:54:00:00:02:%02x", n))
			if addr, _, err := boots(t, guest); err != nil || !strings.HasPrefix(addr, subnet) {
				t.Errorf("a guest on %s got %q, %v", bridge, addr, err)
			}
		}
		kept := len(v.Stored())

		// One bridge is another one, and one network is gone.
		v.Kill()
		nstest.IP(t, "link del virbr7")
		nstest.IP(t, "link del virbr8")
		for _, pattern := range []string{"/run/vnetd/networks/*", "/etc/vnetd/networks/other.xml", "/var/lib/vnetd/live/*"} {
			removeIf(t, pattern, "198.51.100.1")
		}
		v = l.StartVnetd()
		nstest.Eventually(t, limit, "the sockets of one network", func() error {
			if now := v.Stored(); len(now) != kept/2 || slices.ContainsFunc(now, func(name string) bool { return !strings.HasPrefix(name, "virbr7.") }) {
				return fmt.Errorf("%q are kept, of %d for two networks", now, kept)
			}
			return nil
		})
		serves(1, "virbr7", "192.0.2.")

		// A socket of the network's, by its name, has an address that the network has not.
		v.Kill()
		v = l.StartVnetdWith([]*os.File{boundFile(t, "127.0.0.9:53", "virbr7.dns"), boundFile(t, "127.0.0.9:69", "virbr9.tftp")})
		nstest.Eventually(t, limit, "the sockets of one network", func() error {
			if now := v.Stored(); len(now) != kept/2 {
				return fmt.Errorf("%q are kept, of %d for two networks", now, kept)
			}
			return nil
		})
		for _, port := range []string{":0035", ":0045"} {
			for _, line := range socketLines(t, "udp", port) {
				if strings.Contains(line, "0900007F") {
					t.Errorf("a socket that nobody serves: %s", line)
				}
			}
		}
		serves(2, "virbr7", "192.0.2.")
	})
}

// boundFile is a UDP socket of a name, as a service manager hands it over.
func boundFile(t *testing.T, at, name string) *os.File {
	t.Helper()
	c, err := net.ListenPacket("udp4", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return fileOf(t, c.(*net.UDPConn), name)
}

// removeIf removes the files with a text.
func removeIf(t *testing.T, pattern, text string) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err == nil && strings.Contains(string(b), text) {
			err = os.Remove(name)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

// How often a guest that boots asks, and how long for an address that it was offered: udhcpc
// sends three REQUESTs, whatever its option -t says.
const (
	bootEvery = 2 * time.Second
	bootAsks  = 3 * bootEvery
)

// boots runs a DHCP client as guests do that boot, and returns the address that it got, and how
// often it gave up what it had asked for and began anew.
func boots(t *testing.T, guest *nstest.NS) (addr string, anew int, err error) {
	const failed = "leasefail"
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\ncase $1 in\nbound) echo $ip ;;\n"+failed+") echo $1 ;;\nesac\n"), 0o755); err != nil {
		return "", 0, err
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	every := fmt.Sprint(int(bootEvery / time.Second))
	out, err := guest.Command(ctx, "busybox", "udhcpc", "-f", "-q", "-A", every, "-t", "20", "-T", every, "-i", "eth0", "-s", script).Output()
	for word := range strings.FieldsSeq(string(out)) {
		if word == failed {
			anew++
		} else {
			addr = word
		}
	}
	return addr, anew, err
}

// bootFile makes a boot file in a directory, and returns what is in it.
func bootFile(t *testing.T, dir string) []byte {
	t.Helper()
	text := make([]byte, 3<<20+17)
	for i := 0; i+8 <= len(text); i += 8 {
		binary.BigEndian.PutUint64(text[i:], uint64(i)*0x9e3779b97f4a7c15)
	}
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "kernel"), text, 0o644)); err != nil {
		t.Fatal(err)
	}
	return text
}

// downloadTFTP is a guest's download of a boot file.
type downloadTFTP struct {
	count // of blocks
	want  []byte
	got   []byte
}

// startDownloadTFTP has the guest read the boot file, a thousand blocks a second at most.
func startDownloadTFTP(t *testing.T, guest *nstest.NS, want []byte) *downloadTFTP {
	t.Helper()
	var conn *net.UDPConn
	err := guest.Do(func() (err error) { conn, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 2070}); return err })
	if err != nil {
		t.Fatal(err)
	}
	d := &downloadTFTP{count: count{what: "blocks of a boot file", done: make(chan struct{})}, want: want}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() { cancel(); <-d.done; _ = conn.Close() })
	go func() {
		defer close(d.done)
		d.err = d.read(ctx, conn, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 69})
	}()
	return d
}

// read reads the file. What gets no answer it says again.
func (d *downloadTFTP) read(ctx context.Context, conn *net.UDPConn, server *net.UDPAddr) error {
	const block, opData, opAck = 512, 3, 4
	say, b := []byte("\x00\x01kernel\x00octet\x00"), make([]byte, 2048)
	for next, tries := uint16(1), 0; tries < 30; tries++ {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		_, err := conn.WriteToUDP(say, server)
		n := 0
		if err = errors.Join(err, conn.SetReadDeadline(time.Now().Add(time.Second))); err == nil {
			n, err = conn.Read(b)
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case err != nil:
			return err
		case n < 4 || b[1] != opData:
			return fmt.Errorf("the server said %q", b[:n])
		case binary.BigEndian.Uint16(b[2:]) != next:
			continue
		}
		d.got = append(d.got, b[4:n]...)
		d.n.Add(1)
		say = []byte{0, opAck, b[2], b[3]}
		next++
		tries = 0
		if n-4 < block {
			_, err := conn.WriteToUDP(say, server)
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return errors.New("the server does not answer")
}

// end waits for the end of the download, which must be complete.
func (d *downloadTFTP) end(t *testing.T) {
	t.Helper()
	select {
	case <-d.done:
	case <-time.After(limit):
		t.Fatalf("after %d blocks the download does not end", d.n.Load())
	}
	if d.err != nil || !bytes.Equal(d.got, d.want) {
		t.Errorf("after %d of %d bytes: %v", len(d.got), len(d.want), d.err)
	}
}
