package dnsd_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dnsd"
)

// TestConcurrency changes hosts and configuration while names are asked. A name
// that always somebody has is always answered, with an address of somebody who
// claims it.
func TestConcurrency(t *testing.T) {
	cfg := dnsd.Config{Addrs: []netip.Addr{addr(gateway)}, NoForward: true}
	s := dnsd.NewUnbound(cfg)
	s.SetHost(dnsd.Host{Name: "shared", Addr: addr("192.0.2.10")})
	const rounds = 300
	var writers, readers sync.WaitGroup
	for i := range 4 {
		writers.Go(func() {
			a := addr(fmt.Sprintf("192.0.2.%d", 20+i))
			for n := range rounds {
				s.SetHost(dnsd.Host{Name: "shared", Addr: a})
				s.SetHost(dnsd.Host{Name: fmt.Sprintf("own%d", n), Addr: a})
				s.DeleteAddr(a)
			}
		})
	}
	writers.Go(func() {
		for n := range rounds {
			c := cfg
			c.Domain = []string{"", "vm.example"}[n%2]
			if err := s.Reconfigure(c); err != nil {
				t.Error(err)
			}
		}
	})
	done := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if got := respond(t, s, question("shared.", dns.TypeA)); !strings.HasPrefix(got, "192.0.2.") {
					t.Errorf("the shared name is %s", got)
					return
				}
			}
		})
	}
	writers.Wait()
	close(done)
	readers.Wait()
	if got := respond(t, s, question("shared.", dns.TypeA)); got != "192.0.2.10" {
		t.Errorf("in the end the shared name is %s", got)
	}
	if got := respond(t, s, question("20.2.0.192.in-addr.arpa.", dns.TypePTR)); got != "-" {
		t.Errorf("in the end 192.0.2.20 is %s", got)
	}
}

// TestLimiter shares ten places.
func TestLimiter(t *testing.T) {
	l := dnsd.NewSlots(10)
	held := make(map[string][]*dnsd.Slot)
	var lost []string
	take := func(ip string) int {
		n := 0
		for p := l.Acquire(addr(ip), func() { lost = append(lost, ip) }); p != nil; n++ {
			held[ip] = append(held[ip], p)
			p = l.Acquire(addr(ip), func() { lost = append(lost, ip) })
		}
		return n
	}
	if a, b, c := take("192.0.2.1"), take("192.0.2.2"), take("192.0.2.3"); a != 5 || b != 3 || c != 1 {
		t.Errorf("shares %d, %d, %d", a, b, c)
	}
	for _, p := range held["192.0.2.1"] {
		l.Release(p)
	}
	if n := take("192.0.2.4"); n != 3 || l.InUse() != 7 || len(lost) > 0 {
		t.Errorf("the share of a fourth: %d; in use %d; lost by %v", n, l.InUse(), lost)
	}
	// There is room for more clients than places: who uses his longest ago loses it.
	for i := range 2 {
		take(fmt.Sprintf("192.0.2.%d", 10+i))
	}
	l.Use(held["192.0.2.2"][0])
	l.Use(held["192.0.2.2"][1])
	if n := take("192.0.2.20") + take("192.0.2.21"); n != 2 || l.InUse() != 10 {
		t.Errorf("two more take %d; in use %d", n, l.InUse())
	}
	if diff := cmp.Diff([]string{"192.0.2.2", "192.0.2.3"}, lost); diff != "" {
		t.Errorf("lost by (-want +got):\n%s", diff)
	}
	for _, p := range held["192.0.2.3"] {
		l.Release(p) // is lost already
	}
	if n := l.InUse(); n != 10 {
		t.Errorf("in use %d", n)
	}
}

// BenchmarkRespond is a query from its octets to those of its answer, on a
// network of 1000 guests.
func BenchmarkRespond(b *testing.B) {
	s := dnsd.NewUnbound(dnsd.Config{
		Domain:    "vm.example",
		LocalOnly: true,
		NoForward: true,
		Prefixes:  []netip.Prefix{netip.MustParsePrefix("198.18.0.0/16")},
	})
	a := addr("198.18.1.1")
	for i := range 1000 {
		s.SetHost(dnsd.Host{Name: fmt.Sprintf("vm%d", i), Addr: a})
		a = a.Next()
	}
	withEDNS := question("vm500.vm.example.", dns.TypeA)
	withEDNS.SetEdns0(1232, false)
	for _, c := range []struct {
		name string
		m    *dns.Msg
	}{
		{"A", question("vm500.vm.example.", dns.TypeA)},
		{"A-EDNS", withEDNS},
		{"AAAA-NODATA", question("vm500.vm.example.", dns.TypeAAAA)},
		{"PTR", question("1.1.18.198.in-addr.arpa.", dns.TypePTR)},
		{"NXDOMAIN", question("nobody.vm.example.", dns.TypeA)},
	} {
		b.Run(c.name, func(b *testing.B) {
			raw, buf, respond := mustPack(b, c.m), make([]byte, 1232), s.Responder()
			b.ReportAllocs()
			for b.Loop() {
				if reply, _ := respond(raw, buf); reply == nil {
					b.Fatal("no answer")
				}
			}
		})
	}
}

