package dnsd_test

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dnsd"
)

// learnt is what s knows of its one upstream server.
func learnt(t *testing.T, s *dnsd.Server) string {
	t.Helper()
	all := s.Upstreams()
	if len(all) != 1 {
		t.Fatal(all)
	}
	return fmt.Sprintf("case %s, edns %s, tcp %s", all[0].Case, all[0].EDNS, all[0].TCP)
}

// TestCaseWithoutTCP: that a server loses the case of letters, and can't be asked over
// TCP either, is found out once and not for each name; after a while it is found out again.
func TestCaseWithoutTCP(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		var overTCP atomic.Int32
		startResolver(t, upstream, func(proto string, q *dns.Msg) [][]byte {
			if proto == "tcp" {
				overTCP.Add(1)
				return nil
			}
			q.Question[0].Name = strings.ToLower(q.Question[0].Name)
			return pack(answerA(q, "198.51.100.1"))
		})
		cfg := loConfig(t)
		writeResolvConf(t, cfg.ResolvConf, upstream)
		s := open(t, cfg, time.Second, patience)
		for i := range 6 {
			r := ask(t, "udp", gateway, question(fmt.Sprintf("host%d.abcdefghijklmnopqrstuvwxyz.example.com.", i), dns.TypeA))
			if lastOctet(r) != "1" {
				t.Error(r)
			}
		}
		if n := overTCP.Load(); n != 1 {
			t.Errorf("asked %d times over TCP", n)
		}
		if got := learnt(t, s); got != "case lost, edns unknown, tcp fails" {
			t.Error(got)
		}
	})
}

// truncated is a resolver that cuts each answer and says nothing over TCP, where it counts
// questions.
func truncated(t *testing.T, overTCP *atomic.Int32, prepare func(m *dns.Msg)) {
	t.Helper()
	startResolver(t, upstream, func(proto string, q *dns.Msg) [][]byte {
		if proto == "tcp" {
			overTCP.Add(1)
			return nil
		}
		m := answerA(q, "198.51.100.1")
		prepare(m)
		return pack(m)
	})
}

// TestTruncatedWithoutTCP: that a server can't be asked over TCP for what it cuts costs one
// wait; after that clients learn at once that the answer is cut.
func TestTruncatedWithoutTCP(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		var overTCP atomic.Int32
		truncated(t, &overTCP, func(m *dns.Msg) { m.Truncated = true })
		cfg := loConfig(t)
		writeResolvConf(t, cfg.ResolvConf, upstream)
		s := open(t, cfg, time.Second, patience)
		for i := range 4 {
			for _, proto := range []string{"udp", "tcp"} {
				r := ask(t, proto, gateway, question(fmt.Sprintf("big%d.example.com.", i), dns.TypeA))
				if !r.Truncated || lastOctet(r) != "1" {
					t.Error(r)
				}
			}
		}
		if n := overTCP.Load(); n != 1 {
			t.Errorf("asked %d times over TCP", n)
		}
		if got := learnt(t, s); got != "case kept, edns unknown, tcp fails" {
			t.Error(got)
		}
	})
}

// TestBurstWithoutTCP: of many names that are asked for at a time one finds out for all that
// a server can't be asked over TCP, whether it cuts answers or loses the case of letters.
func TestBurstWithoutTCP(t *testing.T) {
	for name, prepare := range map[string]func(m *dns.Msg){
		"cut":  func(m *dns.Msg) { m.Truncated = true },
		"case": func(m *dns.Msg) { m.Question[0].Name = strings.ToLower(m.Question[0].Name) },
	} {
		t.Run(name, func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				var overTCP atomic.Int32
				truncated(t, &overTCP, prepare)
				cfg := loConfig(t)
				writeResolvConf(t, cfg.ResolvConf, upstream)
				open(t, cfg, 2*time.Second, patience)
				var asking sync.WaitGroup
				for i := range 20 {
					asking.Go(func() {
						r, err := tryAsk("udp", gateway, question(fmt.Sprintf("host%d.abcdefghijklmnopqrstuvwxyz.example.com.", i), dns.TypeA))
						if err != nil || lastOctet(r) != "1" {
							t.Errorf("%v, %v", r, err)
						}
					})
				}
				asking.Wait()
				if n := overTCP.Load(); n != 1 {
					t.Errorf("asked %d times over TCP", n)
				}
			})
		})
	}
}

