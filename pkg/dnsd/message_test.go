package dnsd_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dnsd"
)

// edns is a query for vm1 with an OPT record that change may alter.
func edns(t testing.TB, change func(m *dns.Msg, opt *dns.OPT)) []byte {
	t.Helper()
	m := question("vm1.", dns.TypeA)
	m.SetEdns0(4096, true)
	change(m, m.IsEdns0())
	return mustPack(t, m)
}

func mustPack(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// with is a packed query for vm1 with some octets changed.
func with(t testing.TB, change func(b []byte) []byte) []byte {
	t.Helper()
	return change(mustPack(t, question("vm1.", dns.TypeA)))
}

// counts sets the four counts of a header.
func counts(b []byte, qd, an, ns, ar uint16) []byte {
	for i, n := range []uint16{qd, an, ns, ar} {
		binary.BigEndian.PutUint16(b[4+2*i:], n)
	}
	return b
}

// messageCase is a message and the shape of its answer.
type messageCase struct {
	what string
	raw  []byte
	want string // rcode, number of answers, EDNS size and DO; "" no answer
}

func messageCases(t testing.TB) []messageCase {
	unchanged := func(b []byte) []byte { return b }
	return []messageCase{
		{"plain", with(t, unchanged), "NOERROR 1"},
		{"chaos version.bind", mustPack(t, &dns.Msg{Question: []dns.Question{{Name: "version.bind.", Qtype: dns.TypeTXT, Qclass: dns.ClassCHAOS}}}), "REFUSED 0"},
		{"class any", mustPack(t, &dns.Msg{Question: []dns.Question{{Name: "vm1.", Qtype: dns.TypeA, Qclass: dns.ClassANY}}}), "REFUSED 0"},
		{"a response", with(t, func(b []byte) []byte { b[2] |= 0x80; return b }), ""},
		{"shorter than a header", make([]byte, 11), ""},
		{"nothing", nil, ""},
		{"a header alone", with(t, func(b []byte) []byte { return b[:12] }), "FORMERR 0"},
		{"no question", with(t, func(b []byte) []byte { return counts(b[:12], 0, 0, 0, 0) }), "FORMERR 0"},
		{"two questions", with(t, func(b []byte) []byte { return counts(append(b, b[12:]...), 2, 0, 0, 0) }), "FORMERR 0"},
		{"an answer in the query", with(t, func(b []byte) []byte { return counts(b, 1, 1, 0, 0) }), "FORMERR 0"},
		{"counts that lie", with(t, func(b []byte) []byte { return counts(b, 1, 0xffff, 0xffff, 0xffff) }), "FORMERR 0"},
		{"a cut question", with(t, func(b []byte) []byte { return b[:len(b)-3] }), "FORMERR 0"},
		{"a label of 64 octets", with(t, func(b []byte) []byte { b[12] = 64; return b }), "FORMERR 0"},
		{"a name that points to itself", with(t, func(b []byte) []byte {
			return append(b[:12], 0xc0, 12, 0, 1, 0, 1)
		}), "FORMERR 0"},
		{"names that point to each other", with(t, func(b []byte) []byte {
			return append(b[:12], 1, 'a', 0xc0, 16, 0xc0, 12, 0, 1, 0, 1)
		}), "FORMERR 0"},
		{"update", with(t, func(b []byte) []byte { b[2] |= dns.OpcodeUpdate << 3; return b }), "NOTIMP 0"},
		{"notify", with(t, func(b []byte) []byte { b[2] |= dns.OpcodeNotify << 3; return b }), "NOTIMP 0"},
		{"opcode 15", with(t, func(b []byte) []byte { b[2] |= 15 << 3; return b }), "NOTIMP 0"},
		{"garbage behind the question", with(t, func(b []byte) []byte { return append(b, 1, 2, 3) }), "NOERROR 1"},
		{"EDNS", edns(t, func(*dns.Msg, *dns.OPT) {}), "NOERROR 1 edns 1232 do"},
		{"EDNS without DO", edns(t, func(_ *dns.Msg, o *dns.OPT) { o.SetDo(false) }), "NOERROR 1 edns 1232"},
		{"EDNS version 1", edns(t, func(_ *dns.Msg, o *dns.OPT) { o.SetVersion(1) }), "BADVERS 0 edns 1232 do"},
		{"EDNS of size 0", edns(t, func(_ *dns.Msg, o *dns.OPT) { o.SetUDPSize(0) }), "NOERROR 1 edns 1232 do"},
		{"EDNS with unknown options", edns(t, func(_ *dns.Msg, o *dns.OPT) {
			o.Option = append(o.Option, &dns.EDNS0_LOCAL{Code: 65001, Data: []byte("x")}, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0011223344556677"})
		}), "NOERROR 1 edns 1232 do"},
		{"two OPT records", edns(t, func(m *dns.Msg, o *dns.OPT) { m.Extra = append(m.Extra, o) }), "FORMERR 0 edns 1232 do"},
		{"an OPT record with a name", edns(t, func(_ *dns.Msg, o *dns.OPT) { o.Hdr.Name = "a." }), "FORMERR 0 edns 1232 do"},
		{"EDNS with an option that is cut", edns(t, func(_ *dns.Msg, o *dns.OPT) {
			o.Option = append(o.Option, &dns.EDNS0_LOCAL{Code: 65001, Data: []byte{0, 9, 0, 9}})
		})[:len(edns(t, func(*dns.Msg, *dns.OPT) {}))+5], "FORMERR 0"},
		{"EDNS and two questions", edns(t, func(m *dns.Msg, _ *dns.OPT) { m.Question = append(m.Question, m.Question[0]) }), "FORMERR 0 edns 1232 do"},
		{"EDNS and no question", edns(t, func(m *dns.Msg, _ *dns.OPT) { m.Question = nil }), "FORMERR 0 edns 1232 do"},
		{"EDNS and a status query", edns(t, func(m *dns.Msg, _ *dns.OPT) { m.Opcode = dns.OpcodeStatus }), "NOTIMP 0 edns 1232 do"},
		{"EDNS and an update with records", edns(t, func(m *dns.Msg, _ *dns.OPT) {
			m.Opcode = dns.OpcodeUpdate
			m.Answer, m.Ns = []dns.RR{rr("vm1. 0 IN A 192.0.2.66")}, []dns.RR{rr("vm2. 0 IN A 192.0.2.66")}
		}), "NOTIMP 0 edns 1232 do"},
		{"EDNS version 1 and an update", edns(t, func(m *dns.Msg, o *dns.OPT) { m.Opcode = dns.OpcodeUpdate; o.SetVersion(1) }), "NOTIMP 0 edns 1232 do"},
	}
}

// shape describes an answer as messageCase.want does.
func shape(t *testing.T, raw, reply []byte) string {
	t.Helper()
	if reply == nil {
		return ""
	}
	r := new(dns.Msg)
	if err := r.Unpack(reply); err != nil {
		t.Fatalf("the answer can't be read: %v", err)
	}
	if !r.Response || r.Id != binary.BigEndian.Uint16(raw) {
		t.Errorf("header %v answers nothing", r.MsgHdr)
	}
	words := []string{dns.RcodeToString[r.Rcode], string(rune('0' + len(r.Answer)))}
	if r.Rcode == dns.RcodeBadVers {
		words[0] = "BADVERS"
	}
	if opt := r.IsEdns0(); opt != nil {
		words = append(words, "edns", "1232")
		if opt.UDPSize() != 1232 || opt.Version() != 0 || len(opt.Option) > 0 {
			t.Errorf("OPT record %v", opt)
		}
		if opt.Do() {
			words = append(words, "do")
		}
	}
	return strings.Join(words, " ")
}

// newVM1 is a server without sockets that knows vm1.
func newVM1() *dnsd.Server {
	s := dnsd.NewUnbound(dnsd.Config{NoForward: true})
	s.SetHost(dnsd.Host{Name: "vm1", Addr: addr("192.0.2.11")})
	return s
}

// TestMessages checks what is said to well-formed and malformed messages.
func TestMessages(t *testing.T) {
	s := newVM1()
	for _, c := range messageCases(t) {
		reply, _ := s.RespondUDP(c.raw, nil)
		if diff := cmp.Diff(c.want, shape(t, c.raw, reply)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.what, diff)
		}
	}
}

// TestTruncation fills a name with more addresses than a datagram holds.
func TestTruncation(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cfg := loConfig(t)
		a := addr("192.0.2.100")
		for range 100 {
			cfg.Static = append(cfg.Static, dnsd.Host{Name: "many", Addr: a})
			a = a.Next()
		}
		start(t, cfg)
		for _, c := range []struct {
			proto     string
			size      uint16
			truncated bool
			most      int // octets of the answer
		}{
			{"udp", 0, true, 512},
			{"udp", 300, true, 512},
			{"udp", 1000, true, 1000},
			{"udp", 65535, true, 1232},
			{"tcp", 0, false, 65535},
			{"tcp", 512, false, 65535},
		} {
			m := question("many.", dns.TypeA)
			if c.size > 0 {
				m.SetEdns0(c.size, false)
			}
			r := ask(t, c.proto, gateway, m)
			r.Compress = true
			if r.Truncated != c.truncated || r.Len() > c.most || len(r.Answer) == 0 || (r.IsEdns0() != nil) != (c.size > 0) {
				t.Errorf("%s, size %d: tc %v, %d octets, %d records", c.proto, c.size, r.Truncated, r.Len(), len(r.Answer))
			}
			if c.proto == "tcp" && len(r.Answer) != 100 {
				t.Errorf("over tcp: %d records", len(r.Answer))
			}
		}
	})
}

