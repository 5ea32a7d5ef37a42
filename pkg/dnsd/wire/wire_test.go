package wire_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/pkg/dnsd/wire"
)

// query packs a query with EDNS.
func query(tb testing.TB, name string, qtype uint16) []byte {
	tb.Helper()
	m := new(dns.Msg).SetQuestion(name, qtype)
	m.SetEdns0(wire.PayloadSize, true)
	return pack(tb, m)
}

func pack(tb testing.TB, m *dns.Msg) []byte {
	tb.Helper()
	b, err := m.Pack()
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// FuzzQuery reads octets of a guest. What is a query to package dns as well has the
// same question, and its answer is one to package dns.
func FuzzQuery(f *testing.F) {
	f.Add(query(f, "VM1.example.", dns.TypeA))
	f.Add(query(f, ".", dns.TypeNS))
	f.Add(query(f, `a\.b\000.example.`, dns.TypeTXT))
	f.Add(pack(f, new(dns.Msg).SetQuestion("1.2.0.192.in-addr.arpa.", dns.TypePTR)))
	q := new(wire.Query)
	buf := make([]byte, wire.PayloadSize)
	f.Fuzz(func(t *testing.T, raw []byte) {
		rcode, ok := q.Parse(raw, wire.PayloadSize, time.Time{})
		if !ok || rcode != dns.RcodeSuccess {
			return
		}
		m := new(dns.Msg)
		if m.Unpack(raw) != nil {
			return // records of a kind that is read more strictly there
		}
		want := m.Question[0]
		if len(m.Ns) > 0 {
			m.Extra = append(m.Extra, m.Ns...) // an OPT record counts there as well
		}
		if q.Type != want.Qtype || q.Key != key(t, want.Name) || q.Question().DO != (m.IsEdns0() != nil && m.IsEdns0().Do()) {
			t.Errorf("%q, type %d, %+v: want %v", q.Key, q.Type, q.Question(), m)
		}
		checkReply(t, q, m, buf)
	})
}

// checkReply packs an answer to q, which m is to package dns.
func checkReply(t *testing.T, q *wire.Query, m *dns.Msg, buf []byte) {
	t.Helper()
	w := q.Build(buf, true)
	owner := wire.PointerTo(wire.QuestionName)
	if !w.Add(wire.Answer, owner[:], dns.TypeA, 60, []byte{192, 0, 2, 1}) {
		return // no room beside a long name
	}
	reply := new(dns.Msg)
	if err := reply.Unpack(w.Finish(dns.RcodeSuccess)); err != nil {
		t.Fatalf("the answer to %v: %v", m, err)
	}
	want := m.Question[0]
	if !reply.Response || reply.Id != m.Id || reply.Question[0] != want || len(reply.Answer) != 1 || reply.Answer[0].Header().Name != want.Name {
		t.Errorf("%v is answered by %v", m, reply)
	}
}

// key is how a name of package dns is looked up: each octet that a host name can't
// have is written as a number.
func key(t *testing.T, name string) string {
	t.Helper()
	b := make([]byte, 256)
	end, err := dns.PackDomainName(name, b, 0, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	var labels []string
	for b = b[:end]; b[0] != 0; b = b[b[0]+1:] {
		var label strings.Builder
		for _, c := range b[1 : b[0]+1] {
			switch {
			case c >= 'A' && c <= 'Z':
				label.WriteByte(c + 'a' - 'A')
			case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
				label.WriteByte(c)
			default:
				label.Write([]byte{'\\', '0' + c/100, '0' + c/10%10, '0' + c%10})
			}
		}
		labels = append(labels, label.String())
	}
	return strings.Join(labels, ".") + "."
}

// FuzzResponse reads octets of an upstream server, behind a header and a question
// that fit. Whatever answers the query can be given to clients of all kinds, and what
// is a message to package dns stays one.
func FuzzResponse(f *testing.F) {
	const name = "www.example.com."
	asked := new(wire.Query)
	if rcode, ok := asked.Parse(query(f, "WWW.example.com.", dns.TypeA), wire.PayloadSize, time.Time{}); !ok || rcode != 0 {
		f.Fatal(rcode)
	}
	question := wire.UpstreamQuery(asked)
	head := len(question) - 11
	m := new(dns.Msg).SetReply(&dns.Msg{Question: []dns.Question{{Name: name, Qtype: dns.TypeA, Qclass: dns.ClassINET}}})
	for range 40 {
		m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 1)})
	}
	m.SetEdns0(4096, true)
	for _, m.Compress = range []bool{false, true} {
		b := pack(f, m)
		f.Add(uint16(0x8180), uint16(40), uint16(0), uint16(1), b[head:])
	}
	f.Add(uint16(0x8183), uint16(0), uint16(1), uint16(0), []byte{})
	clients := responseClients(f)
	f.Fuzz(func(t *testing.T, flags, answers, authority, additional uint16, records []byte) {
		b := slices.Clone(question[:head])
		for i, word := range []uint16{flags, 1, answers, authority, additional} {
			binary.BigEndian.PutUint16(b[2+2*i:], word)
		}
		b = append(b, records...)
		msg := wire.ReadAnswer(b, question)
		if msg == nil {
			return
		}
		for range wire.Addresses(msg) {
			continue
		}
		r := new(wire.Response)
		if !r.Read(msg, time.Unix(0, 0)) {
			return
		}
		readable := new(dns.Msg).Unpack(b) == nil
		for _, q := range clients {
			size := 512
			if q == clients[2] {
				size = wire.PayloadSize
			}
			for _, kept := range []bool{false, true} {
				reply := r.Answer(q, nil, kept)
				if len(reply) > size {
					t.Errorf("%d octets for one who takes %d", len(reply), size)
				}
				if err := new(dns.Msg).Unpack(reply); readable && err != nil {
					t.Errorf("%x became %x: %v", b, reply, err)
				}
			}
		}
	})
}

