package dnsd_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dnsd"
)

// Addresses of the tests: gateways on lo, upstreams on lo.
const (
	gateway   = "192.0.2.1"
	gateway6  = "2001:db8::1"
	upstream  = "127.0.0.11"
	upstream2 = "127.0.0.12"
	limit     = time.Minute // after which something hangs
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// loConfig is a network on lo, whose gateway has addresses of both families.
func loConfig(t *testing.T) dnsd.Config {
	t.Helper()
	nstest.IP(t, "addr add "+gateway+"/24 dev lo")
	nstest.IP(t, "-6 addr add "+gateway6+"/64 dev lo nodad")
	// The kernel takes its time to see that the address is its own.
	nstest.Eventually(t, limit, "there is a local route to the address", func() error {
		if routes := nstest.IP(t, "-6 route show table local"); !strings.Contains(routes, gateway6+" ") {
			return errors.New(routes)
		}
		return nil
	})
	return dnsd.Config{
		Network:    "default",
		Interface:  "lo",
		Addrs:      []netip.Addr{addr(gateway), addr(gateway6)},
		Prefixes:   []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/64")},
		Static:     []dnsd.Host{{Name: "gateway", Addr: addr(gateway)}, {Name: "gateway", Addr: addr(gateway6)}},
		ResolvConf: filepath.Join(t.TempDir(), "resolv.conf"),
	}
}

// patience is longer than any test takes: a server that has it asks its upstream
// once, however slow the machine is, and the next one only where that fails.
const patience = time.Hour

// start opens a server that has patience and runs it until the test ends.
func start(t *testing.T, cfg dnsd.Config) *dnsd.Server {
	t.Helper()
	return open(t, cfg, patience, patience)
}

// open opens a server that waits for all upstreams and for each for that long, and
// runs it until the test ends.
func open(t *testing.T, cfg dnsd.Config, total, stagger time.Duration) *dnsd.Server {
	t.Helper()
	s, err := dnsd.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.SetTiming(total, stagger, patience)
	run(t, s)
	return s
}

// run runs s until the test ends.
func run(t *testing.T, s *dnsd.Server) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// writeResolvConf puts a resolv.conf in place, renamed over what is there.
func writeResolvConf(t *testing.T, path string, servers ...string) {
	t.Helper()
	var text strings.Builder
	for _, s := range servers {
		fmt.Fprintf(&text, "nameserver %s\n", s)
	}
	if err := os.WriteFile(path+".new", []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// ask sends m to server over proto and returns the answer.
func ask(t *testing.T, proto, server string, m *dns.Msg) *dns.Msg {
	t.Helper()
	r, err := tryAsk(proto, server, m)
	if err != nil {
		t.Fatalf("asking %s over %s for %s: %v", server, proto, m.Question[0].Name, err)
	}
	return r
}

func tryAsk(proto, server string, m *dns.Msg) (*dns.Msg, error) {
	c := &dns.Client{Net: proto, Timeout: limit, UDPSize: dns.MaxMsgSize}
	r, _, err := c.Exchange(m, net.JoinHostPort(server, "53"))
	return r, err
}

// question is a query for name.
func question(name string, qtype uint16) *dns.Msg {
	return new(dns.Msg).SetQuestion(name, qtype)
}

// records are records as text, one blank between fields, sorted.
func records(rrs []dns.RR) []string {
	var out []string
	for _, rr := range rrs {
		if rr.Header().Rrtype != dns.TypeOPT {
			out = append(out, strings.Join(strings.Fields(rr.String()), " "))
		}
	}
	slices.Sort(out)
	return out
}

// resolver is a name server of the tests, which behaves as its handler does.
type resolver struct {
	udp   net.PacketConn
	tcp   net.Listener
	mu    sync.Mutex
	names []string // asked, in order
}

// startResolver serves on ip. handler returns the messages to send back for a
// query, as many as it likes; proto is "udp" or "tcp".
func startResolver(t *testing.T, ip string, handler func(proto string, q *dns.Msg) [][]byte) *resolver {
	t.Helper()
	return startResolverAt(t, ip, 53, handler)
}

// startResolverAt is startResolver on another port.
func startResolverAt(t *testing.T, ip string, port int, handler func(proto string, q *dns.Msg) [][]byte) *resolver {
	t.Helper()
	at := net.JoinHostPort(ip, strconv.Itoa(port))
	u, err := net.ListenPacket("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	r := &resolver{udp: u, tcp: l}
	var serving sync.WaitGroup
	for _, s := range []*dns.Server{{PacketConn: u}, {Listener: l}} {
		s.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
			r.note(q)
			for _, b := range handler(w.LocalAddr().Network(), q) {
				_, _ = w.Write(b)
			}
		})
		ready := make(chan struct{})
		s.NotifyStartedFunc = func() { close(ready) }
		serving.Go(func() { _ = s.ActivateAndServe() })
		<-ready
	}
	t.Cleanup(func() {
		_, _ = u.Close(), l.Close()
		serving.Wait()
	})
	return r
}

func (r *resolver) note(q *dns.Msg) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.names = append(r.names, q.Question[0].Name)
}

// asked is how often a query has come.
func (r *resolver) asked() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.names)
}

// pack packs messages.
func pack(msgs ...*dns.Msg) [][]byte {
	var out [][]byte
	for _, m := range msgs {
		b, err := m.Pack()
		if err != nil {
			panic(err)
		}
		out = append(out, b)
	}
	return out
}

// answerA answers q with one address.
func answerA(q *dns.Msg, ip string) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(4096, opt.Do())
	}
	m.Answer = []dns.RR{&dns.A{
		Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
		A:   net.ParseIP(ip),
	}}
	return m
}

// lines is a log that is read while it is written.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// always is a handler that answers every query with one address.
func always(ip string) func(string, *dns.Msg) [][]byte {
	return func(_ string, q *dns.Msg) [][]byte { return pack(answerA(q, ip)) }
}

// rcode is a handler that answers every query with an rcode.
func rcode(code int) func(string, *dns.Msg) [][]byte {
	return func(_ string, q *dns.Msg) [][]byte { return pack(new(dns.Msg).SetRcode(q, code)) }
}

// freebind lets a socket of the tests have an address that is not there yet.
func freebind(network, _ string, c syscall.RawConn) error {
	var err error
	controlErr := c.Control(func(fd uintptr) {
		if strings.HasSuffix(network, "6") {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
		}
	})
	return errors.Join(controlErr, err)
}
