package dnsd_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dnsd"
)

// TestKnownNames: upstream servers know nothing, and say so. What is known here, and what
// stands above it, exists all the same, for every type of record.
func TestKnownNames(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		up := startResolver(t, upstream, rcode(dns.RcodeNameError))
		cfg := loConfig(t)
		addRecords(&cfg)
		cfg.NoForward, cfg.LocalOnly, cfg.NoPlainNames = false, false, false
		cfg.Static = append(cfg.Static, dnsd.Host{Name: "api.cluster.example", Addr: addr("192.0.2.30")})
		cfg.Addresses = append(cfg.Addresses, dnsd.Address{Domain: "apps.cluster.example", Addr: addr("192.0.2.31")})
		writeResolvConf(t, cfg.ResolvConf, upstream)
		s := start(t, cfg)
		s.SetHost(dnsd.Host{Name: "guest", Addr: addr("192.0.2.50")})
		for range 2 { // the second time from the cache
			for name, want := range map[string]int{
				"note.": 0, "note.vm.example.": 0, "note.example.com.": 0, "example.com.": 0, "com.": 0,
				"_ldap._tcp.example.com.": 0, "_tcp.example.com.": 0, "_udp.vm.example.": 0,
				"vm.example.": 0, "in.vm.example.": 0, "guest.vm.example.": 0, "guest.": 0,
				"cluster.example.": 0, "api.cluster.example.": 0, "apps.cluster.example.": 0, "a.b.apps.cluster.example.": 0,
				"apps.example.": 0, "wild.example.": 0, "x.wild.example.": 0, "example.": 0, "2.0.192.in-addr.arpa.": 0,
				"192.in-addr.arpa.": 0,
				"nobody.":           dns.RcodeNameError, "nobody.vm.example.": dns.RcodeNameError, "nobody.example.com.": dns.RcodeNameError,
				"apps.cluster.example.com.": dns.RcodeNameError, "b.com.": dns.RcodeNameError,
			} {
				for _, qtype := range []uint16{dns.TypeHTTPS, dns.TypeSVCB, dns.TypeMX, dns.TypeCAA} {
					r := ask(t, "udp", gateway, question(name, qtype))
					if r.Rcode != want || len(r.Answer) != 0 {
						t.Errorf("%s %s: %s", name, dns.TypeToString[qtype], gist(r))
					}
				}
			}
		}
		if up.asked() == 0 {
			t.Error("nothing was forwarded")
		}
		got := gist(ask(t, "udp", gateway, question("a.apps.cluster.example.", dns.TypeA)))
		if diff := cmp.Diff("NOERROR (aa ra) a.apps.cluster.example. 0 IN A 192.0.2.31", got); diff != "" {
			t.Error(diff)
		}
	})
}

// TestNXDOMAINOfAnAlias: an alias of upstream's whose target does not exist is not
// turned around: what does not exist is another name.
func TestNXDOMAINOfAnAlias(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		startResolver(t, upstream, func(_ string, q *dns.Msg) [][]byte {
			m := new(dns.Msg).SetRcode(q, dns.RcodeNameError)
			m.Answer = []dns.RR{rr(q.Question[0].Name + " 60 IN CNAME gone.example.net.")}
			return pack(m)
		})
		cfg := loConfig(t)
		cfg.TXT = []dnsd.TXT{{Name: "www.example.com", Value: "x"}}
		writeResolvConf(t, cfg.ResolvConf, upstream)
		start(t, cfg)
		if r := ask(t, "udp", gateway, question("www.example.com.", dns.TypeA)); r.Rcode != dns.RcodeNameError || len(r.Answer) != 1 {
			t.Error(r)
		}
	})
}