// dialTCP connects to the gateway and fails the test after limit.
func dialTCP(t *testing.T) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", net.JoinHostPort(gateway, "53"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(limit))
	return c.(*net.TCPConn)
}

// frame puts the length in front of messages.
func frame(msgs ...[]byte) []byte {
	var b []byte
	for _, m := range msgs {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(m))), m...)
	}
	return b
}

// readFrame reads one message.
func readFrame(t *testing.T, r io.Reader) *dns.Msg {
	t.Helper()
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		t.Fatalf("reading an answer: %v", err)
	}
	b := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(r, b); err != nil {
		t.Fatalf("reading an answer: %v", err)
	}
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestTCPPipelined sends many queries at once, closes its side, and expects an
// answer to each.
func TestTCPPipelined(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		start(t, loConfig(t))
		const n = 200
		var queries [][]byte
		for id := range n {
			m := question("gateway.", dns.TypeA)
			m.Id = uint16(id)
			queries = append(queries, mustPack(t, m))
		}
		c := dialTCP(t)
		go func() {
			_, _ = c.Write(frame(queries...))
			_ = c.CloseWrite()
		}()
		ids := make(map[uint16]bool)
		for range n {
			ids[readFrame(t, c).Id] = true
		}
		if len(ids) != n {
			t.Errorf("%d different answers", len(ids))
		}
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("after the last answer: %v", err)
		}
	})
}

