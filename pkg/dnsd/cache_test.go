package dnsd_test

import (
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dnsd"
)

// clock is a clock that a test sets.
type clock struct{ nanos atomic.Int64 }

func newClock() *clock {
	c := new(clock)
	c.add(1_000_000 * time.Second)
	return c
}

func (c *clock) now() time.Time      { return time.Unix(0, c.nanos.Load()) }
func (c *clock) add(d time.Duration) { c.nanos.Add(int64(d)) }

// openAt is open with a clock.
func openAt(t *testing.T, cfg dnsd.Config, c *clock, total, stagger time.Duration) *dnsd.Server {
	t.Helper()
	s, err := dnsd.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.SetTiming(total, stagger, patience)
	s.SetClock(c.now)
	run(t, s)
	return s
}

// rr is a record as text.
func rr(text string) dns.RR {
	r, err := dns.NewRR(text)
	if err != nil {
		panic(err)
	}
	return r
}

// authority answers by the first label of the name.
func authority(_ string, q *dns.Msg) [][]byte {
	name := q.Question[0].Name
	label, _, _ := strings.Cut(strings.ToLower(name), ".")
	m := answerA(q, "198.51.100.1")
	m.Authoritative = true
	soa := rr("example.com. 100 IN SOA ns. hostmaster. 1 2 3 4 30")
	switch label {
	case "none":
		m.Rcode, m.Answer, m.Ns = dns.RcodeNameError, nil, []dns.RR{soa}
	case "empty":
		m.Answer, m.Ns = nil, []dns.RR{soa}
	case "alias":
		m.Answer = []dns.RR{rr(name + " 3600 IN CNAME other.example.com."), rr("other.example.com. 10 IN A 198.51.100.2")}
	case "nosoa":
		m.Rcode, m.Answer = dns.RcodeNameError, nil
	case "zero":
		m.Answer[0].Header().Ttl = 0
	case "negative":
		m.Answer[0].Header().Ttl = 1 << 31
	case "week":
		m.Answer[0].Header().Ttl = 7 * 86400
	case "fail":
		m = new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
	case "badcookie":
		m.SetEdns0(1232, false)
		m.Rcode = dns.RcodeBadCookie
	case "big":
		for i := range 60 {
			m.Answer = append(m.Answer, &dns.A{Hdr: *m.Answer[0].Header(), A: net.IPv4(198, 51, 100, byte(i))})
		}
	}
	m.Compress = true
	return pack(m)
}

// TestCache asks the same again after a while: what is told then, and how often
// the upstream was asked in all.
func TestCache(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		r := startResolver(t, upstream, authority)
		cfg := loConfig(t)
		writeResolvConf(t, cfg.ResolvConf, upstream)
		clock := newClock()
		s := openAt(t, cfg, clock, patience, patience)
		for _, c := range []struct {
			label string
			after time.Duration
			want  string // records
			asked int
		}{
			{"www", 0, "A 60", 1},
			{"www", 59*time.Second + 999*time.Millisecond, "A 1", 1},
			{"www", 60 * time.Second, "A 60", 2},
			{"alias", 9 * time.Second, "CNAME 3591 A 1", 1},
			{"alias", 10 * time.Second, "CNAME 3600 A 10", 2},
			{"none", 29 * time.Second, "NXDOMAIN SOA 71", 1},
			{"none", 30 * time.Second, "NXDOMAIN SOA 100", 2},
			{"empty", 29 * time.Second, "SOA 71", 1},
			{"empty", 30 * time.Second, "SOA 100", 2},
			{"nosoa", 0, "NXDOMAIN", 2},
			{"zero", 0, "A 0", 2},
			{"negative", 0, "A 2147483648", 2},
			{"week", 86399 * time.Second, "A 518401", 1},
			{"week", 86400 * time.Second, "A 604800", 2},
			{"fail", 0, "SERVFAIL", 2},
		} {
			s.FlushCache()
			before := r.asked()
			for i, spelling := range []string{c.label, strings.ToUpper(c.label)} {
				if i > 0 {
					clock.add(c.after)
				}
				m := question(spelling+".example.com.", dns.TypeA)
				got := ask(t, "udp", gateway, m)
				if i == 0 {
					continue
				}
				if diff := cmp.Diff(c.want, ttls(got)); diff != "" {
					t.Errorf("%s after %v (-want +got):\n%s", c.label, c.after, diff)
				}
				if got.Question[0].Name != m.Question[0].Name || len(got.Answer) > 0 && got.Answer[0].Header().Name != m.Question[0].Name {
					t.Errorf("%s is answered %v", spelling, got)
				}
				if kept := c.asked == 1; got.Authoritative == kept && got.Rcode != dns.RcodeServerFailure {
					t.Errorf("%s after %v: aa %v", c.label, c.after, got.Authoritative)
				}
			}
			if n := r.asked() - before; n != c.asked {
				t.Errorf("%s after %v: asked %d times, want %d", c.label, c.after, n, c.asked)
			}
		}
	})
}

