package dnsd_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dnsd"
)

// localCase is a question and what is to be answered.
type localCase struct {
	name  string
	qtype uint16
	rcode int
	want  []string // answer section
	soa   string   // owner in the authority section
	flags string   // aa and ra
}

// plainCases are those of the network of loConfig with the dynamic hosts of
// addHosts, not forwarded.
var plainCases = []localCase{
	{"vm1.", dns.TypeA, dns.RcodeSuccess, []string{"vm1. 0 IN A 192.0.2.11"}, "", "aa"},
	{"VM1.", dns.TypeA, dns.RcodeSuccess, []string{"VM1. 0 IN A 192.0.2.11"}, "", "aa"},
	{"vm1.", dns.TypeAAAA, dns.RcodeSuccess, []string{"vm1. 0 IN AAAA 2001:db8::11"}, "", "aa"},
	{"vm1.", dns.TypeMX, dns.RcodeSuccess, nil, "vm1.", "aa"},
	{"vm1.", dns.TypeANY, dns.RcodeSuccess, []string{"vm1. 0 IN A 192.0.2.11"}, "", "aa"},
	{"vm2.", dns.TypeAAAA, dns.RcodeSuccess, nil, "vm2.", "aa"},
	{"gateway.", dns.TypeA, dns.RcodeSuccess, []string{"gateway. 0 IN A 192.0.2.1"}, "", "aa"},
	{"gateway.", dns.TypeAAAA, dns.RcodeSuccess, []string{"gateway. 0 IN AAAA 2001:db8::1"}, "", "aa"},
	{"11.2.0.192.in-addr.arpa.", dns.TypePTR, dns.RcodeSuccess, []string{"11.2.0.192.in-addr.arpa. 0 IN PTR vm1."}, "", "aa"},
	{"11.2.0.192.in-addr.arpa.", dns.TypeANY, dns.RcodeSuccess, []string{"11.2.0.192.in-addr.arpa. 0 IN PTR vm1."}, "", "aa"},
	{"11.2.0.192.in-addr.arpa.", dns.TypeTXT, dns.RcodeSuccess, nil, "2.0.192.in-addr.arpa.", "aa"},
	{"1.2.0.192.IN-ADDR.arpa.", dns.TypePTR, dns.RcodeSuccess, []string{"1.2.0.192.IN-ADDR.arpa. 0 IN PTR gateway."}, "", "aa"},
	{"99.2.0.192.in-addr.arpa.", dns.TypePTR, dns.RcodeNameError, nil, "2.0.192.in-addr.arpa.", "aa"},
	{"2.0.192.in-addr.arpa.", dns.TypeNS, dns.RcodeSuccess, []string{"2.0.192.in-addr.arpa. 0 IN NS gateway."}, "", "aa"},
	{"2.0.192.in-addr.arpa.", dns.TypeSOA, dns.RcodeSuccess, []string{
		"2.0.192.in-addr.arpa. 0 IN SOA 2.0.192.in-addr.arpa. hostmaster.2.0.192.in-addr.arpa. 1 3600 600 86400 0",
	}, "", "aa"},
	{"2.0.192.in-addr.arpa.", dns.TypePTR, dns.RcodeSuccess, nil, "2.0.192.in-addr.arpa.", "aa"},
	{"lb._dns-sd._udp.0.2.0.192.in-addr.arpa.", dns.TypePTR, dns.RcodeNameError, nil, "2.0.192.in-addr.arpa.", "aa"},
	{"011.2.0.192.in-addr.arpa.", dns.TypePTR, dns.RcodeNameError, nil, "2.0.192.in-addr.arpa.", "aa"},
	{"1.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.", dns.TypePTR, dns.RcodeSuccess, []string{
		"1.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. 0 IN PTR vm1.",
	}, "", "aa"},
	{"2.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.", dns.TypePTR, dns.RcodeNameError, nil, "0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.", "aa"},
	{"192.in-addr.arpa.", dns.TypeTXT, dns.RcodeSuccess, nil, "192.in-addr.arpa.", "aa"}, // ours stands below it
	// Not ours.
	{"1.100.51.198.in-addr.arpa.", dns.TypePTR, dns.RcodeRefused, nil, "", ""},
	{"nobody.", dns.TypeA, dns.RcodeRefused, nil, "", ""},
	{"www.example.com.", dns.TypeA, dns.RcodeRefused, nil, "", ""},
	{"vm1.example.com.", dns.TypeA, dns.RcodeRefused, nil, "", ""},
	{".", dns.TypeNS, dns.RcodeRefused, nil, "", ""},
	// Refused whatever the name.
	{"vm1.", dns.TypeAXFR, dns.RcodeRefused, nil, "", ""},
	{"vm1.", dns.TypeIXFR, dns.RcodeRefused, nil, "", ""},
	{"vm1.", dns.TypeTKEY, dns.RcodeRefused, nil, "", ""},
	{"vm1.", dns.TypeOPT, dns.RcodeRefused, nil, "", ""},
	// Names that guests tried to have.
	{"localhost.", dns.TypeA, dns.RcodeSuccess, []string{"localhost. 0 IN A 127.0.0.1"}, "", "aa"},
	{"a.LOCALHOST.", dns.TypeAAAA, dns.RcodeSuccess, []string{"a.LOCALHOST. 0 IN AAAA ::1"}, "", "aa"},
	{"localhost.", dns.TypeTXT, dns.RcodeSuccess, nil, "localhost.", "aa"},
	{"nolocalhost.", dns.TypeA, dns.RcodeRefused, nil, "", ""},
	{"wpad.", dns.TypeA, dns.RcodeRefused, nil, "", ""},
	{"local.", dns.TypeA, dns.RcodeRefused, nil, "", ""},
	{"bank.example.com.", dns.TypeA, dns.RcodeRefused, nil, "", ""},
	{"bank.", dns.TypeA, dns.RcodeSuccess, []string{"bank. 0 IN A 192.0.2.23"}, "", "aa"},
	{"24.2.0.192.in-addr.arpa.", dns.TypePTR, dns.RcodeNameError, nil, "2.0.192.in-addr.arpa.", "aa"},
}

