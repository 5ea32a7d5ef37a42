package libvirtrpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// servePatience is serveMemory with that patience, and with a network whose document
// is long.
func servePatience(t *testing.T, p patience) string {
	t.Helper()
	doc, err := netdef.Parse([]byte("<network><name>lab</name><uuid>01000000-0000-0000-0000-000000000000</uuid><description>" +
		strings.Repeat("x", 256<<10) + "</description></network>"))
	must(t, err)
	s := NewServer(Config{Backend: &memory{list: []Network{&stored{doc: doc}}}, Logger: slog.New(slog.DiscardHandler)})
	s.patience = p
	return serve(t, s)
}

// TestClientThatReadsNoReplies holds that calls without end, whose replies nobody
// takes, end with the client, and hinder no other.
func TestClientThatReadsNoReplies(t *testing.T) {
	p := defaultPatience()
	p.write = 200 * time.Millisecond
	path := servePatience(t, p)
	other, deaf := opened(t, path), opened(t, path)
	text := frame(header{program: programRemote, version: protocolVersion, proc: 43}, func(e *encoder) { e.ref(ref{"lab", uuid{1}}); e.uint32(0) })
	for {
		if _, err := deaf.Write(text); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("it was not cut off")
		} else if err != nil {
			break
		}
	}
	must(t, other.SetDeadline(time.Now().Add(soon)))
	other.ok(52, nil)
}

// TestStrangersAreCutOff holds that who does not say who it is does not stay, also in
// the middle of a message.
func TestStrangersAreCutOff(t *testing.T) {
	p := defaultPatience()
	p.auth = 2 * time.Second // half a message is sent before
	path := servePatience(t, p)
	nobody, half := dial(t, path), dial(t, path)
	_, err := half.Write(frame(header{program: programRemote, version: protocolVersion, proc: 66}, nil)[:20])
	must(t, err)
	nobody.ended()
	half.ended()
}

// TestKeepalive holds that who answers no pings is cut off, and that who answers them
// is not.
func TestKeepalive(t *testing.T) {
	p := defaultPatience()
	p.ping = time.Second
	path := servePatience(t, p)
	deaf, alive := opened(t, path), opened(t, path)
	for _, r := range []*raw{deaf, alive} {
		r.ok(60, func(e *encoder) { e.int32(featureKeepalive) })
	}
	var answering sync.WaitGroup
	answering.Go(func() {
		for {
			m, err := readMessage(alive, maxFrame)
			if err != nil {
				return
			}
			m.proc = keepalivePong
			if _, err := alive.Write(frame(m.header, nil)); err != nil {
				return
			}
		}
	})
	pings := 0
	for {
		m, err := readMessage(deaf, maxFrame)
		if err != nil {
			break
		}
		if m.program == programKeepalive && m.proc == keepalivePing {
			pings++
		}
	}
	if pings != maxUnanswered {
		t.Errorf("%d pings before the end, want %d", pings, maxUnanswered)
	}
	must(t, alive.SetReadDeadline(time.Now()))
	answering.Wait()
	must(t, alive.SetReadDeadline(time.Now().Add(soon)))
	alive.ok(52, nil)
}

// TestLimitOfStrangers holds that connections of one user that does not say who it
// is keep out neither root nor other users, and count no more when they are closed.
func TestLimitOfStrangers(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		startDaemon(t, t.TempDir(), func(context.Context, Subject) error { return nil })
		const nobody, somebody = 65534, 65533
		var idle []*raw
		for range maxPending {
			idle = append(idle, dialAs(t, socketPath, nobody))
		}
		dialAs(t, socketPath, nobody).ended()
		opened(t, socketPath).ok(52, nil)
		dialAs(t, socketPath, somebody).ok(66, nil)
		for _, r := range idle {
			must(t, r.Close())
		}
		nstest.Eventually(t, soon, "letting the user in again", func() error {
			r := dialAs(t, socketPath, nobody)
			defer func() { _ = r.Close() }()
			if _, err := r.Write(frame(header{program: programRemote, version: protocolVersion, proc: 66}, nil)); err != nil {
				return err
			}
			_, err := readMessage(r, maxFrame)
			return err
		})
	})
}

// TestPromisedFrames holds that a length word alone takes no memory.
func TestPromisedFrames(t *testing.T) {
	const clients, limit = 200, 32 << 20
	path := servePatience(t, defaultPatience())
	before := heap()
	for range clients {
		r := opened(t, path)
		long := encoder{}
		long.uint32(maxFrame)
		_, err := r.Write(append(long.buf, make([]byte, 1<<10)...))
		must(t, err)
	}
	opened(t, path).ok(52, nil)
	if grown := heap() - before; grown > limit {
		t.Errorf("%d clients take %d bytes, want at most %d", clients, grown, limit)
	}
}

// heap is how much memory is in use, in bytes.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestThousandsOfConnects holds that clients that come and go, in whatever state, leave
// nothing behind.
func TestThousandsOfConnects(t *testing.T) {
	path := servePatience(t, defaultPatience())
	opened(t, path).ok(2, nil)
	files, routines := openFiles(t), runtime.NumGoroutine()
	call := frame(header{program: programRemote, version: protocolVersion, proc: 66}, nil)
	const each, callers = 500, 8
	var running sync.WaitGroup
	for range callers {
		running.Go(func() {
			for i := range each {
				conn, err := net.Dial("unix", path)
				if err != nil {
					t.Error(err)
					return
				}
				garbage := make([]byte, 100)
				for at := range garbage {
					garbage[at] = byte(rand.Uint32())
				}
				_, _ = conn.Write([][]byte{nil, call[:10], garbage, call}[i%4])
				_ = conn.Close()
			}
		})
	}
	running.Wait()
	nstest.Eventually(t, soon, "forgetting the clients", func() error {
		// The runtime has goroutines of its own.
		if f, r := openFiles(t), runtime.NumGoroutine(); f > files || r > routines+5 {
			return fmt.Errorf("%d open files and %d goroutines, before there were %d and %d", f, r, files, routines)
		}
		return nil
	})
	opened(t, path).ok(52, nil)
}

// openFiles counts the descriptors of the process.
func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(entries)
}