// TestLearntInFlight: a question that waits for a server that drops queries with EDNS is
// asked without as soon as another has found that out.
func TestLearntInFlight(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dropped := make(chan struct{}, 1)
		startResolver(t, upstream, func(_ string, q *dns.Msg) [][]byte {
			switch {
			case q.IsEdns0() == nil:
				return pack(answerA(q, "198.51.100.1"))
			case strings.EqualFold(q.Question[0].Name, "dropped.example.com."):
				dropped <- struct{}{}
				return nil
			}
			return rcode(dns.RcodeFormatError)("", q)
		})
		cfg := loConfig(t)
		writeResolvConf(t, cfg.ResolvConf, upstream)
		start(t, cfg)
		first := make(chan *dns.Msg)
		go func() {
			r, _ := tryAsk("udp", gateway, question("dropped.example.com.", dns.TypeA).SetEdns0(1232, false))
			first <- r
		}()
		<-dropped
		if r := ask(t, "udp", gateway, question("refused.example.com.", dns.TypeA).SetEdns0(1232, false)); lastOctet(r) != "1" {
			t.Error(r)
		}
		if r := <-first; r == nil || lastOctet(r) != "1" {
			t.Errorf("the question that waited: %v", r)
		}
	})
}

// TestWithoutEDNS: a server that does not know EDNS, or whose firewall does not, is
// asked without.
func TestWithoutEDNS(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		for i, answer := range []func(q *dns.Msg) *dns.Msg{
			func(q *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(q, dns.RcodeFormatError) },
			func(q *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(q, dns.RcodeNotImplemented) },
			func(q *dns.Msg) *dns.Msg {
				m := new(dns.Msg).SetRcode(q, dns.RcodeFormatError)
				m.Question = nil
				return m
			},
			func(*dns.Msg) *dns.Msg { return nil },
		} {
			var with, without atomic.Int32
			ip := fmt.Sprintf("127.0.0.%d", 100+i)
			startResolver(t, ip, func(_ string, q *dns.Msg) [][]byte {
				if q.IsEdns0() == nil {
					without.Add(1)
					return pack(answerA(q, "198.51.100.1"))
				}
				with.Add(1)
				if m := answer(q); m != nil {
					return pack(m)
				}
				return nil
			})
			s := withoutEDNS(t, ip, i)
			before := with.Load()
			r := ask(t, "udp", fmt.Sprintf("192.0.2.%d", 201+i), question("again.example.com.", dns.TypeA).SetEdns0(1232, true))
			if r.Rcode != dns.RcodeSuccess || r.IsEdns0() == nil || with.Load() != before || without.Load() != 2 {
				t.Errorf("%d: asked %d times with EDNS before it was known, %d after, %d without: %v", i, before, with.Load()-before, without.Load(), r)
			}
			if got := learnt(t, s); !strings.HasSuffix(got, "edns lost, tcp unknown") {
				t.Errorf("%d: %s", i, got)
			}
		}
	})
}

// withoutEDNS asks the server at ip a first time, with EDNS.
func withoutEDNS(t *testing.T, ip string, i int) *dnsd.Server {
	t.Helper()
	gateway := fmt.Sprintf("192.0.2.%d", 201+i)
	nstest.IP(t, "addr add "+gateway+"/24 dev lo")
	cfg := dnsd.Config{Interface: "lo", Addrs: []netip.Addr{addr(gateway)}, ResolvConf: filepath.Join(t.TempDir(), "resolv.conf")}
	writeResolvConf(t, cfg.ResolvConf, ip)
	s, err := dnsd.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.SetTiming(patience, 20*time.Millisecond, 20*time.Millisecond)
	run(t, s)
	r := ask(t, "udp", gateway, question("www.example.com.", dns.TypeA).SetEdns0(1232, true))
	if diff := cmp.Diff("NOERROR (ra) "+wwwIs1, gist(r)); diff != "" || r.IsEdns0() == nil {
		t.Errorf("%d: %s%v", i, diff, r)
	}
	return s
}

// answerOn answers what is asked of ip in a namespace with one address, after before.
func answerOn(t *testing.T, ns *nstest.NS, ip, answer string, before func(q *dns.Msg, client net.Addr)) {
	t.Helper()
	c := listenIn(t, ns, ip)
	go func() {
		buf := make([]byte, 512)
		for {
			n, client, err := c.ReadFrom(buf)
			q := new(dns.Msg)
			if err != nil || q.Unpack(buf[:n]) != nil {
				return
			}
			before(q, client)
			_, _ = c.WriteTo(pack(answerA(q, answer))[0], client)
		}
	}()
}

