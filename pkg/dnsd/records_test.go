package dnsd_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dnsd"
)

// addRecords gives cfg one record of each kind that a document can have.
func addRecords(cfg *dnsd.Config) {
	cfg.NoForward = true
	cfg.Domain, cfg.LocalOnly, cfg.NoPlainNames = "vm.example", true, true
	cfg.Static = append(cfg.Static,
		dnsd.Host{Name: "host", Addr: addr("192.0.2.5")},
		dnsd.Host{Name: "alias", Addr: addr("192.0.2.5")},
		dnsd.Host{Name: "deep.in.vm.example", Addr: addr("192.0.2.6")},
	)
	cfg.TXT = []dnsd.TXT{
		{Name: "note", Value: "hello,world"},
		{Name: "note.example.com", Value: `"hello, world",`},
		{Name: "host", Value: "a host"},
		{Name: "guest", Value: "a guest's"},
		{Name: "long", Value: strings.Repeat("x", 300)},
	}
	cfg.SRV = []dnsd.SRV{
		{Service: "sip", Protocol: "udp"},
		{Service: "ldap", Protocol: "tcp", Domain: "example.com", Target: "dc.example.com", Port: 389, Priority: 10, Weight: 20},
		{Service: "ldap", Protocol: "tcp", Domain: "example.com", Target: "dc2.example.com", Port: 389, Priority: 20},
	}
	cfg.CNAMEs = []dnsd.CNAME{
		{Name: "www", Target: "HOST.vm.example", TTL: time.Minute},
		{Name: "far", Target: "www.example.net"},
		{Name: "first", Target: "www"},
		{Name: "gone", Target: "nobody.vm.example"},
		{Name: "ring", Target: "ring.vm.example"},
		{Name: "to-guest", Target: "guest"},
		{Name: "*.apps.example", Target: "host", TTL: time.Minute},
		{Name: "*.in.vm.example", Target: "guest"},
		{Name: "*.self.example", Target: "x.self.example"},
	}
	cfg.Records = []dnsd.Record{
		{Name: "own", Type: "A", Value: "192.0.2.40", TTL: time.Minute},
		{Name: "own", Type: "A", Value: "192.0.2.41", TTL: time.Minute},
		{Name: "own", Type: "HTTPS", Value: "1 . alpn=h2", TTL: time.Minute},
		{Name: "own.vm.example", Type: "MX", Value: "10 host.vm.example"},
		{Name: "policy.example.org", Type: "CAA", Value: `0 issue "ca.example"`},
		{Name: "text.vm.example", Type: "TXT", Value: `a, "b"; c`},
		{Name: "*.kube.vm.example", Type: "AAAA", Value: "2001:db8::40"},
		{Name: "*.kube.vm.example", Type: "TXT", Value: "any"},
		{Name: "known.kube.vm.example", Type: "CNAME", Value: "own.vm.example"},
		{Name: "www", Type: "TXT", Value: "an alias has none"},
	}
	cfg.LocalDomains = []string{"lan.example", "no.apps.example"}
	cfg.Addresses = []dnsd.Address{
		{Domain: "wild.example", Addr: addr("192.0.2.7")},
		{Domain: "wild.example", Addr: addr("192.0.2.8")},
		{Domain: "only6.wild.example", Addr: addr("2001:db8::7")},
	}
}