// TestAllocations: a name that is known, or in the cache, costs none, even if its answer
// is too long for the client.
func TestAllocations(t *testing.T) {
	s := dnsd.NewUnbound(dnsd.Config{Domain: "vm.example", LocalOnly: true})
	s.SetHost(dnsd.Host{Name: "vm1", Addr: addr("192.0.2.11")})
	www := question("www.example.com.", dns.TypeA)
	s.AnswerFrom(mustPack(t, www), mustPack(t, answerA(www, "198.51.100.1")), true)
	big := question("big.example.com.", dns.TypeA)
	much := answerA(big, "198.51.100.1")
	for range 99 {
		much.Answer = append(much.Answer, much.Answer[0])
	}
	much.Compress = true
	s.AnswerFrom(mustPack(t, big), mustPack(t, much), true)
	for _, m := range []*dns.Msg{question("vm1.vm.example.", dns.TypeA), www, big} {
		raw, buf, respond := mustPack(t, m), make([]byte, 1232), s.Responder()
		if n := testing.AllocsPerRun(100, func() {
			if reply, _ := respond(raw, buf); reply == nil {
				t.Fatal("no answer")
			}
		}); n > 0 {
			t.Errorf("%s: %v allocations", m.Question[0].Name, n)
		}
	}
}

// BenchmarkSetHost is a lease of one network of 10000.
func BenchmarkSetHost(b *testing.B) {
	s := dnsd.NewUnbound(dnsd.Config{})
	hosts := make([]dnsd.Host, 10000)
	a := addr("198.18.0.1")
	for i := range hosts {
		hosts[i] = dnsd.Host{Name: fmt.Sprintf("vm%d", i), Addr: a}
		s.SetHost(hosts[i])
		a = a.Next()
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		s.SetHost(hosts[n%len(hosts)])
		n++
	}
}

// barrier is a gate of the names that begin with "gate", which opens for all of them at once.
type barrier struct{ sync.WaitGroup }

func (b *barrier) Watches(name string) bool { return strings.HasPrefix(name, "gate") }

func (b *barrier) Open(string, []dnsd.Lifetime) {
	b.Done()
	b.Wait()
}

// TestAnswersTogether has an upstream server answer many questions at the same time: each client
// gets the answer to its own, be it sent at once, by a TCP connection, or when a gate lets it pass.
func TestAnswersTogether(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		kinds := []string{"udp", "tcp", "gate"}
		const each = 16 // questions; a TCP connection has room for them
		host := func(name string) string {
			kind, n, _ := strings.Cut(strings.TrimSuffix(strings.ToLower(name), ".example.com."), "-")
			return fmt.Sprintf("198.18.%d.%s", slices.Index(kinds, kind), n)
		}
		var asked sync.WaitGroup
		asked.Add(len(kinds) * each)
		startResolver(t, upstream, func(_ string, q *dns.Msg) [][]byte {
			asked.Done()
			asked.Wait()
			return pack(answerA(q, host(q.Question[0].Name)))
		})
		cfg, gate := loConfig(t), new(barrier)
		gate.Add(each)
		cfg.Gate = gate
		writeResolvConf(t, cfg.ResolvConf, upstream)
		start(t, cfg)
		overUDP, err := net.Dial("udp", net.JoinHostPort(gateway, "53"))
		if err != nil {
			t.Fatal(err)
		}
		defer overUDP.Close()
		overTCP := dialTCP(t)
		for _, kind := range kinds {
			for n := range each {
				query := mustPack(t, question(fmt.Sprintf("%s-%d.example.com.", kind, n), dns.TypeA))
				c := overUDP
				if kind == "tcp" {
					c, query = overTCP, frame(query)
				}
				if _, err := c.Write(query); err != nil {
					t.Fatal(err)
				}
			}
		}
		answered := make(map[string]bool)
		note := func(m *dns.Msg) {
			name := m.Question[0].Name
			answered[name] = true
			if want := host(name); len(m.Answer) != 1 || m.Answer[0].Header().Name != name || m.Answer[0].(*dns.A).A.String() != want {
				t.Errorf("%s, which has %s, got %v", name, want, m.Answer)
			}
		}
		for range each {
			note(readFrame(t, overTCP))
		}
		buf := make([]byte, dns.MaxMsgSize)
		for range (len(kinds) - 1) * each {
			note(readDatagram(t, overUDP, buf))
		}
		if len(answered) != len(kinds)*each {
			t.Errorf("%d of %d questions are answered", len(answered), len(kinds)*each)
		}
	})
}