// domainCases are those of the same network with the domain vm.example to itself.
var domainCases = []localCase{
	{"vm1.", dns.TypeA, dns.RcodeSuccess, []string{"vm1. 0 IN A 192.0.2.11"}, "", "aa"},
	{"Vm1.vm.EXAMPLE.", dns.TypeA, dns.RcodeSuccess, []string{"Vm1.vm.EXAMPLE. 0 IN A 192.0.2.11"}, "", "aa"},
	{"vm2.vm.example.", dns.TypeAAAA, dns.RcodeSuccess, nil, "vm.example.", "aa"},
	{"11.2.0.192.in-addr.arpa.", dns.TypePTR, dns.RcodeSuccess, []string{"11.2.0.192.in-addr.arpa. 0 IN PTR vm1.vm.example."}, "", "aa"},
	{"nobody.vm.example.", dns.TypeA, dns.RcodeNameError, nil, "vm.example.", "aa"},
	{"a.vm1.vm.example.", dns.TypeA, dns.RcodeNameError, nil, "vm.example.", "aa"},
	{"VM.example.", dns.TypeSOA, dns.RcodeSuccess, []string{"VM.example. 0 IN SOA VM.example. hostmaster.VM.example. 1 3600 600 86400 0"}, "", "aa"},
	{"vm.example.", dns.TypeNS, dns.RcodeSuccess, []string{"vm.example. 0 IN NS gateway.vm.example."}, "", "aa"},
	{"vm.example.", dns.TypeDS, dns.RcodeSuccess, nil, "vm.example.", "aa"}, // nobody can be asked
	{"vm.example.", dns.TypeA, dns.RcodeSuccess, nil, "vm.example.", "aa"},
	{"2.0.192.in-addr.arpa.", dns.TypeNS, dns.RcodeSuccess, []string{"2.0.192.in-addr.arpa. 0 IN NS gateway.vm.example."}, "", "aa"},
	{"xvm.example.", dns.TypeA, dns.RcodeRefused, nil, "", ""},
	{"nobody.", dns.TypeA, dns.RcodeNameError, nil, "", "aa"},
	{"com.", dns.TypeNS, dns.RcodeRefused, nil, "", ""},
	{"www.other.example.", dns.TypeA, dns.RcodeSuccess, []string{"www.other.example. 30 IN A 192.0.2.80"}, "", "aa"},
	{"www.other.example.vm.example.", dns.TypeA, dns.RcodeNameError, nil, "vm.example.", "aa"},
	{"80.2.0.192.in-addr.arpa.", dns.TypePTR, dns.RcodeSuccess, []string{"80.2.0.192.in-addr.arpa. 30 IN PTR www.other.example."}, "", "aa"},
}

