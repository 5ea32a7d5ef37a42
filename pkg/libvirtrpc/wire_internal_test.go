package libvirtrpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network"
)

// soon bounds what should happen at once.
const soon = 20 * time.Second

// memory is a Backend that keeps networks in memory: what the wire is tested on.
type memory struct {
	mu   sync.Mutex
	list []Network
	subs []func(network.Event)
}

// stored is a network of a memory.
type stored struct {
	Network // of the interface, what a test has no use for panics
	doc     *netdef.Network
}

func (n *stored) Info() api.Network {
	return api.Network{Name: n.doc.Name, UUID: n.doc.UUID, Persistent: true}
}
func (n *stored) XML(bool) []byte { return n.doc.XML() }

func (m *memory) Networks() []Network {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]Network(nil), m.list...)
}

func (m *memory) find(match func(api.Network) bool) (Network, error) {
	for _, n := range m.Networks() {
		if match(n.Info()) {
			return n, nil
		}
	}
	return nil, api.Errorf(api.NotFound, "no such network")
}

func (m *memory) ByName(name string) (Network, error) {
	return m.find(func(i api.Network) bool { return i.Name == name })
}

func (m *memory) ByUUID(uuid string) (Network, error) {
	return m.find(func(i api.Network) bool { return i.UUID == uuid })
}

func (m *memory) Define(_ context.Context, xml []byte) (Network, error) {
	doc, err := netdef.Parse(xml)
	if err != nil {
		return nil, err
	}
	n := &stored{doc: doc}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list = append(m.list, n)
	for _, f := range m.subs {
		f(network.Event{Kind: network.NetworkDefined, Network: n.Info()})
	}
	return n, nil
}

func (m *memory) Create(context.Context, []byte) (Network, error) {
	return nil, errors.New("memory can't create")
}

func (m *memory) ReleasePort(context.Context, string) error { return errors.New("memory has no ports") }

func (m *memory) Subscribe(f func(network.Event)) func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.subs = append(m.subs, f)
	return func() {}
}

// serveMemory answers on two sockets in a folder of the test and returns the
// path of the first.
func serveMemory(t *testing.T, authorize Authorize) string {
	t.Helper()
	return serve(t, NewServer(Config{Backend: &memory{}, Authorize: authorize, Logger: slog.New(slog.DiscardHandler)}))
}

// serve is serveMemory for a server that is made already.
func serve(t *testing.T, s *Server) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sock")
	sockets, err := Listen(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, sockets) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return path
}

// raw is a client that sends what it likes.
type raw struct {
	t *testing.T
	net.Conn
	serial uint32
}

func dial(t *testing.T, path string) *raw {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	return &raw{t: t, Conn: conn}
}

// opened is a client that has done what virsh does first.
func opened(t *testing.T, path string) *raw {
	t.Helper()
	r := dial(t, path)
	r.ok(66, nil)
	r.ok(1, func(e *encoder) { e.optString(nonEmpty(connectionURI)); e.uint32(0) })
	return r
}

// call sends a call and returns the reply, whatever comes before it is an event
// and passed over.
func (r *raw) call(proc int32, args func(*encoder)) message {
	r.t.Helper()
	r.serial++
	if _, err := r.Write(frame(header{program: programRemote, version: protocolVersion, proc: proc, serial: r.serial}, args)); err != nil {
		r.t.Fatalf("procedure %d: %v", proc, err)
	}
	for {
		m, err := readMessage(r, maxFrame)
		if err != nil {
			r.t.Fatalf("procedure %d: %v", proc, err)
		}
		if m.kind == typeReply {
			if m.serial != r.serial || m.proc != proc {
				r.t.Fatalf("the reply to call %d of procedure %d is for %d of %d", r.serial, proc, m.serial, m.proc)
			}
			return m
		}
	}
}

// ok is call, which must succeed.
func (r *raw) ok(proc int32, args func(*encoder)) *decoder {
	r.t.Helper()
	m := r.call(proc, args)
	if m.status != statusOK {
		r.t.Fatalf("procedure %d: %+v", proc, readError(m))
	}
	return &decoder{rest: m.payload}
}

// fails is call, which must fail with that code and text.
func (r *raw) fails(proc int32, args func(*encoder), want code, text string) {
	r.t.Helper()
	m := r.call(proc, args)
	if m.status != statusError {
		r.t.Fatalf("procedure %d succeeded, want error %d %q", proc, want, text)
	}
	if e := readError(m); e.code != want || e.text != text {
		r.t.Errorf("procedure %d failed with %d %q, want %d %q", proc, e.code, e.text, want, text)
	}
}

// readError reads a remote_error; its text is the whole sentence.
func readError(m message) Error {
	d := &decoder{rest: m.payload}
	e := Error{code: code(d.int32()), domain: domain(d.int32())}
	if text := d.optString(); text != nil {
		e.text = *text
	}
	return e
}

