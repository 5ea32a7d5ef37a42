package systemd_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/systemd"
)

// listener is the service manager's end: what it was told.
type listener struct {
	conn *net.UnixConn

	mu    sync.Mutex
	heard []string // "STORE name files" or "REMOVE name"
}

// listen makes a service manager, where NOTIFY_SOCKET leads. It answers barriers.
func listen(t *testing.T) (*listener, *systemd.Manager) {
	t.Helper()
	at := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: at, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", at)
	m, err := systemd.Reach()
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{conn: conn}
	done := make(chan struct{})
	go func() { defer close(done); l.run() }()
	t.Cleanup(func() { m.Close(); _ = conn.Close(); <-done })
	return l, m
}

func (l *listener) run() {
	b, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*253))
	for {
		n, oobn, _, _, err := l.conn.ReadMsgUnix(b, oob)
		if err != nil {
			return
		}
		said := make(map[string]string)
		for _, line := range strings.Split(string(b[:n]), "\n") {
			key, value, _ := strings.Cut(line, "=")
			said[key] = value
		}
		files := 0
		messages, _ := unix.ParseSocketControlMessage(oob[:oobn])
		for _, m := range messages {
			fds, _ := unix.ParseUnixRights(&m)
			files += len(fds)
			for _, fd := range fds {
				_ = unix.Close(fd)
			}
		}
		l.mu.Lock()
		switch {
		case said["FDSTORE"] == "1" && said["FDPOLL"] == "0":
			l.heard = append(l.heard, fmt.Sprintf("STORE %s %d", said["FDNAME"], files))
		case said["FDSTOREREMOVE"] == "1":
			l.heard = append(l.heard, "REMOVE "+said["FDNAME"])
		}
		l.mu.Unlock()
	}
}

// wants compares what was heard since the last time, once all that was sent has come.
func (l *listener) wants(t *testing.T, m *systemd.Manager, want ...string) {
	t.Helper()
	// Orders are sent by a goroutine: what is too much comes late, what is missing does not.
	var got []string
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err := m.Barrier(); err != nil {
			t.Fatal(err)
		}
		l.mu.Lock()
		got = slices.Clone(l.heard)
		l.mu.Unlock()
		if len(got) >= len(want) {
			break
		}
	}
	l.mu.Lock()
	l.heard = l.heard[len(got):]
	l.mu.Unlock()
	if !slices.Equal(got, want) {
		t.Errorf("the service manager was told %q, want %q", got, want)
	}
}

// socket is a bound socket, and its copies.
type socket struct{ *net.UDPConn }

func bind(t *testing.T) socket {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return socket{c}
}

func (s socket) copies(t *testing.T, n int) (files []*os.File) {
	t.Helper()
	for range n {
		f, err := s.File()
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

func TestStore(t *testing.T) {
	l, m := listen(t)
	a, b, c := bind(t), bind(t), bind(t)
	left := func(name string, s socket) *os.File {
		fd, err := unix.FcntlInt(s.copies(t, 1)[0].Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return os.NewFile(uintptr(fd), name)
	}
	s := systemd.NewStore(m, []*os.File{left("br0.dns", a), left("br1.dns", b), left("br2.dns", c)}, slog.Default())
	defer s.Close()

	// What was taken over stays, with what is new.
	taken := s.Take("br0.dns")
	if len(taken) != 1 || len(s.Take("br0.dns")) != 0 {
		t.Errorf("taken %v", taken)
	}
	d := bind(t)
	s.Keep("br0.dns", slices.Concat(a.copies(t, 1), d.copies(t, 1)))
	l.wants(t, m, "STORE br0.dns 1")

	// Of what does not fit, nothing stays.
	_ = s.Take("br1.dns")
	drop := s.Keep("br1.dns", d.copies(t, 1))
	l.wants(t, m, "REMOVE br1.dns", "STORE br1.dns 1")

	// What nobody takes goes.
	s.Discard()
	l.wants(t, m, "REMOVE br2.dns")

	// What another one keeps by now is not dropped, and is dropped once.
	next := s.Keep("br1.dns", d.copies(t, 1))
	drop()
	next()
	next()
	l.wants(t, m, "REMOVE br1.dns")

	// Nothing may be opened.
	s.Keep("br0.dns", nil)()
	l.wants(t, m, "REMOVE br0.dns")
}

func TestStoreFull(t *testing.T) {
	l, m := listen(t)
	t.Setenv("FDSTORE", "3")
	var text bytes.Buffer
	s := systemd.NewStore(m, nil, slog.New(slog.NewTextHandler(&text, nil)))
	a, b := bind(t), bind(t)
	drop := s.Keep("a", slices.Concat(a.copies(t, 1), b.copies(t, 1)))
	s.Keep("b", slices.Concat(a.copies(t, 1), b.copies(t, 1)))()
	s.Keep("c", slices.Concat(a.copies(t, 1), b.copies(t, 1)))
	l.wants(t, m, "STORE a 2")
	if n := strings.Count(text.String(), "store is full"); n != 1 {
		t.Errorf("the log tells %d times that the store is full:\n%s", n, text.String())
	}
	drop()
	s.Keep("b", a.copies(t, 1))
	l.wants(t, m, "REMOVE a", "STORE b 1")
	// What a service has beside it has no room: of all of it nothing stays, which nobody would drop.
	s.Keep("b", slices.Concat(a.copies(t, 1), b.copies(t, 1), bind(t).copies(t, 1), bind(t).copies(t, 1)))()
	l.wants(t, m, "REMOVE b")
	s.Close()
	s.Keep("d", a.copies(t, 1))()
	l.wants(t, m)
}

// TestStoreNames has so long names that the next process could not be started with all.
func TestStoreNames(t *testing.T) {
	_, m := listen(t)
	var text bytes.Buffer
	s := systemd.NewStore(m, nil, slog.New(slog.NewTextHandler(&text, nil)))
	defer s.Close()
	a := bind(t)
	const each = 1 << 10
	for n := range 128 {
		if text.Len() > 0 {
			if n*each < 100<<10 {
				t.Errorf("only %d names of %d octets have room", n, each)
			}
			return
		}
		s.Keep(fmt.Sprintf("%0*d", each, n), a.copies(t, 1))
	}
	t.Errorf("names of 128 KiB are stored")
}

func TestStoreWithoutManager(t *testing.T) {
	s := systemd.NewStore(&systemd.Manager{}, nil, slog.Default())
	files := bind(t).copies(t, 1)
	s.Keep("a", files)()
	if _, err := files[0].Stat(); err == nil {
		t.Error("what can't be kept is open")
	}
	s.Discard()
	s.Close()
}