// addHosts gives s the dynamic hosts of the cases.
func addHosts(s *dnsd.Server) {
	for _, h := range []dnsd.Host{
		{Name: "vm1", Addr: addr("192.0.2.11")},
		{Name: "vm1", Addr: addr("2001:db8::11")},
		{Name: "vm2.vm.example", Addr: addr("::ffff:192.0.2.12")},
		{Name: "gateway", Addr: addr("192.0.2.20")},
		{Name: "localhost", Addr: addr("192.0.2.21")},
		{Name: "wpad", Addr: addr("192.0.2.22")},
		{Name: "local", Addr: addr("192.0.2.26")},
		{Name: "bank.example.com", Addr: addr("192.0.2.23")},
		{Name: "bad name", Addr: addr("192.0.2.24")},
		{Name: "evil", Addr: addr(gateway)},
		{Name: "", Addr: addr("192.0.2.25")},
	} {
		s.SetHost(h)
	}
}

// check asks server over proto and compares.
func (c localCase) check(t *testing.T, proto, server string) {
	t.Helper()
	r := ask(t, proto, server, question(c.name, c.qtype))
	got := localCase{name: r.Question[0].Name, qtype: r.Question[0].Qtype, rcode: r.Rcode, want: records(r.Answer)}
	if len(r.Ns) > 0 && r.Ns[0].Header().Rrtype == dns.TypeSOA {
		got.soa = r.Ns[0].Header().Name
	}
	got.flags = flags(r)
	if diff := cmp.Diff(c, got, cmp.AllowUnexported(localCase{})); diff != "" {
		t.Errorf("%s over %s (-want +got):\n%s", dns.TypeToString[c.qtype], proto, diff)
	}
}

func flags(m *dns.Msg) string {
	var set []string
	for _, f := range []struct {
		name string
		on   bool
	}{{"aa", m.Authoritative}, {"ra", m.RecursionAvailable}, {"tc", m.Truncated}, {"ad", m.AuthenticatedData}} {
		if f.on {
			set = append(set, f.name)
		}
	}
	return strings.Join(set, " ")
}

// TestLocal asks an isolated network what is local and what is not.
func TestLocal(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cfg := loConfig(t)
		cfg.NoForward = true
		s := start(t, cfg)
		addHosts(s)
		for _, server := range []string{gateway, gateway6} {
			for _, proto := range []string{"udp", "tcp"} {
				for _, c := range plainCases {
					c.check(t, proto, server)
				}
			}
		}
	})
}