// ended tells that the server has hung up.
func (r *raw) ended() {
	r.t.Helper()
	if n, err := io.Copy(io.Discard, r); err != nil && !strings.Contains(err.Error(), "reset") {
		r.t.Errorf("after %d bytes: %v, want the end", n, err)
	}
}

func TestHandshake(t *testing.T) {
	path := serveMemory(t, nil)
	r := dial(t, path)
	r.fails(60, func(e *encoder) { e.int32(10) }, codeRPC, "authentication required")
	r.ok(66, nil)
	for feature, want := range map[int32]bool{0: false, 7: false, 8: true, 10: true, 14: true, 15: true, 16: true, 17: false} {
		if got := r.ok(60, func(e *encoder) { e.int32(feature) }).flag(); got != want {
			t.Errorf("feature %d: %v, want %v", feature, got, want)
		}
	}
	r.fails(52, nil, codeInternal, "internal error: connection not open")
	// As go-libvirt writes that something is there, and with a flag nobody knows.
	r.ok(1, func(e *encoder) { e.uint32(0x01000000); e.string(connectionURI); e.uint32(0x01000000) })
	r.fails(1, func(e *encoder) { e.flag(false); e.uint32(0) }, codeInternal, "internal error: connection already open")
	r.fails(9999, nil, codeRPC, "unknown procedure: 9999")
	r.fails(46, func(e *encoder) { e.uint32(1 << 31) }, codeRPC, "Unable to decode message payload")
	r.fails(46, func(e *encoder) { e.string("none") }, codeNoNetwork, "Network not found: no network with matching name 'none'")
	r.fails(43, func(e *encoder) { e.ref(ref{"x", uuid{1}}); e.uint32(0) }, codeNoNetwork,
		"Network not found: no network with matching uuid '01000000-0000-0000-0000-000000000000' (x)")
	r.ok(2, nil)
	r.ended()
}

func TestReadOnlySocket(t *testing.T) {
	path := serveMemory(t, nil)
	r := opened(t, path+ReadOnlySuffix)
	text := func(e *encoder) { e.string("x") }
	someNetwork := func(e *encoder) { e.ref(ref{}) }
	for number, p := range procs() {
		if p.needs != needsWrite {
			continue
		}
		r.fails(number, text, codeDenied, "operation forbidden: read only access prevents "+p.name)
	}
	r.fails(44, someNetwork, codeNoNetwork, "Network not found: no network with matching uuid '"+uuid{}.String()+"' ()")
}

func TestHostileClients(t *testing.T) {
	path := serveMemory(t, nil)
	word := func(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
	call := header{program: programRemote, version: protocolVersion, proc: 66, serial: 1}
	keepalive := header{program: programKeepalive, version: protocolVersion, proc: keepalivePing, kind: typeMessage}
	for name, sent := range map[string][]byte{
		"a length of nothing":      word(0),
		"a length below a header":  append(word(27), make([]byte, 27)...),
		"a length of 4 GiB":        word(1<<32 - 1),
		"more than before login":   word(maxSmallFrame + 1),
		"noise":                    bytes.Repeat([]byte{0x5a}, 1<<12),
		"a call with descriptors":  frame(header{program: programRemote, version: protocolVersion, proc: 66, kind: typeCallWithFDs}, func(e *encoder) { e.uint32(1) }),
		"a reply":                  frame(call.answer(0), nil),
		"a pong and then nonsense": append(frame(keepalive, nil), word(3)...),
	} {
		t.Run(name, func(t *testing.T) {
			r := dial(t, path)
			if _, err := r.Write(sent); err != nil {
				t.Fatal(err)
			}
			r.ended()
		})
	}
	t.Run("half a frame", func(t *testing.T) {
		r := dial(t, path)
		if _, err := r.Write(frame(call, nil)[:20]); err != nil {
			t.Fatal(err)
		}
		if err := r.Conn.(*net.UnixConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		r.ended()
	})
	opened(t, path).ok(52, nil)
}

// TestClientThatDoesNotRead holds that neither replies nor events pile up for
// somebody who does not take them.
func TestClientThatDoesNotRead(t *testing.T) {
	path := serveMemory(t, nil)
	other := opened(t, path)
	name := strings.Repeat("x", 60<<10)
	deaf := opened(t, path)
	deaf.ok(313, func(e *encoder) { e.int32(eventLifecycle); e.flag(false) })
	for range 2*maxQueued/len(name) + 20 {
		other.ok(41, func(e *encoder) { e.string("<network><name>" + name + "</name></network>") })
	}
	deaf.ended()
}

func TestCallsBeforeReplies(t *testing.T) {
	r := opened(t, serveMemory(t, nil))
	const calls = 300
	var sent []byte
	for i := range calls {
		sent = append(sent, frame(header{program: programRemote, version: protocolVersion, proc: 52, serial: uint32(1000 + i)}, nil)...)
	}
	if _, err := r.Write(sent); err != nil {
		t.Fatal(err)
	}
	seen := make(map[uint32]bool)
	for range calls {
		m, err := readMessage(r, maxFrame)
		if err != nil {
			t.Fatal(err)
		}
		seen[m.serial] = true
	}
	if len(seen) != calls {
		t.Errorf("%d calls got %d replies", calls, len(seen))
	}
}

func FuzzMessage(f *testing.F) {
	f.Add(frame(header{program: programRemote, version: 1, proc: 66}, nil))
	f.Add(frame(header{program: programRemote, version: 1, proc: 46}, func(e *encoder) { e.string("x") }))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := readMessage(bytes.NewReader(data), maxFrame)
		if err == nil && len(m.payload) > len(data) {
			t.Errorf("%d bytes made a payload of %d", len(data), len(m.payload))
		}
	})
}

