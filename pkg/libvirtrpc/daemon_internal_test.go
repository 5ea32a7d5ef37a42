package libvirtrpc

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/iptables"
	"github.com/vnetd/vnetd/pkg/network"
	"github.com/vnetd/vnetd/pkg/store"
)

// socketPath is where libvirt's clients look, in the /run of the test.
const socketPath = "/run/libvirt/virtnetworkd-sock"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// daemon is a manager that libvirt's clients can reach, in the namespaces of the
// test.
type daemon struct {
	*network.Manager
	end func()
}

// startDaemon starts one whose state is below root; it ends with the test.
func startDaemon(t *testing.T, root string, authorize Authorize) *daemon {
	t.Helper()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	st, err := store.Open(store.Dirs{
		Networks: filepath.Join(root, "networks"), Run: filepath.Join(root, "run"), State: filepath.Join(root, "state"),
	}, log)
	must(t, err)
	links, err := bridge.New()
	must(t, err)
	writer, err := iptables.New(t.Context(), iptables.Config{Logger: log})
	must(t, err)
	rules := firewall.New(writer, firewall.Config{Logger: log})
	m := network.New(network.Config{Store: st, Links: links, Rules: rules, Logger: log})
	sockets, err := Listen(socketPath, nil)
	must(t, err)
	must(t, m.Load(t.Context()))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := m.Watch(ctx); err != nil {
			t.Errorf("watching links: %v", err)
		}
	})
	running.Go(func() {
		server := NewServer(Config{Backend: NewBackend(m), Authorize: authorize, Logger: log})
		if err := server.Serve(ctx, sockets); err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	end := sync.OnceFunc(func() {
		cancel()
		running.Wait()
		m.Close()
		links.Close()
		must(t, rules.Close())
		must(t, st.Close())
	})
	t.Cleanup(end)
	return &daemon{m, end}
}

// heard reads the next event and returns what happened, to which network.
func (r *raw) heard() (string, lifecycle) {
	r.t.Helper()
	m, err := readMessage(r, maxFrame)
	if err != nil {
		r.t.Fatal(err)
	}
	d := &decoder{rest: m.payload}
	d.int32()
	return readRef(d).name, lifecycle(d.int32())
}

// TestEvents holds that a client hears what happens, in order, in libvirt's
// words: a transient network is never defined and never undefined.
func TestEvents(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		startDaemon(t, t.TempDir(), nil)
		r, other := opened(t, socketPath), opened(t, socketPath)
		any := func(e *encoder) { e.int32(eventLifecycle); e.flag(false) }
		r.ok(313, any)
		r.fails(313, any, codeInvalidArg, "invalid argument: event callback already tracked")
		const transient = "<network><name>short</name><bridge name='virbr5'/></network>"
		const lasting = "<network><name>long</name><uuid>01000000-0000-0000-0000-000000000000</uuid><bridge name='virbr6'/></network>"
		document := func(xml string) func(*encoder) { return func(e *encoder) { e.string(xml) } }
		long := func(e *encoder) { e.ref(ref{"long", uuid{1}}) }
		short := readRef(other.ok(40, document(transient)))
		other.ok(42, func(e *encoder) { e.ref(short) })
		other.ok(41, document(lasting))
		other.ok(39, long)
		other.ok(48, func(e *encoder) { long(e); e.uint32(1) }) // autostart: no event
		other.ok(49, long)
		other.ok(42, long)
		for i, want := range []struct {
			name string
			what lifecycle
		}{{"short", started}, {"short", stopped}, {"long", defined}, {"long", started}, {"long", undefined}, {"long", stopped}} {
			if name, what := r.heard(); name != want.name || what != want.what {
				t.Errorf("event %d: %q %d, want %q %d", i, name, what, want.name, want.what)
			}
		}
		r.ok(314, func(e *encoder) { e.int32(1) })
		r.fails(314, func(e *encoder) { e.int32(1) }, codeInternal, "internal error: network event callback 1 not registered")
	})
}