// TestDomain changes the running server to one with a domain of its own.
func TestDomain(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cfg := loConfig(t)
		cfg.NoForward = true
		s := start(t, cfg)
		addHosts(s)
		cfg.Domain, cfg.LocalOnly, cfg.NoPlainNames = "vm.example", true, true
		cfg.Static = append(cfg.Static, dnsd.Host{Name: "www.other.example", Addr: addr("192.0.2.80"), TTL: 30e9})
		if err := s.Reconfigure(cfg); err != nil {
			t.Fatal(err)
		}
		for _, proto := range []string{"udp", "tcp"} {
			for _, c := range domainCases {
				c.check(t, proto, gateway)
			}
		}
		cfg.Port = 5353
		if err := s.Reconfigure(cfg); err == nil {
			t.Error("Reconfigure took another port")
		}
	})
}

func reverseName(t *testing.T, ip string) string {
	t.Helper()
	name, err := dns.ReverseAddr(ip)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// respond is the data of the first record of the answer to m.
func respond(t *testing.T, s *dnsd.Server, m *dns.Msg) string {
	t.Helper()
	raw, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	reply, _ := s.RespondUDP(raw, nil)
	r := new(dns.Msg)
	if err := r.Unpack(reply); err != nil || len(r.Answer) == 0 {
		return "-"
	}
	return fmt.Sprint(dns.Field(r.Answer[0], 1))
}

// seen is what a server says about three names and two addresses, "-" for
// nothing.
type seen struct {
	X, Y, Fixed string // address
	A, B        string // name of .11, .12
}

func look(t *testing.T, s *dnsd.Server) seen {
	t.Helper()
	a := func(name string) string { return respond(t, s, question(name, dns.TypeA)) }
	ptr := func(ip string) string { return respond(t, s, question(reverseName(t, ip), dns.TypePTR)) }
	return seen{X: a("x."), Y: a("y."), Fixed: a("fixed."), A: ptr("192.0.2.11"), B: ptr("192.0.2.12")}
}

// TestClaims is the life of names that more than one host wants.
func TestClaims(t *testing.T) {
	const a, b, f = "192.0.2.11", "192.0.2.12", "192.0.2.5"
	cfg := dnsd.Config{
		Addrs:     []netip.Addr{addr(gateway)},
		NoForward: true,
		Static:    []dnsd.Host{{Name: "fixed", Addr: addr(f)}},
	}
	s := dnsd.NewUnbound(cfg)
	set := func(name, ip string) func() {
		return func() { s.SetHost(dnsd.Host{Name: name, Addr: addr(ip)}) }
	}
	del := func(ip string) func() { return func() { s.DeleteAddr(addr(ip)) } }
	static := func(hosts ...dnsd.Host) func() {
		return func() {
			cfg.Static = hosts
			if err := s.Reconfigure(cfg); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, step := range []struct {
		what string
		do   func()
		want seen
	}{
		{"first claim", set("x", a), seen{a, "-", f, "x.", "-"}},
		{"last claim wins, loser has no record", set("X", b), seen{b, "-", f, "-", "X."}},
		{"loser renews: no flapping", set("x", a), seen{b, "-", f, "-", "X."}},
		{"winner renews", set("x", b), seen{b, "-", f, "-", "x."}},
		{"winner leaves: the other's claim holds", del(b), seen{a, "-", f, "x.", "-"}},
		{"renamed", set("y", a), seen{"-", a, f, "y.", "-"}},
		{"static name is not taken over", set("fixed", b), seen{"-", a, f, "y.", "-"}},
		{"static host goes, claim holds", static(), seen{"-", a, b, "y.", "fixed."}},
		{"static host comes back", static(cfg.Static...), seen{"-", a, f, "y.", "-"}},
		{"empty name forgets", set("", a), seen{"-", "-", f, "-", "-"}},
		{"static address keeps its name", set("x", f), seen{"-", "-", f, "-", "-"}},
		{"static address is not deleted", del(f), seen{"-", "-", f, "-", "-"}},
		{"deleting what is not there", del("192.0.2.99"), seen{"-", "-", f, "-", "-"}},
		{"no address at all", func() { s.SetHost(dnsd.Host{Name: "x"}) }, seen{"-", "-", f, "-", "-"}},
	} {
		step.do()
		if diff := cmp.Diff(step.want, look(t, s)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.what, diff)
		}
	}
}

// TestReverseZones asks for reverse names of subnets of all lengths, and of those beside them.
func TestReverseZones(t *testing.T) {
	s := dnsd.NewUnbound(dnsd.Config{
		Addrs:     []netip.Addr{addr(gateway)},
		NoForward: true,
		Static:    []dnsd.Host{{Name: "gateway", Addr: addr(gateway)}},
		Prefixes: []netip.Prefix{
			netip.MustParsePrefix("192.0.2.0/25"), netip.MustParsePrefix("192.168.120.0/22"), netip.MustParsePrefix("10.128.0.0/9"),
			netip.MustParsePrefix("198.51.100.4/31"), netip.MustParsePrefix("2001:db8:0:8::/61"), netip.MustParsePrefix("fd00::10/127"),
		},
	})
	const nodata, none, refused = "NOERROR", "NXDOMAIN", "REFUSED"
	for _, c := range []struct{ name, want string }{ // rcode and owner of the SOA record
		{"1.2.0.192.in-addr.arpa. PTR", nodata + " gateway."},
		{"9.2.0.192.in-addr.arpa. PTR", none + " 2.0.192.in-addr.arpa."},
		{"129.2.0.192.in-addr.arpa. PTR", refused}, // the other half
		{"2.0.192.in-addr.arpa. SOA", nodata + " SOA 2.0.192.in-addr.arpa."},
		{"2.0.192.in-addr.arpa. NS", nodata + " gateway."},
		{"2.0.192.in-addr.arpa. TXT", nodata + " 2.0.192.in-addr.arpa."},
		{"9.120.168.192.in-addr.arpa. PTR", none + " 120.168.192.in-addr.arpa."},
		{"9.123.168.192.in-addr.arpa. PTR", none + " 123.168.192.in-addr.arpa."},
		{"9.124.168.192.in-addr.arpa. PTR", refused},
		{"122.168.192.in-addr.arpa. SOA", nodata + " SOA 122.168.192.in-addr.arpa."},
		{"124.168.192.in-addr.arpa. SOA", refused},
		{"9.9.200.10.in-addr.arpa. PTR", none + " 200.10.in-addr.arpa."},
		{"9.200.10.in-addr.arpa. PTR", nodata + " 200.10.in-addr.arpa."},
		{"200.10.in-addr.arpa. NS", nodata + " gateway."},
		{"9.9.100.10.in-addr.arpa. PTR", refused},
		{"4.100.51.198.in-addr.arpa. PTR", none + " 100.51.198.in-addr.arpa."},
		{"6.100.51.198.in-addr.arpa. PTR", refused},
		{"100.51.198.in-addr.arpa. SOA", nodata + " SOA 100.51.198.in-addr.arpa."},
		{"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.f.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. PTR", none + " f.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa."},
		{"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.7.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. PTR", refused},
		{"8.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. SOA", nodata + " SOA 8.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa."},
		{"1.1." + strings.Repeat("0.", 28) + "d.f.ip6.arpa. PTR", none + " 1." + strings.Repeat("0.", 28) + "d.f.ip6.arpa."},
		{"2.1." + strings.Repeat("0.", 28) + "d.f.ip6.arpa. PTR", refused},
	} {
		name, qtype, _ := strings.Cut(c.name, " ")
		reply, _ := s.RespondUDP(mustPack(t, question(name, dns.StringToType[qtype])), nil)
		r := new(dns.Msg)
		if err := r.Unpack(reply); err != nil {
			t.Fatal(err)
		}
		got := dns.RcodeToString[r.Rcode]
		for _, one := range r.Ns {
			got += " " + one.Header().Name
		}
		for _, one := range r.Answer {
			if one.Header().Rrtype == dns.TypeSOA {
				got += " SOA " + one.Header().Name
			} else {
				got += " " + dns.Field(one, 1)
			}
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}