// FuzzCall gives every procedure arguments that nobody has checked.
func FuzzCall(f *testing.F) {
	table := procs()
	for number := range table {
		e := &encoder{}
		e.ref(ref{"lab", uuid{1}})
		e.uint32(1)
		e.string("<x/>")
		f.Add(number, e.buf)
	}
	s := inertServer(f)
	f.Fuzz(func(t *testing.T, number int32, payload []byte) {
		p := table[number]
		if p == nil || number == 70 { // polkit is another's
			return
		}
		here, there := net.Pipe()
		defer func() { _, _ = here.Close(), there.Close() }()
		c := newClient(s.session(here, peer{}, false), s.procs, s.patience)
		var results encoder
		err := p.call(t.Context(), c.session, payload, &results)
		close(c.gone)
		c.running.Wait()
		if err != nil && asError(err).Error() == "" {
			t.Errorf("procedure %d failed without a word", number)
		}
	})
}

// inertServer has one network, to which nothing happens.
func inertServer(f *testing.F) *Server {
	f.Helper()
	doc, err := netdef.Parse([]byte("<network><name>lab</name><uuid>01000000-0000-0000-0000-000000000000</uuid><bridge name='virbr7'/></network>"))
	if err != nil {
		f.Fatal(err)
	}
	return NewServer(Config{Backend: &memory{list: []Network{&inert{stored{doc: doc}}}}, Logger: slog.New(slog.DiscardHandler)})
}

// FuzzConnection sends a server what may be no message, after a client has opened its
// connection: whatever it is, the connection ends when the client hangs up.
func FuzzConnection(f *testing.F) {
	call := func(proc int32, args func(*encoder)) []byte {
		return frame(header{program: programRemote, version: protocolVersion, proc: proc, serial: 1}, args)
	}
	hello := append(call(66, nil), call(1, func(e *encoder) { e.flag(false); e.uint32(0) })...)
	for number := range procs() {
		f.Add(call(number, func(e *encoder) { e.ref(ref{"lab", uuid{1}}); e.uint32(1); e.string("<x/>") }))
	}
	f.Add(frame(header{program: programKeepalive, version: protocolVersion, proc: keepalivePing, kind: typeMessage}, nil))
	s := inertServer(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		here, there := net.Pipe()
		var sides sync.WaitGroup
		sides.Go(func() { _, _ = io.Copy(io.Discard, there) })
		sides.Go(func() {
			_, _ = there.Write(append(append([]byte(nil), hello...), data...))
			_ = there.Close()
		})
		newClient(s.session(here, peer{}, false), s.procs, s.patience).serve(t.Context())
		sides.Wait()
	})
}

// inert is a network that does whatever it is told, to no effect.
type inert struct{ stored }

func (n *inert) Start(context.Context) error      { return nil }
func (n *inert) Stop(context.Context) error       { return nil }
func (n *inert) Undefine(context.Context) error   { return nil }
func (n *inert) SetAutostart(bool) error          { return nil }
func (n *inert) Leases() ([]network.Lease, error) { return nil, nil }

func (n *inert) Info() api.Network {
	info := n.stored.Info()
	info.Active = true
	return info
}

func (n *inert) PortDocuments() []*netdef.Port {
	return []*netdef.Port{{UUID: uuid{}.String(), Owner: netdef.Owner{Name: "x", UUID: uuid{}.String()}}}
}

func (n *inert) RegisterPort(_ context.Context, p *netdef.Port, _ bool, _ uint32) (*netdef.Port, error) {
	return p, nil
}

func (n *inert) SetPortBandwidth(context.Context, string, *netdef.Bandwidth) error { return nil }

func (n *inert) Update(_ context.Context, u netdef.Update, _ network.Target) error {
	return n.doc.Clone().Update(u)
}

func (n *inert) Edit(_ context.Context, _ network.Target, change func(*netdef.Network) error) error {
	return change(n.doc.Clone())
}
