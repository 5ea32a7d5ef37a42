package dnsd_test

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dnsd"
)

// outside knows some names of example.net, one of them an alias of a name of ours.
func outside(_ string, q *dns.Msg) [][]byte {
	name := q.Question[0].Name
	m := answerA(q, "198.51.100.1")
	switch key := dns.CanonicalName(name); {
	case key == "big.example.net.":
		for i := range 100 {
			m.Answer = append(m.Answer, rr(fmt.Sprintf("%s 60 IN A 198.51.100.%d", name, i+2)))
		}
	case key == "www.example.net." && q.Question[0].Qtype != dns.TypeA:
		m.Answer, m.Ns = nil, []dns.RR{rr("example.net. 60 IN SOA ns.example.net. h.example.net. 1 2 3 4 60")}
	case key == "cdn.example.net.":
		m.Answer = []dns.RR{rr(name + " 60 IN CNAME edge.example.net."), rr("edge.example.net. 60 IN A 198.51.100.9")}
	case key == "fails.example.net.":
		m = new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
	case key != "www.example.net.":
		m = new(dns.Msg).SetRcode(q, dns.RcodeNameError)
	}
	return pack(m)
}

// TestAliasOutside: what an alias of ours leads to is asked of upstream servers, once.
func TestAliasOutside(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		up := startResolver(t, upstream, outside)
		cfg := loConfig(t)
		cfg.Domain, cfg.LocalOnly, cfg.NoPlainNames = "vm.example", true, true
		cfg.Static = append(cfg.Static, dnsd.Host{Name: "host", Addr: addr("192.0.2.5")})
		cfg.CNAMEs = []dnsd.CNAME{
			{Name: "far", Target: "www.example.net", TTL: 60e9},
			{Name: "farther", Target: "far.vm.example"},
			{Name: "cdn", Target: "CDN.example.net"},
			{Name: "gone", Target: "gone.example.net"},
			{Name: "fails", Target: "fails.example.net"},
			{Name: "big", Target: "big.example.net"},
			{Name: "*.apps.example", Target: "www.example.net"},
			{Name: "plain", Target: "nobody"},
			{Name: "lo", Target: "localhost"},
			{Name: "a", Target: "b"},
			{Name: "b", Target: "c"},
			{Name: "c", Target: "a"},
		}
		for i := range 12 {
			cfg.CNAMEs = append(cfg.CNAMEs, dnsd.CNAME{Name: fmt.Sprintf("c%d", i), Target: fmt.Sprintf("c%d", i+1)})
		}
		writeResolvConf(t, cfg.ResolvConf, upstream)
		start(t, cfg)
		asked := 0
		for range 2 {
			for _, proto := range []string{"udp", "tcp"} {
				for _, c := range []struct {
					name  string
					qtype uint16
					want  string
				}{
					{"far.vm.example.", dns.TypeA, "NOERROR (aa ra) far.vm.example. 60 IN CNAME www.example.net. www.example.net. 60 IN A 198.51.100.1"},
					{"far.", dns.TypeAAAA, "NOERROR (aa ra) far. 60 IN CNAME www.example.net."},
					{"far.", dns.TypeCNAME, "NOERROR (aa ra) far. 60 IN CNAME www.example.net."},
					{"farther.", dns.TypeA, "NOERROR (aa ra) far.vm.example. 60 IN CNAME www.example.net. farther. 0 IN CNAME far.vm.example. www.example.net. 60 IN A 198.51.100.1"},
					{"cdn.", dns.TypeA, "NOERROR (aa ra) CDN.example.net. 60 IN CNAME edge.example.net. cdn. 0 IN CNAME CDN.example.net. edge.example.net. 60 IN A 198.51.100.9"},
					{"x.apps.example.", dns.TypeA, "NOERROR (aa ra) www.example.net. 60 IN A 198.51.100.1 x.apps.example. 0 IN CNAME www.example.net."},
					{"gone.", dns.TypeA, "NXDOMAIN (aa ra) gone. 0 IN CNAME gone.example.net."},
					{"fails.", dns.TypeA, "SERVFAIL (aa ra) fails. 0 IN CNAME fails.example.net."},
					{"plain.", dns.TypeA, "NXDOMAIN (aa ra) plain. 0 IN CNAME nobody."},
					{"lo.", dns.TypeA, "NOERROR (aa ra) lo. 0 IN CNAME localhost. localhost. 0 IN A 127.0.0.1"},
					{"a.", dns.TypeA, "NOERROR (aa ra) a. 0 IN CNAME b. b. 0 IN CNAME c. c. 0 IN CNAME a."},
				} {
					r := ask(t, proto, gateway, question(c.name, c.qtype))
					for _, one := range r.Answer { // from the cache it may be less
						if one.Header().Ttl > 50 {
							one.Header().Ttl = 60
						}
					}
					if diff := cmp.Diff(c.want, gist(r)); diff != "" {
						t.Errorf("%s %s over %s (-want +got):\n%s", c.name, dns.TypeToString[c.qtype], proto, diff)
					}
				}
			}
			if asked == 0 {
				asked = up.asked()
			}
		}
		if again := up.asked() - asked; again > 4 { // two failures and NXDOMAINs without SOA record, over two protocols
			t.Errorf("of what is in the cache upstream was asked %d times", again)
		}
		checkLong(t)
	})
}