// ttls are an answer's rcode, types and TTLs.
func ttls(m *dns.Msg) string {
	var words []string
	if m.Rcode != dns.RcodeSuccess {
		words = append(words, dns.RcodeToString[m.Rcode])
	}
	for _, rr := range append(m.Answer, m.Ns...) {
		words = append(words, fmt.Sprint(dns.TypeToString[rr.Header().Rrtype], " ", rr.Header().Ttl))
	}
	return strings.Join(words, " ")
}

// TestCacheKeys: what clients ask for differently is kept apart; what differs
// only in form is kept once.
func TestCacheKeys(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		r := startResolver(t, upstream, authority)
		cfg := loConfig(t)
		writeResolvConf(t, cfg.ResolvConf, upstream)
		s := start(t, cfg)
		asked := 0
		for _, c := range []struct {
			what  string
			proto string
			ask   func(*dns.Msg)
			new   int // times that the upstream is asked for it
		}{
			{"plain", "udp", func(*dns.Msg) {}, 1},
			{"over TCP", "tcp", func(*dns.Msg) {}, 0},
			{"spelled otherwise", "udp", func(m *dns.Msg) { m.Question[0].Name = "bIg.example.COM." }, 0},
			{"AD", "udp", func(m *dns.Msg) { m.AuthenticatedData = true }, 0},
			{"EDNS", "udp", func(m *dns.Msg) { m.SetEdns0(1232, false) }, 1},
			{"EDNS of another size, with options", "udp", func(m *dns.Msg) {
				m.SetEdns0(600, false)
				m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: 65001, Data: []byte("x")}}
			}, 0},
			{"DO", "udp", func(m *dns.Msg) { m.SetEdns0(1232, true) }, 1},
			{"CD", "udp", func(m *dns.Msg) { m.CheckingDisabled = true }, 1},
			{"DO and CD", "udp", func(m *dns.Msg) { m.SetEdns0(1232, true); m.CheckingDisabled = true }, 1},
			{"another type", "udp", func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeTXT }, 1},
			{"not recursive", "udp", func(m *dns.Msg) { m.RecursionDesired = false }, 1},
			{"an extended failure", "udp", func(m *dns.Msg) { m.Question[0].Name = "badcookie.example.com."; m.SetEdns0(1232, false) }, 2},
		} {
			m := question("big.example.com.", dns.TypeA)
			c.ask(m)
			for range 2 {
				got := ask(t, c.proto, gateway, m)
				size := 512
				if opt := m.IsEdns0(); opt != nil {
					size = int(opt.UDPSize())
				}
				got.Compress = true
				if c.proto == "udp" && got.Len() > size || (got.IsEdns0() != nil) != (m.IsEdns0() != nil) || got.CheckingDisabled != m.CheckingDisabled {
					t.Errorf("%s: %d octets, %v", c.what, got.Len(), got)
				}
			}
			if asked += c.new; r.asked() != asked {
				t.Errorf("%s: asked %d times, want %d", c.what, r.asked(), asked)
				asked = r.asked()
			}
		}
		if st := s.Stats(); st.CacheEntries != 7 || st.CacheBytes == 0 {
			t.Errorf("%+v", st)
		}
	})
}