// TestMetadata holds what clients of libvirt 9.7 do with title, description and
// elements of others.
func TestMetadata(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		startDaemon(t, t.TempDir(), nil)
		r := opened(t, socketPath)
		n := readRef(r.ok(41, func(e *encoder) { e.string("<network><name>lab</name></network>") }))
		ptr := func(s string) *string { return &s }
		get := func(kind int32, uri *string) func(*encoder) {
			return func(e *encoder) { e.ref(n); e.int32(kind); e.optString(uri); e.uint32(0) }
		}
		set := func(kind int32, text, prefix, uri *string) func(*encoder) {
			return func(e *encoder) {
				e.ref(n)
				e.int32(kind)
				e.optString(text)
				e.optString(prefix)
				e.optString(uri)
				e.uint32(0)
			}
		}
		const absent = "metadata not found: Requested metadata element is not present"
		r.fails(445, get(metadataTitle, nil), codeNoMetadata, absent)
		r.fails(444, set(metadataTitle, ptr("two\nlines"), nil, nil), codeInvalidArg, "invalid argument: Title can't contain newlines")
		r.ok(444, set(metadataTitle, ptr("A title"), nil, nil))
		r.ok(444, set(metadataDescription, ptr("What it is for"), nil, nil))
		uri := ptr("urn:example:x")
		r.ok(444, set(metadataElement, ptr("<app><v n='1'/></app>"), ptr("a"), uri))
		for kind, want := range []string{"What it is for", "A title", "<app>\n  <v n=\"1\"/>\n</app>"} {
			if got := r.ok(445, get(int32(kind), uri)).string(); got != want {
				t.Errorf("metadata %d: %q, want %q", kind, got, want)
			}
		}
		xml := r.ok(43, func(e *encoder) { e.ref(n); e.uint32(0) }).string()
		if want := `<a:app xmlns:a="urn:example:x">`; !strings.Contains(xml, want) {
			t.Errorf("no %s in\n%s", want, xml)
		}
		r.ok(444, set(metadataElement, nil, nil, uri))
		r.fails(445, get(metadataElement, uri), codeNoMetadata, absent)
	})
}

// TestPolkitDecides holds that who is not root may change nothing before polkit
// has said so.
func TestPolkitDecides(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		var asked Subject
		answers := []error{&Error{codeAuthFailed, domainPolkit, "access denied by policy"}, nil}
		startDaemon(t, t.TempDir(), func(_ context.Context, who Subject) error {
			asked = who
			err := answers[0]
			answers = answers[1:]
			return err
		})
		const nobody = 65534
		r := dialAs(t, socketPath, nobody)
		way := r.ok(66, nil)
		if n, first := way.uint32(), way.int32(); n != 1 || first != authWithPolkit {
			t.Fatalf("%d ways to authenticate, the first of them %d, want polkit alone", n, first)
		}
		opening := func(e *encoder) { e.flag(false); e.uint32(0) }
		r.fails(1, opening, codeRPC, "authentication required")
		r.fails(70, nil, codeAuthFailed, "authentication failed: access denied by policy")
		r.fails(1, opening, codeRPC, "authentication required")
		r.ok(70, nil)
		r.ok(1, opening)
		if began, err := startTime(uint32(os.Getpid())); err != nil || asked != (Subject{nobody, uint32(os.Getpid()), began}) {
			t.Errorf("polkit was asked about %+v", asked)
		}
		dialAs(t, socketPath+ReadOnlySuffix, nobody).ok(66, nil)
	})
}

// dialAs is dial as another user.
func dialAs(t *testing.T, path string, uid int) *raw {
	t.Helper()
	made := make(chan *raw)
	go func() {
		defer close(made)
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
			t.Error(errno)
			return
		}
		made <- dial(t, path)
	}()
	return <-made
}

// TestManyClients holds that clients at work at the same time don't get into each
// other's way, and that a listener hears every start and stop of each.
func TestManyClients(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		startDaemon(t, t.TempDir(), nil)
		const clients, rounds = 16, 3
		listener := opened(t, socketPath)
		must(t, listener.SetDeadline(time.Now().Add(10*soon)))
		listener.ok(313, func(e *encoder) { e.int32(eventLifecycle); e.flag(false) })
		var running sync.WaitGroup
		for i := range clients {
			c := opened(t, socketPath)
			must(t, c.SetDeadline(time.Now().Add(10*soon)))
			running.Go(func() { c.work(fmt.Sprintf("net%d", i), rounds) })
		}
		running.Wait()
		heard := make(map[lifecycle]int)
		for range clients * rounds * 4 {
			_, what := listener.heard()
			heard[what]++
		}
		for _, what := range []lifecycle{defined, undefined, started, stopped} {
			if heard[what] != clients*rounds {
				t.Errorf("%d events %d were heard, want %d", heard[what], what, clients*rounds)
			}
		}
	})
}

// work takes a network of its own through its life, several times.
func (r *raw) work(name string, rounds int) {
	for range rounds {
		n := readRef(r.ok(41, func(e *encoder) { e.string("<network><name>" + name + "</name></network>") }))
		about := func(e *encoder) { e.ref(n) }
		r.ok(39, about)
		r.ok(283, func(e *encoder) { e.flag(true); e.uint32(0) })
		r.ok(43, func(e *encoder) { about(e); e.uint32(0) })
		r.ok(341, func(e *encoder) { about(e); e.flag(false); e.flag(true); e.uint32(0) })
		r.ok(42, about)
		r.ok(49, about)
	}
}