// checkLong asks for what is long: an answer, and a chain of aliases.
func checkLong(t *testing.T) {
	t.Helper()
	r := ask(t, "udp", gateway, question("big.", dns.TypeA))
	if r.Compress = true; !r.Truncated || r.Len() > 512 || len(r.Answer) < 10 {
		t.Errorf("big over udp: %v, %d octets", r, r.Len())
	}
	if r := ask(t, "tcp", gateway, question("big.", dns.TypeA)); r.Truncated || len(r.Answer) != 102 {
		t.Errorf("big over tcp: %d records", len(r.Answer))
	}
	if r := ask(t, "udp", gateway, question("c0.", dns.TypeA)); len(r.Answer) != 8 || r.Rcode != dns.RcodeSuccess {
		t.Errorf("a long chain: %v", r)
	}
}

// TestRotation: of several addresses of a name each comes first, ours and those that are
// kept of an upstream's.
func TestRotation(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		startResolver(t, upstream, func(_ string, q *dns.Msg) [][]byte {
			m := answerA(q, "198.51.100.1")
			for i := 2; i <= 3; i++ {
				m.Answer = append(m.Answer, rr(fmt.Sprintf("%s %d IN A 198.51.100.%d", q.Question[0].Name, 60*i, i)))
			}
			m.Compress = true
			return pack(m)
		})
		cfg := loConfig(t)
		for i := range 3 {
			cfg.Static = append(cfg.Static, dnsd.Host{Name: "api", Addr: addr(fmt.Sprintf("192.0.2.%d", 11+i)), TTL: 1e9})
		}
		writeResolvConf(t, cfg.ResolvConf, upstream)
		start(t, cfg)
		for _, name := range []string{"api.", "api.example.com."} {
			first, want := make(map[string]int), gist(ask(t, "udp", gateway, question(name, dns.TypeA)))
			for range 100 {
				r := ask(t, "udp", gateway, question(name, dns.TypeA))
				if len(r.Answer) != 3 {
					t.Fatal(r)
				}
				first[r.Answer[0].(*dns.A).A.String()]++
				for _, one := range r.Answer { // each keeps its own TTL
					if ip := one.(*dns.A).A.To4(); ip[0] == 198 {
						one.Header().Ttl = (one.Header().Ttl + 59) / 60 * 60
					}
				}
				if diff := cmp.Diff(want, gist(r)); diff != "" {
					t.Fatal(diff)
				}
			}
			if len(first) != 3 {
				t.Errorf("%s: first came %v", name, first)
			}
		}
	})
}