// recordCases are those of the network of addRecords with the guest "guest".
var recordCases = []localCase{
	{"note.", dns.TypeTXT, 0, []string{`note. 0 IN TXT "hello" "world"`}, "", "aa"},
	{"note.vm.example.", dns.TypeTXT, 0, []string{`note.vm.example. 0 IN TXT "hello" "world"`}, "", "aa"},
	{"note.example.com.", dns.TypeTXT, 0, []string{`note.example.com. 0 IN TXT "hello, world" ""`}, "", "aa"},
	{"long.", dns.TypeTXT, 0, []string{`long. 0 IN TXT "` + strings.Repeat("x", 255) + `" "` + strings.Repeat("x", 45) + `"`}, "", "aa"},
	{"host.", dns.TypeTXT, 0, []string{`host. 0 IN TXT "a host"`}, "", "aa"},
	{"host.", dns.TypeANY, 0, []string{`host. 0 IN A 192.0.2.5`}, "", "aa"},
	{"note.vm.example.", dns.TypeA, 0, nil, "vm.example.", "aa"},
	{"note.", dns.TypeA, 0, nil, "", "aa"},
	{"note.example.com.", dns.TypeA, 0, nil, "note.example.com.", "aa"},
	{"example.com.", dns.TypeA, 0, nil, "example.com.", "aa"}, // names stand below it
	{"_tcp.example.com.", dns.TypeHTTPS, 0, nil, "_tcp.example.com.", "aa"},
	{"nobody.example.com.", dns.TypeA, dns.RcodeRefused, nil, "", ""},

	{"guest.", dns.TypeTXT, 0, []string{`guest. 0 IN TXT "a guest's"`}, "", "aa"},
	{"guest.vm.example.", dns.TypeA, 0, []string{`guest.vm.example. 0 IN A 192.0.2.50`}, "", "aa"},

	{"_sip._udp.vm.example.", dns.TypeSRV, 0, []string{"_sip._udp.vm.example. 0 IN SRV 0 0 1 ."}, "", "aa"},
	{"_sip._udp.vm.example.", dns.TypeTXT, 0, nil, "vm.example.", "aa"},
	{"_udp.vm.example.", dns.TypeA, 0, nil, "vm.example.", "aa"}, // names stand below it
	{"_tcp.vm.example.", dns.TypeA, dns.RcodeNameError, nil, "vm.example.", "aa"},
	{"_LDAP._tcp.Example.com.", dns.TypeSRV, 0, []string{
		"_LDAP._tcp.Example.com. 0 IN SRV 10 20 389 dc.example.com.",
		"_LDAP._tcp.Example.com. 0 IN SRV 20 0 389 dc2.example.com.",
	}, "", "aa"},

	{"5.2.0.192.in-addr.arpa.", dns.TypePTR, 0, []string{"5.2.0.192.in-addr.arpa. 0 IN PTR host.vm.example."}, "", "aa"},
	{"alias.vm.example.", dns.TypeA, 0, []string{"alias.vm.example. 0 IN A 192.0.2.5"}, "", "aa"},
	{"deep.in.vm.example.", dns.TypeA, 0, []string{"deep.in.vm.example. 0 IN A 192.0.2.6"}, "", "aa"},
	{"in.vm.example.", dns.TypeA, 0, nil, "vm.example.", "aa"},
	{"6.2.0.192.in-addr.arpa.", dns.TypePTR, 0, []string{"6.2.0.192.in-addr.arpa. 0 IN PTR deep.in.vm.example."}, "", "aa"},

	{"www.vm.example.", dns.TypeA, 0, []string{"HOST.vm.example. 0 IN A 192.0.2.5", "www.vm.example. 60 IN CNAME HOST.vm.example."}, "", "aa"},
	{"www.", dns.TypeAAAA, 0, []string{"www. 60 IN CNAME HOST.vm.example."}, "vm.example.", "aa"},
	{"www.", dns.TypeCNAME, 0, []string{"www. 60 IN CNAME HOST.vm.example."}, "", "aa"},
	{"www.", dns.TypeANY, 0, []string{"www. 60 IN CNAME HOST.vm.example."}, "", "aa"},
	{"first.", dns.TypeTXT, 0, []string{`HOST.vm.example. 0 IN TXT "a host"`, "first. 0 IN CNAME www.", "www. 60 IN CNAME HOST.vm.example."}, "", "aa"},
	{"to-guest.", dns.TypeA, 0, []string{"guest. 0 IN A 192.0.2.50", "to-guest. 0 IN CNAME guest."}, "", "aa"},
	{"far.", dns.TypeA, 0, []string{"far. 0 IN CNAME www.example.net."}, "", "aa"},
	{"gone.", dns.TypeA, dns.RcodeNameError, []string{"gone. 0 IN CNAME nobody.vm.example."}, "vm.example.", "aa"},

	{"a.b.Apps.example.", dns.TypeA, 0, []string{"a.b.Apps.example. 60 IN CNAME host.", "host. 0 IN A 192.0.2.5"}, "", "aa"},
	{"a.apps.example.", dns.TypeAAAA, 0, []string{"a.apps.example. 60 IN CNAME host."}, "host.", "aa"},
	{"a.apps.example.", dns.TypeCNAME, 0, []string{"a.apps.example. 60 IN CNAME host."}, "", "aa"},
	{"apps.example.", dns.TypeA, 0, nil, "apps.example.", "aa"},
	{"a.apps.example.", dns.TypeHTTPS, 0, []string{"a.apps.example. 60 IN CNAME host."}, "host.", "aa"},
	{"a.no.apps.example.", dns.TypeA, dns.RcodeNameError, nil, "no.apps.example.", "aa"},
	{"any.in.vm.example.", dns.TypeA, 0, []string{"any.in.vm.example. 0 IN CNAME guest.", "guest. 0 IN A 192.0.2.50"}, "", "aa"},
	{"a.self.example.", dns.TypeA, 0, []string{"a.self.example. 0 IN CNAME x.self.example."}, "", "aa"},

	{"own.", dns.TypeA, 0, []string{"own. 60 IN A 192.0.2.40", "own. 60 IN A 192.0.2.41"}, "", "aa"},
	{"OWN.vm.example.", dns.TypeHTTPS, 0, []string{`OWN.vm.example. 60 IN HTTPS 1 . alpn="h2"`}, "", "aa"},
	{"own.vm.example.", dns.TypeMX, 0, []string{"own.vm.example. 0 IN MX 10 host.vm.example."}, "", "aa"},
	{"own.vm.example.", dns.TypeAAAA, 0, nil, "vm.example.", "aa"},
	{"40.2.0.192.in-addr.arpa.", dns.TypePTR, dns.RcodeNameError, nil, "2.0.192.in-addr.arpa.", "aa"},
	{"policy.example.org.", dns.TypeCAA, 0, []string{`policy.example.org. 0 IN CAA 0 issue "ca.example"`}, "", "aa"},
	{"policy.example.org.", dns.TypeA, 0, nil, "policy.example.org.", "aa"},
	{"text.", dns.TypeTXT, 0, []string{`text. 0 IN TXT "a, \"b\"; c"`}, "", "aa"},
	{"a.b.kube.vm.example.", dns.TypeAAAA, 0, []string{"a.b.kube.vm.example. 0 IN AAAA 2001:db8::40"}, "", "aa"},
	{"a.kube.vm.example.", dns.TypeTXT, 0, []string{`a.kube.vm.example. 0 IN TXT "any"`}, "", "aa"},
	{"a.kube.vm.example.", dns.TypeA, 0, nil, "vm.example.", "aa"},
	{"kube.vm.example.", dns.TypeAAAA, 0, nil, "vm.example.", "aa"},
	{"known.kube.vm.example.", dns.TypeMX, 0, []string{"known.kube.vm.example. 0 IN CNAME own.vm.example.", "own.vm.example. 0 IN MX 10 host.vm.example."}, "", "aa"},
	{"www.vm.example.", dns.TypeTXT, 0, []string{`HOST.vm.example. 0 IN TXT "a host"`, "www.vm.example. 60 IN CNAME HOST.vm.example."}, "", "aa"},

	{"lan.example.", dns.TypeA, 0, nil, "lan.example.", "aa"},
	{"x.lan.example.", dns.TypeTXT, dns.RcodeNameError, nil, "lan.example.", "aa"},
	{"wild.example.", dns.TypeA, 0, []string{"wild.example. 0 IN A 192.0.2.7", "wild.example. 0 IN A 192.0.2.8"}, "", "aa"},
	{"a.b.WILD.example.", dns.TypeA, 0, []string{"a.b.WILD.example. 0 IN A 192.0.2.7", "a.b.WILD.example. 0 IN A 192.0.2.8"}, "", "aa"},
	{"a.wild.example.", dns.TypeAAAA, 0, nil, "wild.example.", "aa"},
	{"x.only6.wild.example.", dns.TypeAAAA, 0, []string{"x.only6.wild.example. 0 IN AAAA 2001:db8::7"}, "", "aa"},
	{"x.only6.wild.example.", dns.TypeA, 0, nil, "only6.wild.example.", "aa"},
	{"a.wild.example.", dns.TypeTXT, 0, nil, "wild.example.", "aa"},
	{"wild.example.", dns.TypeHTTPS, 0, nil, "wild.example.", "aa"},
	{"mild.example.", dns.TypeA, dns.RcodeRefused, nil, "", ""},
}