// TestStale: while the upstream is down what was once known is told, for a day.
func TestStale(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		var state atomic.Value
		r := startResolver(t, upstream, func(proto string, q *dns.Msg) [][]byte {
			switch state.Load() {
			case "silent":
				return nil
			case "failing":
				return rcode(dns.RcodeServerFailure)(proto, q)
			case "gone":
				return rcode(dns.RcodeNameError)(proto, q)
			}
			return authority(proto, q)
		})
		cfg := loConfig(t)
		writeResolvConf(t, cfg.ResolvConf, upstream)
		clock := newClock()
		s := openAt(t, cfg, clock, 3*time.Second, 50*time.Millisecond)
		for _, step := range []struct {
			what  string
			after time.Duration
			state string
			want  string
			asks  bool
		}{
			{"fetched", 0, "", "A 60", true},
			{"silent: stale after a moment", time.Hour, "silent", "A 30", true},
			{"and at once, without asking, for a while", 29 * time.Second, "silent", "A 30", false},
			{"asked again then", 2 * time.Second, "failing", "A 30", true},
			{"back", 31 * time.Second, "", "A 60", true},
			{"the name is gone", 61 * time.Second, "gone", "NXDOMAIN", true},
			{"known no more: too old", 25 * time.Hour, "failing", "SERVFAIL", true},
		} {
			clock.add(step.after)
			state.Store(step.state)
			before := r.asked()
			// One that asks while the upstream thinks is told what is stale.
			nstest.Eventually(t, limit, step.what, func() error {
				if diff := cmp.Diff(step.want, ttls(ask(t, "udp", gateway, question("www.example.com.", dns.TypeA)))); diff != "" {
					return fmt.Errorf("-want +got:\n%s", diff)
				}
				return nil
			})
			nstest.Eventually(t, limit, "the flight has ended", func() error {
				if n := s.InFlight(); n > 0 {
					return fmt.Errorf("%d", n)
				}
				return nil
			})
			if asked := r.asked() > before; asked != step.asks {
				t.Errorf("%s: asked %v", step.what, asked)
			}
		}
	})
}

// TestFlush: other servers, other answers, at once.
func TestFlush(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		startResolver(t, upstream, always("198.51.100.1"))
		startResolver(t, upstream2, always("198.51.100.2"))
		cfg := loConfig(t)
		writeResolvConf(t, cfg.ResolvConf, upstream)
		clock := newClock()
		s := openAt(t, cfg, clock, patience, patience)
		www := func() string { return lastOctet(ask(t, "udp", gateway, question("www.example.com.", dns.TypeA))) }
		reconfigure := func(change func()) func() {
			return func() {
				change()
				if err := s.Reconfigure(cfg); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, step := range []struct {
			what   string
			do     func()
			want   string
			cached bool
		}{
			{"first", func() {}, "1", false},
			{"again", func() {}, "1", true},
			{"a reconfiguration of other things", reconfigure(func() { cfg.NoPlainNames = true }), "1", true},
			{"no servers for a while", func() { writeResolvConf(t, cfg.ResolvConf) }, "1", true},
			{"the same servers", func() { writeResolvConf(t, cfg.ResolvConf, upstream) }, "1", true},
			{"other servers", func() { writeResolvConf(t, cfg.ResolvConf, upstream2) }, "2", false},
			{"a forwarder", reconfigure(func() { cfg.Forwarders = []dnsd.Forwarder{{Domain: "example.com", Addr: addr(upstream)}} }), "1", false},
			{"a name of ours", reconfigure(func() {
				cfg.Static = append(cfg.Static, dnsd.Host{Name: "www.example.com", Addr: addr("192.0.2.80")})
			}), "80", false},
		} {
			step.do()
			clock.add(1100 * time.Millisecond)
			before := cached(s)
			if got := www(); got != step.want {
				t.Errorf("%s: %s, want %s", step.what, got, step.want)
			}
			if kept := cached(s) > before; kept != step.cached {
				t.Errorf("%s: from the cache %v", step.what, kept)
			}
		}
	})
}

// TestShorten asks for an answer that is kept and does not fit, in all sizes: as many
// records as have room come, each as it is.
func TestShorten(t *testing.T) {
	s := dnsd.NewUnbound(dnsd.Config{})
	const record = 16 // octets, its name being a pointer
	for size := 512; size <= 1232; size += 3 {
		m := question("Big.example.com.", dns.TypeA)
		m.SetEdns0(uint16(size), true)
		upstream := answerA(m, "198.51.100.1")
		for i := range 99 {
			upstream.Answer = append(upstream.Answer, &dns.A{Hdr: *upstream.Answer[0].Header(), A: net.IPv4(198, 51, 100, byte(i))})
		}
		upstream.Ns = []dns.RR{rr("example.com. 60 IN NS ns.example.com.")}
		upstream.Compress = true
		raw := mustPack(t, m)
		fetched := s.AnswerFrom(raw, mustPack(t, upstream), true)
		kept, _ := s.RespondUDP(raw, make([]byte, 1232))
		for what, b := range map[string][]byte{"fetched": fetched, "kept": kept} {
			r := new(dns.Msg)
			if err := r.Unpack(b); err != nil {
				t.Fatalf("%s, size %d: %v", what, size, err)
			}
			opt := r.IsEdns0()
			if len(b) > size || len(b)+record <= size || !r.Truncated || len(r.Ns) > 0 || opt == nil || !opt.Do() {
				t.Errorf("%s, size %d: %d octets, %v", what, size, len(b), r)
			}
			for i, got := range r.Answer {
				if want := upstream.Answer[i]; got.String() != want.String() {
					t.Errorf("%s, size %d: record %d is %v, want %v", what, size, i, got, want)
				}
			}
		}
		s.FlushCache()
	}
}