// TestDS: whether the domain above says that ours is not signed is for that to say.
func TestDS(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		var proofs atomic.Int32
		startResolver(t, upstream, func(_ string, q *dns.Msg) [][]byte {
			m := new(dns.Msg).SetReply(q)
			if q.Question[0].Qtype == dns.TypeDS {
				proofs.Add(1)
				m.Ns = []dns.RR{rr("example. 60 IN SOA ns.example. h.example. 1 2 3 4 60")}
			}
			return pack(m)
		})
		cfg := loConfig(t)
		cfg.Domain, cfg.LocalOnly = "vm.example", true
		writeResolvConf(t, cfg.ResolvConf, upstream)
		start(t, cfg)
		for _, name := range []string{"vm.example.", "2.0.192.in-addr.arpa."} {
			r := ask(t, "udp", gateway, question(name, dns.TypeDS))
			if r.Rcode != dns.RcodeSuccess || len(r.Ns) != 1 || r.Ns[0].Header().Name != "example." || r.Authoritative {
				t.Errorf("%s: %v", name, r)
			}
		}
		if proofs.Load() != 2 {
			t.Errorf("the parent was asked %d times", proofs.Load())
		}
		if r := ask(t, "udp", gateway, question("gateway.vm.example.", dns.TypeDS)); r.Rcode != dns.RcodeSuccess || r.Ns[0].Header().Name != "vm.example." || proofs.Load() != 2 {
			t.Errorf("within the domain: %v", r)
		}
	})
}

// TestAliasOfHost: a dynamic host's other names follow its addresses, are nobody else's, and go
// when they are taken back; a static name and a change of the configuration keep their order.
func TestAliasOfHost(t *testing.T) {
	cfg := dnsd.Config{
		NoForward: true, Domain: "vm.example", LocalOnly: true, Addrs: []netip.Addr{addr(gateway)},
		TXT: []dnsd.TXT{{Name: "vm1", Value: "x"}},
	}
	s := dnsd.NewUnbound(cfg)
	is := func(name string, qtype uint16, want string) {
		t.Helper()
		reply, _ := s.RespondUDP(mustPack(t, question(name, qtype)), nil)
		r := new(dns.Msg)
		if err := r.Unpack(reply); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, gist(r)); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", name, dns.TypeToString[qtype], diff)
		}
	}
	s.SetHost(dnsd.Host{Name: "www", Addr: addr("192.0.2.66")}) // somebody else's wish
	s.SetAlias("WWW", "Vm1")
	is("www.", dns.TypeA, "NOERROR (aa) www. 0 IN CNAME vm1.vm.example.")
	is("66.2.0.192.in-addr.arpa.", dns.TypePTR, "REFUSED ()")
	s.SetHost(dnsd.Host{Name: "vm1", Addr: addr("192.0.2.11")})
	is("www.", dns.TypeA, "NOERROR (aa) vm1.vm.example. 0 IN A 192.0.2.11 www. 0 IN CNAME vm1.vm.example.")
	is("Www.VM.example.", dns.TypeA, "NOERROR (aa) Www.VM.example. 0 IN CNAME vm1.vm.example. vm1.vm.example. 0 IN A 192.0.2.11")
	is("www.vm.example.", dns.TypeTXT, `NOERROR (aa) vm1.vm.example. 0 IN TXT "x" www.vm.example. 0 IN CNAME vm1.vm.example.`)
	is("11.2.0.192.in-addr.arpa.", dns.TypePTR, "NOERROR (aa) 11.2.0.192.in-addr.arpa. 0 IN PTR vm1.vm.example.")
	s.SetHost(dnsd.Host{Name: "vm1", Addr: addr("192.0.2.12")})
	is("www.", dns.TypeA, "NOERROR (aa) vm1.vm.example. 0 IN A 192.0.2.12 www. 0 IN CNAME vm1.vm.example.")

	cfg.Domain = "new.example"
	if err := s.Reconfigure(cfg); err != nil {
		t.Fatal(err)
	}
	is("www.", dns.TypeA, "NOERROR (aa) vm1.new.example. 0 IN A 192.0.2.12 www. 0 IN CNAME vm1.new.example.")
	cfg.Static = []dnsd.Host{{Name: "www", Addr: addr("192.0.2.5")}}
	if err := s.Reconfigure(cfg); err != nil {
		t.Fatal(err)
	}
	is("www.", dns.TypeA, "NOERROR (aa) www. 0 IN A 192.0.2.5")
	cfg.Static = nil
	if err := s.Reconfigure(cfg); err != nil {
		t.Fatal(err)
	}
	is("www.", dns.TypeCNAME, "NOERROR (aa) www. 0 IN CNAME vm1.new.example.")
	s.SetAlias("www", "")
	is("www.", dns.TypeA, "NOERROR (aa) www. 0 IN A 192.0.2.66")
}