// responseClients are queries of clients that know no EDNS, take 512 octets, and
// take as many as we send.
func responseClients(tb testing.TB) []*wire.Query {
	tb.Helper()
	var clients []*wire.Query
	for _, edns := range []uint16{0, 512, wire.PayloadSize} {
		m := new(dns.Msg).SetQuestion("Www.Example.Com.", dns.TypeA)
		if edns > 0 {
			m.SetEdns0(edns, true)
		}
		q := new(wire.Query)
		q.Parse(pack(tb, m), wire.PayloadSize, time.Unix(30, 0))
		clients = append(clients, q)
	}
	return clients
}

// BenchmarkCodec reads a query and packs its answer, here and by package dns.
func BenchmarkCodec(b *testing.B) {
	raw := query(b, "vm500.vm.example.", dns.TypeA)
	a := netip.MustParseAddr("198.18.3.232").AsSlice()
	b.Run("wire", func(b *testing.B) {
		q, buf, now := new(wire.Query), make([]byte, wire.PayloadSize), time.Now()
		b.ReportAllocs()
		for b.Loop() {
			if rcode, ok := q.Parse(raw, wire.PayloadSize, now); !ok || rcode != dns.RcodeSuccess {
				b.Fatal(rcode)
			}
			w := q.Build(buf, true)
			w.Authoritative()
			owner := wire.PointerTo(wire.QuestionName)
			w.Add(wire.Answer, owner[:], dns.TypeA, 0, a)
			if len(w.Finish(dns.RcodeSuccess)) == 0 {
				b.Fatal("no answer")
			}
		}
	})
	b.Run("miekg", func(b *testing.B) {
		buf := make([]byte, wire.PayloadSize)
		b.ReportAllocs()
		for b.Loop() {
			q := new(dns.Msg)
			if err := q.Unpack(raw); err != nil {
				b.Fatal(err)
			}
			r := new(dns.Msg).SetReply(q)
			r.Authoritative, r.RecursionAvailable, r.Compress = true, true, true
			r.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: a}}
			r.SetEdns0(wire.PayloadSize, q.IsEdns0().Do())
			if _, err := r.PackBuffer(buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}