// TestRecords asks for records of every kind.
func TestRecords(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cfg := loConfig(t)
		addRecords(&cfg)
		s := start(t, cfg)
		s.SetHost(dnsd.Host{Name: "guest", Addr: addr("192.0.2.50")})
		s.SetHost(dnsd.Host{Name: "host", Addr: addr("192.0.2.51")}) // is taken
		for _, proto := range []string{"udp", "tcp"} {
			for _, c := range recordCases {
				c.check(t, proto, gateway)
			}
		}
		if r := ask(t, "udp", gateway, question("ring.", dns.TypeA)); len(r.Answer) != 1 || r.Rcode != dns.RcodeSuccess {
			t.Errorf("an alias of itself: %v", r)
		}
	})
}

// TestHostTTL: a dynamic host has the network's TTL, or one of its own.
func TestHostTTL(t *testing.T) {
	s := dnsd.NewUnbound(dnsd.Config{NoForward: true, HostTTL: time.Minute})
	s.SetHost(dnsd.Host{Name: "vm1", Addr: addr("192.0.2.11")})
	s.SetHost(dnsd.Host{Name: "vm2", Addr: addr("192.0.2.12"), TTL: time.Hour})
	for name, want := range map[string]uint32{"vm1.": 60, "vm2.": 3600} {
		reply, _ := s.RespondUDP(mustPack(t, question(name, dns.TypeA)), nil)
		r := new(dns.Msg)
		if err := r.Unpack(reply); err != nil || len(r.Answer) != 1 || r.Answer[0].Header().Ttl != want {
			t.Errorf("%s: %v (%v)", name, r, err)
		}
	}
}

