package tftp_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/tftp"
)

// reader reads a file block by block.
type reader struct {
	t    *testing.T
	conn *net.UDPConn
	say  []byte // what was said last
	next uint16
	got  []byte
}

// begin has a guest ask for a file.
func begin(t *testing.T, guest *nstest.NS, request []byte) *reader {
	t.Helper()
	var conn *net.UDPConn
	if err := guest.Do(func() (err error) { conn, err = net.ListenUDP("udp4", nil); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &reader{t: t, conn: conn, say: request}
}

// read says what is to be said, again after a second, and takes the next block. It
// returns false at the end, or with the server's error.
func (r *reader) read(block int) (more bool, err error) {
	server := &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 69}
	b := make([]byte, 16384)
	for range 20 {
		_, err := r.conn.WriteToUDP(r.say, server)
		n := 0
		if err = errors.Join(err, r.conn.SetReadDeadline(time.Now().Add(time.Second))); err == nil {
			n, err = r.conn.Read(b)
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case err != nil:
			return false, err
		case b[1] == 6:
			r.say = []byte{0, 4, 0, 0}
			r.next = 1
			return true, nil
		case b[1] != 3:
			return false, fmt.Errorf("the server says %q", b[:n])
		case binary.BigEndian.Uint16(b[2:]) != max(r.next, 1):
			continue
		}
		r.next = max(r.next, 1) + 1
		r.got = append(r.got, b[4:n]...)
		r.say = []byte{0, 4, b[2], b[3]}
		if n-4 == block {
			return true, nil
		}
		_, err = r.conn.WriteToUDP(r.say, server)
		return false, err
	}
	return false, errors.New("the server does not answer")
}

// resumer runs one server after the other, each with what the former one has left.
type resumer struct {
	t   *testing.T
	cfg tftp.Config
	end func()
}

// next ends the server, if there is one, and starts another.
func (r *resumer) next() {
	r.t.Helper()
	if r.end != nil {
		r.end()
	}
	srv, err := tftp.Open(r.cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	dhcpdtest.CloseAll(r.cfg.Left)
	if r.cfg.Left, err = srv.Sockets(); err != nil || len(r.cfg.Left) != 2 {
		r.t.Fatalf("left %v, %v", r.cfg.Left, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx) }()
	r.end = func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Error(err)
		}
	}
}

// resumeEnv has a bridge, a guest, and files of one text.
func resumeEnv(t *testing.T, text []byte, names ...string) (*resumer, *nstest.NS) {
	t.Helper()
	dhcpdtest.MakeBridge(t)
	root := t.TempDir()
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(root, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	guest := nstest.Guest(t, "br0", "g1", "")
	guest.IP("addr add 192.0.2.50/24 dev eth0")
	r := &resumer{t: t, cfg: tftp.Config{Network: "test", Interface: "br0", Addr: dhcpdtest.IP(1), Root: root}}
	r.next()
	t.Cleanup(func() { r.end(); dhcpdtest.CloseAll(r.cfg.Left) })
	return r, guest
}

// drain takes what came twice, as the servers before and after a change each send a block.
func (r *reader) drain() {
	for err := error(nil); err == nil; {
		if err = r.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err == nil {
			_, err = r.conn.Read(make([]byte, 2048))
		}
	}
}

// silent wants nothing more to come.
func (r *reader) silent() {
	r.t.Helper()
	if err := r.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		r.t.Fatal(err)
	}
	if n, err := r.conn.Read(make([]byte, 2048)); err == nil {
		r.t.Errorf("%d octets after the end", n)
	}
}

// TestResume has one server after the other go on with transfers, from any block on.
func TestResume(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		text := bytes.Repeat([]byte("line one\nline two\r\n"), 1000)
		// Of netascii, each end of a line has two octets, as has a return.
		ascii := bytes.ReplaceAll(bytes.ReplaceAll(text, []byte("\r"), []byte("\r\x00")), []byte("\n"), []byte("\r\n"))
		servers, guest := resumeEnv(t, text, "file")
		type download struct {
			*reader
			block int
			want  []byte
			ended bool
		}
		all := []*download{
			{begin(t, guest, read("file", "octet")), 512, text, false},
			{begin(t, guest, read("file", "netascii")), 512, ascii, false},
			{begin(t, guest, read("file", "octet", "blksize", "1000", "timeout", "1")), 1000, text, false},
		}
		for n, running := 0, len(all); running > 0; n++ {
			if n%5 == 1 {
				servers.next()
			}
			for i, d := range all {
				if d.ended {
					continue
				}
				more, err := d.read(d.block)
				if err != nil {
					t.Fatalf("transfer %d after %d octets: %v", i, len(d.got), err)
				}
				if !more {
					d.ended = true
					running--
				}
			}
		}
		for _, d := range all {
			d.drain()
		}
		servers.next()
		for i, d := range all {
			if !bytes.Equal(d.got, d.want) {
				t.Errorf("transfer %d: %d octets are not those %d of the file", i, len(d.got), len(d.want))
			}
			d.silent()
		}
	})
}

// TestResumeChanged has a file be another one, or none, when the next server goes on.
func TestResumeChanged(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		servers, guest := resumeEnv(t, bytes.Repeat([]byte("text"), 1000), "changes", "gone")
		all := []*reader{begin(t, guest, read("changes", "octet")), begin(t, guest, read("gone", "octet"))}
		for _, r := range all {
			if _, err := r.read(512); err != nil {
				t.Fatal(err)
			}
		}
		root := servers.cfg.Root
		if err := errors.Join(os.WriteFile(filepath.Join(root, "changes"), []byte("other"), 0o600), os.Remove(filepath.Join(root, "gone"))); err != nil {
			t.Fatal(err)
		}
		servers.next()
		for i, r := range all {
			if _, err := r.read(512); err == nil || len(r.got) != 512 {
				t.Errorf("transfer %d goes on: %d octets, %v", i, len(r.got), err)
			}
		}
		for _, r := range all {
			r.drain()
		}
		servers.next()
		for _, r := range all {
			r.silent()
		}
	})
}