// TestGuestNamedAsZone: a guest that is called as a zone of the root is has that name's addresses.
// What the zone says of itself, and of how it is signed, comes from those who know.
func TestGuestNamedAsZone(t *testing.T) {
	cfg := dnsd.Config{Network: "n", Addrs: []netip.Addr{addr(gateway)}, Domain: "vm.example", CNAMEs: []dnsd.CNAME{{Name: "www.vm.example", Target: "com"}}}
	s, alone := dnsd.NewUnbound(cfg), dnsd.NewUnbound(dnsd.Config{Network: "n", Addrs: cfg.Addrs, NoForward: true})
	for _, one := range []*dnsd.Server{s, alone} {
		one.SetHost(dnsd.Host{Name: "com", Addr: addr("192.0.2.66")})
	}
	for _, c := range []struct {
		name      string
		qtype     uint16
		forwarded bool
	}{
		{"com.", dns.TypeDS, true},
		{"com.", dns.TypeDNSKEY, true},
		{"com.", dns.TypeNS, true},
		{"com.", dns.TypeSOA, true},
		{"com.", dns.TypeNSEC3PARAM, true},
		{"www.vm.example.", dns.TypeSOA, true},
		{"com.", dns.TypeA, false},
		{"com.", dns.TypeAAAA, false},
		{"com.", dns.TypeANY, false},
		{"com.vm.example.", dns.TypeSOA, false},
		{"com.vm.example.", dns.TypeNS, false},
	} {
		raw, err := question(c.name, c.qtype).Pack()
		if err != nil {
			t.Fatal(err)
		}
		if _, forwarded := s.RespondUDP(raw, nil); forwarded != c.forwarded {
			t.Errorf("%s %s: forwarded: %t", c.name, dns.TypeToString[c.qtype], forwarded)
		}
		if _, forwarded := alone.RespondUDP(raw, nil); forwarded {
			t.Errorf("%s %s: forwarded by an isolated network", c.name, dns.TypeToString[c.qtype])
		}
	}
}

// TestNegativeOfEscaped: the SOA record of a negative answer has the name of its zone, whatever
// octets are in that.
func TestNegativeOfEscaped(t *testing.T) {
	s := dnsd.NewUnbound(dnsd.Config{
		Network: "n", Addrs: []netip.Addr{addr(gateway)}, NoForward: true,
		Static: []dnsd.Host{{Name: "a/b.example.com", Addr: addr("192.0.2.7")}, {Name: "a*c@d.+e!.example.com", Addr: addr("192.0.2.8")}},
		CNAMEs: []dnsd.CNAME{{Name: "www.example.net", Target: "a/b.example.com"}},
	})
	for name, want := range map[string]string{
		"a/b.example.com.":        "a/b.example.com.",
		`a*c\@d.+e!.example.com.`: `a*c\@d.+e!.example.com.`,
		"www.example.net.":        "a/b.example.com.",
	} {
		for _, qtype := range []uint16{dns.TypeAAAA, dns.TypeNS} {
			raw, err := question(name, qtype).SetEdns0(1232, false).Pack()
			if err != nil {
				t.Fatal(err)
			}
			reply, _ := s.RespondUDP(raw, nil)
			r := new(dns.Msg)
			if err := r.Unpack(reply); err != nil {
				t.Errorf("%s %s: %v", name, dns.TypeToString[qtype], err)
				continue
			}
			for _, one := range r.Ns {
				if soa := one.(*dns.SOA); soa.Hdr.Name != want || soa.Ns != want || soa.Mbox != "hostmaster."+want {
					t.Errorf("%s: %v", name, soa)
				}
			}
			if ns := len(r.Answer) - 1; qtype == dns.TypeNS && ns >= 0 {
				if ns, ok := r.Answer[ns].(*dns.NS); ok && ns.Ns != want {
					t.Errorf("%s: %v", name, ns)
				}
			}
		}
	}
}

// TestStaticAlias: a guest can't take the name of a static alias.
func TestStaticAlias(t *testing.T) {
	s := dnsd.NewUnbound(dnsd.Config{
		Network: "n", Addrs: []netip.Addr{addr(gateway)}, NoForward: true, Domain: "vm.example",
		Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
		Static:   []dnsd.Host{{Name: "db", Addr: addr("192.0.2.7")}},
		CNAMEs:   []dnsd.CNAME{{Name: "www.vm.example", Target: "db.vm.example"}},
		TXT:      []dnsd.TXT{{Name: "note.vm.example", Value: "x"}},
	})
	s.SetHost(dnsd.Host{Name: "www", Addr: addr("192.0.2.50")})
	s.SetHost(dnsd.Host{Name: "note", Addr: addr("192.0.2.51")})
	for name, want := range map[string]string{"192.0.2.50": "-", "192.0.2.51": "note.vm.example."} {
		if got := respond(t, s, question(reverseName(t, name), dns.TypePTR)); got != want {
			t.Errorf("%s is called %s, want %s", name, got, want)
		}
	}
	if got := respond(t, s, question("www.vm.example.", dns.TypeANY)); got != "db.vm.example." {
		t.Errorf("the alias is %s", got)
	}
}
