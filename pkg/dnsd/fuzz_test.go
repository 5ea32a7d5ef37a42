package dnsd_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/pkg/dnsd"
)

// FuzzQuery sends octets as a guest would. Whatever they are, the answer is
// one to them, can be read, and fits into what the guest takes.
func FuzzQuery(f *testing.F) {
	for _, c := range messageCases(f) {
		f.Add(c.raw)
	}
	f.Add(mustPack(f, question("1.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.", dns.TypePTR)))
	f.Add(mustPack(f, question("99.2.0.192.in-addr.arpa.", dns.TypePTR)))
	s := dnsd.NewUnbound(dnsd.Config{
		Domain:    "vm.example",
		LocalOnly: true,
		Prefixes:  []netip.Prefix{netip.MustParsePrefix("192.0.2.0/25"), netip.MustParsePrefix("2001:db8::/61")},
	})
	s.SetHost(dnsd.Host{Name: "vm1", Addr: addr("192.0.2.11")})
	buf := make([]byte, 1232)
	f.Fuzz(func(t *testing.T, raw []byte) {
		reply, forwarded := s.RespondUDP(raw, buf)
		if s.Stats().Panics > 0 {
			t.Fatal("it panicked")
		}
		if reply == nil || forwarded {
			return
		}
		r := new(dns.Msg)
		if err := r.Unpack(reply); err != nil {
			t.Fatalf("the answer can't be read: %v", err)
		}
		if len(reply) > 1232 || !r.Response || reply[0] != raw[0] || reply[1] != raw[1] {
			t.Fatalf("%d octets: %v", len(reply), r)
		}
	})
}

// FuzzResponse sends octets as an upstream would, made to fit the question so
// that they are not simply ignored.
func FuzzResponse(f *testing.F) {
	m := question("WWW.example.com.", dns.TypeA)
	plain := mustPack(f, m)
	answer := answerA(m, "198.51.100.1")
	f.Add(mustPack(f, answer), false)
	answer.Compress = true
	f.Add(mustPack(f, answer), true)
	for range 100 {
		answer.Answer = append(answer.Answer, answer.Answer[0])
	}
	f.Add(mustPack(f, answer), true)
	answer.SetEdns0(4096, true)
	f.Add(mustPack(f, answer), true)
	f.Add(mustPack(f, new(dns.Msg).SetRcode(m, dns.RcodeRefused))[:12], false)
	m.SetEdns0(512, true)
	withEDNS := mustPack(f, m)

	s := dnsd.NewUnbound(dnsd.Config{})
	f.Fuzz(func(t *testing.T, response []byte, fit bool) {
		for query, size := range map[*[]byte]int{&plain: 512, &withEDNS: 512} {
			before := slices.Clone(response)
			reply := s.AnswerFrom(*query, response, fit)
			if s.Stats().Panics > 0 {
				t.Fatal("it panicked")
			}
			if !slices.Equal(before, response) {
				t.Fatal("the response, which others wait for too, was changed")
			}
			if reply == nil {
				continue
			}
			if kept, forwarded := s.RespondUDP(*query, nil); !forwarded && (len(kept) > size || new(dns.Msg).Unpack(reply) == nil && new(dns.Msg).Unpack(kept) != nil) {
				t.Fatalf("from the cache the client is told %x", kept)
			}
			s.FlushCache()
			if len(reply) > size || reply[0] != (*query)[0] || reply[1] != (*query)[1] || reply[2]&0x80 == 0 {
				t.Fatalf("the client is told %x", reply)
			}
		}
	})
}