// TestTCPUnread asks for much and reads nothing for a while: then all of it.
func TestTCPUnread(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cfg := loConfig(t)
		const records, n = 3000, 100
		for i := range records {
			cfg.Static = append(cfg.Static, dnsd.Host{Name: "many", Addr: netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})})
		}
		s := start(t, cfg)
		c := dialTCP(t)
		if _, err := c.Write(frame(slices.Repeat([][]byte{mustPack(t, question("many.", dns.TypeA))}, n)...)); err != nil {
			t.Fatal(err)
		}
		nstest.Eventually(t, limit, "it is being answered", func() error {
			if st := s.Stats(); st.Queries < 3 {
				return fmt.Errorf("%+v", st)
			}
			return nil
		})
		for range n {
			if r := readFrame(t, c); len(r.Answer) != records {
				t.Fatalf("%d records", len(r.Answer))
			}
		}
	})
}

// TestTCPHostile sends what no client would.
func TestTCPHostile(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s := start(t, loConfig(t))
		c := dialTCP(t)
		long := bytes.Repeat([]byte{0xff}, 0xffff)
		copy(long, mustPack(t, question("gateway.", dns.TypeA)))
		counts(long, 1, 0, 0, 2)
		good := mustPack(t, question("gateway.", dns.TypeA))
		go func() { _, _ = c.Write(frame(nil, long, good)) }()
		if r := readFrame(t, c); r.Rcode != dns.RcodeFormatError {
			t.Errorf("64K message: %v", r)
		}
		if r := readFrame(t, c); r.Rcode != dns.RcodeSuccess || len(r.Answer) != 1 {
			t.Errorf("the query behind it: %v", r)
		}
		// Connections that say nothing, or half a message, leave room for others.
		for range 200 {
			_, _ = dialTCP(t).Write([]byte{0, 40, 1})
		}
		if r := ask(t, "udp", gateway, question("gateway.", dns.TypeA)); len(r.Answer) != 1 {
			t.Errorf("over UDP meanwhile: %v", r)
		}
		if r := ask(t, "tcp", gateway6, question("gateway.", dns.TypeA)); len(r.Answer) != 1 {
			t.Errorf("another client meanwhile: %v", r)
		}
		if n := s.Stats().TCPClients; n > 128/2+1 {
			t.Errorf("%d clients", n)
		}
		// And so do those of a guest that has many addresses.
		for i := range 200 {
			d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 2, 0, byte(i+1))}}
			c, err := d.Dial("tcp", net.JoinHostPort(gateway, "53"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, _ = c.Write([]byte{0, 40, 1})
		}
		for range 3 {
			if r := ask(t, "tcp", gateway6, question("gateway.", dns.TypeA)); len(r.Answer) != 1 {
				t.Errorf("another client meanwhile: %v", r)
			}
		}
		if n := s.Stats().TCPClients; n > 128 {
			t.Errorf("%d clients", n)
		}
	})
}

// TestPanic ends one query by a panic; the server goes on.
func TestPanic(t *testing.T) {
	s := dnsd.NewUnbound(dnsd.Config{Logger: slog.New(slog.DiscardHandler)})
	s.Break()
	if reply, forwarded := s.RespondUDP(mustPack(t, question("vm1.", dns.TypeA)), nil); reply != nil || forwarded {
		t.Errorf("a query that panics: %v, %v", reply, forwarded)
	}
	if reply, _ := s.RespondUDP(make([]byte, 12), nil); len(reply) != 12 {
		t.Errorf("the next message: %v", reply)
	}
	if got := s.Stats().Panics; got != 1 {
		t.Errorf("%d panics", got)
	}
}