// TestExpiry: nobody is told to keep a name for longer than its lease lasts.
func TestExpiry(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	s := dnsd.NewUnbound(dnsd.Config{NoForward: true})
	s.SetClock(func() time.Time { return now })
	s.SetHost(dnsd.Host{Name: "vm1", Addr: addr("192.0.2.11"), TTL: time.Minute, Expiry: now.Add(90 * time.Second)})
	s.SetHost(dnsd.Host{Name: "vm2", Addr: addr("192.0.2.12"), TTL: time.Minute})
	s.SetHost(dnsd.Host{Name: "vm3", Addr: addr("192.0.2.13"), Expiry: now.Add(time.Hour)})
	ttl := func(name string, qtype uint16) int {
		reply, _ := s.RespondUDP(mustPack(t, question(name, qtype)), nil)
		r := new(dns.Msg)
		if err := r.Unpack(reply); err != nil || len(r.Answer) != 1 {
			t.Fatalf("%s: %v, %v", name, r, err)
		}
		return int(r.Answer[0].Header().Ttl)
	}
	for _, step := range []struct {
		after time.Duration
		want  []int // of vm1, its PTR, vm2, vm3
	}{
		{0, []int{60, 60, 60, 0}},
		{29 * time.Second, []int{60, 60, 60, 0}},
		{45 * time.Second, []int{45, 45, 60, 0}},
		{89 * time.Second, []int{1, 1, 60, 0}},
		{time.Hour, []int{0, 0, 60, 0}},
	} {
		now = time.Unix(1_000_000, 0).Add(step.after)
		got := []int{ttl("vm1.", dns.TypeA), ttl("11.2.0.192.in-addr.arpa.", dns.TypePTR), ttl("vm2.", dns.TypeA), ttl("vm3.", dns.TypeA)}
		if diff := cmp.Diff(step.want, got); diff != "" {
			t.Errorf("after %v (-want +got):\n%s", step.after, diff)
		}
	}
}

// TestForwarders has a server for everything, and others for domains.
func TestForwarders(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const third = "127.0.0.13"
		startResolver(t, upstream, always("198.51.100.1"))
		startResolver(t, upstream2, always("198.51.100.2"))
		startResolverAt(t, third, 5300, always("198.51.100.3"))
		cfg := loConfig(t)
		cfg.Domain, cfg.LocalOnly = "vm.example", true
		writeResolvConf(t, cfg.ResolvConf, upstream)
		s := start(t, cfg)
		byDomain := []dnsd.Forwarder{
			{Domain: "corp.example", Addr: addr(third), Port: 5300},
			{Domain: "Lab.corp.example", Addr: addr(upstream2)},
			{Domain: "open.lab.corp.example"},
			{Domain: "there.vm.example", Addr: addr(upstream2)},
			{Domain: "loop.example", Addr: addr(gateway)},
		}
		byAddr := append([]dnsd.Forwarder{{Addr: addr(third), Port: 5300}, {Addr: addr("::ffff:192.0.2.1")}}, byDomain...)
		for _, c := range []struct {
			what      string
			set       []dnsd.Forwarder
			noForward bool
			want      map[string]string // the answer's last octet, or the rcode
		}{
			{"by domain", byDomain, false, map[string]string{
				"www.example.com.": "1", "corp.example.": "3", "a.b.CORP.example.": "3", "x.lab.corp.example.": "2",
				"open.lab.corp.example.": "1", "x.vm.example.": "NXDOMAIN", "x.there.vm.example.": "2", "notcorp.example.": "1",
				"x.loop.example.": "REFUSED",
			}},
			{"for all", byAddr, false, map[string]string{
				"www.example.com.": "3", "x.lab.corp.example.": "2", "open.lab.corp.example.": "3",
			}},
			{"isolated", byDomain, true, map[string]string{
				"www.example.com.": "REFUSED", "x.lab.corp.example.": "2", "open.lab.corp.example.": "REFUSED",
			}},
			{"none", nil, false, map[string]string{"www.example.com.": "1", "corp.example.": "1"}},
		} {
			cfg.Forwarders, cfg.NoForward = c.set, c.noForward
			if err := s.Reconfigure(cfg); err != nil {
				t.Fatal(err)
			}
			got := make(map[string]string)
			for name := range c.want {
				got[name] = lastOctet(ask(t, "udp", gateway, question(name, dns.TypeA)))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c.what, diff)
			}
		}
	})
}

// lastOctet is that of the address that m answers, or its rcode.
func lastOctet(m *dns.Msg) string {
	if len(m.Answer) == 0 {
		return dns.RcodeToString[m.Rcode]
	}
	ip := dns.Field(m.Answer[0], 1)
	return ip[strings.LastIndex(ip, ".")+1:]
}