// cached is how many queries were answered from the cache.
func cached(s *dnsd.Server) (n uint64) {
	for _, a := range s.Stats().Answers {
		if a.Source == dnsd.SourceCache {
			n += a.Count
		}
	}
	return n
}

// TestCacheBounds fills the cache with more than it holds.
func TestCacheBounds(t *testing.T) {
	s := dnsd.NewUnbound(dnsd.Config{})
	fill := func(n, size int) {
		for i := range n {
			m := question(fmt.Sprintf("h%d.example.com.", i), dns.TypeTXT)
			answer := new(dns.Msg).SetReply(m)
			for range size {
				answer.Answer = append(answer.Answer, &dns.TXT{
					Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 3600},
					Txt: []string{strings.Repeat("x", 200)},
				})
			}
			s.AnswerFrom(mustPack(t, m), mustPack(t, answer), true)
		}
		if st := s.Stats(); st.CacheEntries > 16<<10 || st.CacheBytes > 8<<20 || st.CacheEntries == 0 {
			t.Errorf("%d answers of %d records: %d entries, %d octets", n, size, st.CacheEntries, st.CacheBytes)
		}
	}
	fill(20000, 1)
	fill(300, 200)
	s.FlushCache()
	if st := s.Stats(); st.CacheEntries != 0 || st.CacheBytes != 0 {
		t.Errorf("after a flush: %+v", st)
	}
}

// TestUpstreamLoop: the host's resolver, told to ask us for our domain, sends
// back what it is asked. The name does not exist, and that is known at once.
func TestUpstreamLoop(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		r := startResolver(t, upstream, func(_ string, q *dns.Msg) [][]byte {
			back := q.Copy()
			back.SetEdns0(1232, true)
			c := &dns.Client{Timeout: limit, Dialer: &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(gateway)}}}
			m, _, err := c.Exchange(back, net.JoinHostPort(gateway, "53"))
			if err != nil {
				t.Errorf("asking back: %v", err)
				return nil
			}
			m.SetRcode(q, m.Rcode)
			return pack(m)
		})
		cfg := loConfig(t)
		cfg.Domain = "vm.example"
		writeResolvConf(t, cfg.ResolvConf, upstream)
		s := start(t, cfg)
		m, err := tryAsk("udp", gateway6, question("nobody.vm.example.", dns.TypeA))
		if err != nil {
			t.Fatalf("%v; asked %d times; %+v", err, r.asked(), s.Stats())
		}
		if m.Rcode != dns.RcodeNameError || r.asked() != 1 {
			t.Errorf("asked %d times: %v", r.asked(), m)
		}
	})
}

// TestHostAsksAgain: what the host asks again, as clients do whose answer is late, has not come
// back to us, nor has what is for no name of ours, or is asked of a server that is not on the host.
func TestHostAsksAgain(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const late = 300 * time.Millisecond
		cfg := bridgeConfig(t)
		cfg.Domain = "vm.example"
		lan := nstest.NewLAN(t)
		answerOn(t, lan, nstest.LANHost, "198.51.100.1", func(*dns.Msg, net.Addr) { time.Sleep(late) })
		startResolver(t, upstream, func(_ string, q *dns.Msg) [][]byte {
			time.Sleep(late)
			return pack(answerA(q, "198.51.100.1"))
		})
		cfg.Forwarders = []dnsd.Forwarder{{Addr: addr(upstream)}, {Addr: addr(nstest.LANHost), Domain: "lan.vm.example"}}
		start(t, cfg)
		for _, c := range []struct {
			name    string
			another bool // id the second time
		}{
			{"www.vm.example.", false},
			{"8.8.8.8.in-addr.arpa.", true},
			{"www.lan.vm.example.", true},
		} {
			q := question(c.name, dns.TypeA)
			first := make(chan *dns.Msg)
			go func() {
				r, _ := tryAsk("udp", "192.168.122.1", q.Copy())
				first <- r
			}()
			time.Sleep(late / 3)
			again := q.Copy()
			if c.another {
				again.Id++
			}
			for i, r := range []*dns.Msg{ask(t, "udp", "192.168.122.1", again), <-first} {
				if r == nil || lastOctet(r) != "1" {
					t.Errorf("%s, %d: %v", c.name, i, r)
				}
			}
		}
	})
}