// listenIn opens port 53 of ip in a namespace until the test ends.
func listenIn(t *testing.T, ns *nstest.NS, ip string) net.PacketConn {
	t.Helper()
	var c net.PacketConn
	err := ns.Do(func() (err error) {
		c, err = net.ListenPacket("udp", net.JoinHostPort(ip, "53"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestForgedByGuest: a guest answers what the host asks beyond the bridge, under the
// server's name and with all that only the server can know. A server on the bridge is heard.
func TestForgedByGuest(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cfg := bridgeConfig(t)
		g := guest(t)
		lan := nstest.NewLAN(t)
		nstest.Exec(t, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.virbr0.rp_filter=0")
		g.IP("addr add " + nstest.LANHost + "/32 dev eth0")
		forger := listenIn(t, g, nstest.LANHost)
		answerOn(t, lan, nstest.LANHost, "198.51.100.1", func(q *dns.Msg, client net.Addr) {
			if _, err := forger.WriteTo(pack(answerA(q, "198.51.100.66"))[0], client); err != nil {
				t.Error(err)
			}
		})
		answerOn(t, g, "192.168.122.50", "198.51.100.2", func(*dns.Msg, net.Addr) {})
		writeResolvConf(t, cfg.ResolvConf, nstest.LANHost)
		s := start(t, cfg)
		for i := range 3 {
			name := fmt.Sprintf("www%d.example.com.", i)
			if r := ask(t, "udp", "192.168.122.1", question(name, dns.TypeA)); lastOctet(r) != "1" {
				t.Errorf("the forged answer was taken: %v", r)
			}
		}
		if n := s.Stats().UpstreamIgnored; n != 3 {
			t.Errorf("%d answers were ignored", n)
		}
		cfg.Forwarders = []dnsd.Forwarder{{Addr: addr("192.168.122.50")}}
		if err := s.Reconfigure(cfg); err != nil {
			t.Fatal(err)
		}
		if r := ask(t, "udp", "192.168.122.1", question("www.example.com.", dns.TypeA)); lastOctet(r) != "2" {
			t.Errorf("a guest that is the network's forwarder: %v", r)
		}
	})
}

// TestOutageIsNotEDNS: a server that was not heard for a while, or takes long to find a name, is
// not taken for one that does not know EDNS because it answers what is asked without.
func TestOutageIsNotEDNS(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		var names sync.Map // *atomic.Int32: how often each was asked
		startResolver(t, upstream, func(_ string, q *dns.Msg) [][]byte {
			name := strings.ToLower(q.Question[0].Name)
			times, _ := names.LoadOrStore(name, new(atomic.Int32))
			if n := times.(*atomic.Int32).Add(1); n < 3 && strings.HasPrefix(name, "slow") {
				return nil
			}
			return pack(answerA(q, "198.51.100.1"))
		})
		cfg := loConfig(t)
		writeResolvConf(t, cfg.ResolvConf, upstream)
		s, err := dnsd.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		s.SetTiming(patience, 50*time.Millisecond, 50*time.Millisecond)
		run(t, s)
		for _, name := range []string{"slow1.example.com.", "slow2.example.com.", "slow3.example.com.", "www.example.com."} {
			r := ask(t, "udp", gateway, question(name, dns.TypeA).SetEdns0(1232, true))
			if got := learnt(t, s); lastOctet(r) != "1" || got != "case kept, edns works, tcp unknown" {
				t.Errorf("%s: %s, %v", name, got, r)
			}
		}
	})
}

// TestCaseOfOneDomain: of a server that keeps the case of letters, but not in a domain that it asks
// another one for, the answers for that come over TCP, and nothing else is known of it.
func TestCaseOfOneDomain(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		var overTCP, failing atomic.Int32
		startResolver(t, upstream, func(proto string, q *dns.Msg) [][]byte {
			m := answerA(q, "198.51.100.1")
			if proto == "tcp" {
				if overTCP.Add(1); failing.Load() > 0 {
					return nil
				}
				m = answerA(q, "198.51.100.2")
			}
			if lower := strings.ToLower(q.Question[0].Name); strings.HasSuffix(lower, "corp.test.") {
				m.Question[0].Name, m.Answer[0].Header().Name = lower, lower
			}
			return pack(m)
		})
		cfg := loConfig(t)
		writeResolvConf(t, cfg.ResolvConf, upstream)
		s := open(t, cfg, 2*time.Second, patience)
		for name, want := range map[string]string{
			"www.abcdefghijklmnopqrstuvwxyz.example.com.": "1",
			"one.abcdefghijklmnopqrstuvwxyz.corp.test.":   "2",
			"two.abcdefghijklmnopqrstuvwxyz.corp.test.":   "2",
		} {
			if name != "www.abcdefghijklmnopqrstuvwxyz.example.com." {
				ask(t, "udp", gateway, question("known.abcdefghijklmnopqrstuvwxyz.example.com.", dns.TypeA))
			}
			if r := ask(t, "udp", gateway, question(name, dns.TypeA)); lastOctet(r) != want {
				t.Errorf("%s: %v", name, r)
			}
		}
		if got := learnt(t, s); got != "case kept, edns unknown, tcp works" || overTCP.Load() != 2 {
			t.Errorf("%s, asked %d times over TCP", got, overTCP.Load())
		}
		failing.Store(1) // what nobody confirms is not believed
		if r := ask(t, "udp", gateway, question("three.abcdefghijklmnopqrstuvwxyz.corp.test.", dns.TypeA)); r.Rcode != dns.RcodeServerFailure {
			t.Error(r)
		}
	})
}
