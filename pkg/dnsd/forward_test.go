package dnsd_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dnsd"
)

// gist is an answer in one line: rcode, flags, records.
func gist(m *dns.Msg) string {
	return strings.Join(append([]string{dns.RcodeToString[m.Rcode], "(" + flags(m) + ")"}, records(m.Answer)...), " ")
}

// silent is a handler that never answers.
func silent(string, *dns.Msg) [][]byte { return nil }

// forwardCase is what the two upstreams do with www.example.com and what the
// client is told.
type forwardCase struct {
	what          string
	first, second func(string, *dns.Msg) [][]byte // nil: nobody listens there
	want          string

	hasty bool // the second is asked a moment after the first, not only where that fails
	vain  bool // it ends by itself: somebody never answers, and nobody does well
}

// open opens a server that waits only where that is the point: an answer that is
// late on a slow machine is as good as any.
func (c forwardCase) open(t *testing.T, cfg dnsd.Config) *dnsd.Server {
	t.Helper()
	total, stagger := patience, patience
	if c.vain {
		total = 3 * time.Second
	}
	if c.hasty || c.vain {
		stagger = 50 * time.Millisecond
	}
	return open(t, cfg, total, stagger)
}

const wwwIs1 = "www.example.com. 60 IN A 198.51.100.1"

var forwardCases = []forwardCase{
	{what: "answers", first: always("198.51.100.1"), second: always("198.51.100.2"), want: "NOERROR (ra) " + wwwIs1},
	{what: "first is down", second: always("198.51.100.1"), want: "NOERROR (ra) " + wwwIs1},
	{what: "first is silent", first: silent, second: always("198.51.100.1"), want: "NOERROR (ra) " + wwwIs1, hasty: true},
	{what: "first fails", first: rcode(dns.RcodeServerFailure), second: always("198.51.100.1"), want: "NOERROR (ra) " + wwwIs1},
	{what: "first refuses", first: rcode(dns.RcodeRefused), second: always("198.51.100.1"), want: "NOERROR (ra) " + wwwIs1},
	{what: "name does not exist", first: rcode(dns.RcodeNameError), second: always("198.51.100.2"), want: "NXDOMAIN ()"},
	{what: "both fail", first: rcode(dns.RcodeServerFailure), second: rcode(dns.RcodeServerFailure), want: "SERVFAIL ()"},
	{what: "both refuse", first: rcode(dns.RcodeRefused), second: rcode(dns.RcodeRefused), want: "REFUSED ()"},
	{what: "both are silent", first: silent, second: silent, want: "SERVFAIL (ra)", vain: true},
	{what: "both are down", want: "SERVFAIL (ra)"},
	{what: "one refuses, one is silent", first: rcode(dns.RcodeRefused), second: silent, want: "REFUSED ()", vain: true},
	{what: "wrong ids before the answer", first: lies(func(m *dns.Msg) { m.Id++ }), second: silent, want: "NOERROR (ra) " + wwwIs1},
	{what: "wrong question before the answer", first: lies(func(m *dns.Msg) { m.Question[0].Name = "www.example.net." }), second: silent, want: "NOERROR (ra) " + wwwIs1},
	{what: "wrong type before the answer", first: lies(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeTXT }), second: silent, want: "NOERROR (ra) " + wwwIs1},
	{what: "a query before the answer", first: lies(func(m *dns.Msg) { m.Response = false }), second: silent, want: "NOERROR (ra) " + wwwIs1},
	{what: "no question before the answer", first: lies(func(m *dns.Msg) { m.Question = nil }), second: silent, want: "NOERROR (ra) " + wwwIs1},
	{what: "garbage before the answer", first: raw([]byte("garbage"), nil), second: silent, want: "NOERROR (ra) " + wwwIs1},
	{what: "a failure without its question", first: headerOnly(dns.RcodeRefused), second: always("198.51.100.1"), want: "NOERROR (ra) " + wwwIs1},
	{what: "failures without their question", first: headerOnly(dns.RcodeRefused), second: headerOnly(dns.RcodeRefused), want: "REFUSED (ra)"},
	{what: "EDNS that was not asked for", first: ednsUnasked, second: silent, want: "NOERROR (ra) " + wwwIs1},
	{what: "validated", first: validated, second: silent, want: "NOERROR (ra) " + wwwIs1},
	{what: "truncated, whole over TCP", first: truncating(always("198.51.100.1")), second: silent, want: "NOERROR (ra) " + wwwIs1},
	{what: "truncated, lies over TCP", first: truncating(raw([]byte("garbage that is longer"), nil)), second: silent, want: "NOERROR (tc)"},
	{what: "truncated in the middle of a record", first: cut, second: silent, want: "NOERROR (ra) " + wwwIs1},
}

// lies sends an answer that is bad, and a good one after it.
func lies(change func(*dns.Msg)) func(string, *dns.Msg) [][]byte {
	return func(_ string, q *dns.Msg) [][]byte {
		bad := answerA(q, "198.51.100.66")
		change(bad)
		return append(pack(bad), pack(answerA(q, "198.51.100.1"))...)
	}
}

// raw sends octets, and a good answer after them.
func raw(b ...[]byte) func(string, *dns.Msg) [][]byte {
	return func(_ string, q *dns.Msg) [][]byte {
		return append(b[:1:1], pack(answerA(q, "198.51.100.1"))...)
	}
}

// headerOnly answers with an rcode and nothing else.
func headerOnly(code int) func(string, *dns.Msg) [][]byte {
	return func(_ string, q *dns.Msg) [][]byte {
		m := new(dns.Msg).SetRcode(q, code)
		m.Question = nil
		return pack(m)
	}
}

// validated claims that it validated the answer.
func validated(_ string, q *dns.Msg) [][]byte {
	m := answerA(q, "198.51.100.1")
	m.AuthenticatedData = true
	return pack(m)
}

// truncating answers over UDP that the client should use TCP, where tcp answers.
func truncating(tcp func(string, *dns.Msg) [][]byte) func(string, *dns.Msg) [][]byte {
	return func(proto string, q *dns.Msg) [][]byte {
		if proto == "tcp" {
			return tcp(proto, q)
		}
		m := new(dns.Msg).SetReply(q)
		m.Truncated = true
		return pack(m)
	}
}

// cut sends a message that ends too early, with the TC bit.
func cut(proto string, q *dns.Msg) [][]byte {
	m := answerA(q, "198.51.100.1")
	if proto == "tcp" {
		return pack(m)
	}
	m.Truncated = true
	b := pack(m)[0]
	return [][]byte{b[:len(b)-2]}
}

// ednsUnasked puts an OPT record into every answer.
func ednsUnasked(_ string, q *dns.Msg) [][]byte {
	return pack(answerA(q, "198.51.100.1").SetEdns0(4096, true))
}

// TestForward asks through two upstreams that behave in all ways.
func TestForward(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cfg := loConfig(t)
		writeResolvConf(t, cfg.ResolvConf, upstream, upstream2)
		for _, c := range forwardCases {
			for _, proto := range []string{"udp", "tcp"} {
				t.Run(c.what+" "+proto, func(t *testing.T) { c.run(t, cfg, proto) })
			}
		}
	})
}

func (c forwardCase) run(t *testing.T, cfg dnsd.Config, proto string) {
	t.Helper()
	for ip, handler := range map[string]func(string, *dns.Msg) [][]byte{upstream: c.first, upstream2: c.second} {
		if handler != nil {
			startResolver(t, ip, handler)
		}
	}
	s := c.open(t, cfg)
	m := question("www.example.com.", dns.TypeA)
	r := ask(t, proto, gateway, m)
	if diff := cmp.Diff(c.want, gist(r)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if r.Id != m.Id || r.IsEdns0() != nil {
		t.Errorf("id %d, EDNS %v", r.Id, r.IsEdns0())
	}
	if n := s.Stats().Forwarding; n != 0 {
		t.Errorf("%d queries are still waiting", n)
	}
}

// TestForwardedForm checks what of a query reaches the upstream and what of the
// answer the client.
func TestForwardedForm(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		seen := make(chan *dns.Msg, 4)
		startResolver(t, upstream, func(_ string, q *dns.Msg) [][]byte {
			seen <- q.Copy()
			q.Question[0].Name = strings.ToLower(q.Question[0].Name)
			m := answerA(q, "198.51.100.1")
			m.Compress = true
			return pack(m)
		})
		cfg := loConfig(t)
		writeResolvConf(t, cfg.ResolvConf, upstream)
		start(t, cfg)

		m := question("wWw.ExAmPlE.com.", dns.TypeA)
		m.RecursionDesired, m.CheckingDisabled = false, true
		m.SetEdns0(4096, true)
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 32, Address: net.IPv4(192, 0, 2, 11)}}
		r := ask(t, "udp", gateway, m)
		if diff := cmp.Diff([]string{"wWw.ExAmPlE.com. 60 IN A 198.51.100.1"}, records(r.Answer)); diff != "" {
			t.Errorf("answer (-want +got):\n%s", diff)
		}
		if opt := r.IsEdns0(); opt == nil || opt.UDPSize() != 1232 || !opt.Do() {
			t.Errorf("OPT record to the client: %v", opt)
		}
		q := <-seen
		if q.RecursionDesired || !q.CheckingDisabled {
			t.Errorf("flags at the upstream: %v", q.MsgHdr)
		}
		if opt := q.IsEdns0(); opt == nil || opt.UDPSize() != 1232 || !opt.Do() || len(opt.Option) > 0 {
			t.Errorf("OPT record to the upstream: %v", opt)
		}
		<-seen // over TCP, since the spelling was not kept
		ask(t, "udp", gateway, question("www.example.com.", dns.TypeA))
		if q := <-seen; q.IsEdns0() != nil {
			t.Errorf("a query without EDNS arrived as %v", q)
		}
	})
}

// speller is a server that loses the case of names, or is being forged.
type speller struct {
	folds, forged atomic.Bool
	overTCP       atomic.Int32
	mixed         atomic.Int32 // questions that were in mixed case
}

func (sp *speller) answer(proto string, q *dns.Msg) [][]byte {
	name := q.Question[0].Name
	if name != strings.ToLower(name) && name != strings.ToUpper(name) {
		sp.mixed.Add(1)
	}
	if proto == "tcp" {
		sp.overTCP.Add(1)
	}
	low := q.Copy()
	low.Question[0].Name = strings.ToLower(name)
	switch {
	case sp.folds.Load():
		return pack(answerA(low, "198.51.100.1"))
	case sp.forged.Load() && proto == "udp":
		return append(pack(answerA(low, "198.51.100.66")), pack(answerA(q, "198.51.100.1"))...)
	}
	return pack(answerA(q, "198.51.100.1"))
}

// TestSpelling: the upstream is asked in mixed case. An answer in another case
// may be a forgery if that server keeps the case: it is fetched over TCP, as is whether it does.
func TestSpelling(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		sp := new(speller)
		startResolver(t, upstream, sp.answer)
		cfg := loConfig(t)
		s := start(t, cfg)
		for i, step := range []struct {
			what          string
			another       bool // server, as far as we know
			forged, folds bool
			tcp           int32 // questions asked over TCP so far
		}{
			{"a forgery before anything is known", true, true, false, 1},
			{"another one, known for what it is", false, true, false, 2},
			{"a server that loses the case", true, false, true, 3},
			{"the same, which is known now", false, false, true, 3},
			{"a server that keeps it", true, false, false, 3},
			{"a forgery of that", false, true, false, 4},
		} {
			sp.forged.Store(step.forged)
			sp.folds.Store(step.folds)
			if step.another {
				cfg.Forwarders = []dnsd.Forwarder{{Addr: addr(upstream2)}}
				for range 2 { // away and back: nothing is known of it any more
					if err := s.Reconfigure(cfg); err != nil {
						t.Fatal(err)
					}
					cfg.Forwarders = []dnsd.Forwarder{{Addr: addr(upstream)}}
				}
			}
			mixed := sp.mixed.Load()
			r := ask(t, "udp", gateway, question(fmt.Sprintf("s%d.abcdefghijklmnopqrstuvwxyz.example.com.", i), dns.TypeA))
			if got := lastOctet(r); got != "1" || sp.overTCP.Load() != step.tcp || sp.mixed.Load() == mixed {
				t.Errorf("%s: %s, asked %d times over TCP, %d in mixed case", step.what, got, sp.overTCP.Load(), sp.mixed.Load()-mixed)
			}
		}
	})
}

// TestForwardTruncation has an upstream whose answer only TCP can carry.
func TestForwardTruncation(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		startResolver(t, upstream, truncating(func(_ string, q *dns.Msg) [][]byte {
			m := answerA(q, "198.51.100.1")
			for range 99 {
				m.Answer = append(m.Answer, m.Answer[0])
			}
			return pack(m)
		}))
		cfg := loConfig(t)
		writeResolvConf(t, cfg.ResolvConf, upstream)
		start(t, cfg)
		m := question("www.example.com.", dns.TypeA)
		r := ask(t, "udp", gateway, m)
		if r.Compress = true; !r.Truncated || r.Len() > 512 || len(r.Answer) == 0 {
			t.Errorf("over UDP: tc %v, %d octets, %d records", r.Truncated, r.Len(), len(r.Answer))
		}
		if r := ask(t, "tcp", gateway, m); r.Truncated || len(r.Answer) != 100 {
			t.Errorf("over TCP: tc %v, %d records", r.Truncated, len(r.Answer))
		}
	})
}

// TestCoalesce asks one question many times while the upstream thinks: it is
// asked once and everyone gets an answer with the question as he spelled it.
func TestCoalesce(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		release := make(chan struct{})
		r := startResolver(t, upstream, func(_ string, q *dns.Msg) [][]byte {
			<-release
			return pack(answerA(q, "198.51.100.1"))
		})
		cfg := loConfig(t)
		writeResolvConf(t, cfg.ResolvConf, upstream)
		s := start(t, cfg)
		const n = 20
		var clients sync.WaitGroup
		for i := range n {
			clients.Go(func() {
				name := "www.example.com."
				if i%2 > 0 {
					name = "WWW.example.com."
				}
				m, err := tryAsk([]string{"udp", "tcp"}[i%4/2], gateway, question(name, dns.TypeA))
				if err != nil || m.Question[0].Name != name || len(m.Answer) != 1 {
					t.Errorf("asking for %s: %v, %v", name, m, err)
				}
			})
		}
		nstest.Eventually(t, limit, "all queries wait", func() error { return waiting(s, n) })
		close(release)
		clients.Wait()
		if r.asked() != 1 || s.Stats().Coalesced != n-1 {
			t.Errorf("the upstream was asked %d times; %+v", r.asked(), s.Stats())
		}
	})
}

// TestRetransmit: a question that was lost is asked again.
func TestRetransmit(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		var asked atomic.Int32
		startResolver(t, upstream, func(_ string, q *dns.Msg) [][]byte {
			if asked.Add(1) < 3 {
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
		s.SetTiming(patience, 50*time.Millisecond, 100*time.Millisecond)
		run(t, s)
		if got := gist(ask(t, "udp", gateway, question("www.example.com.", dns.TypeA))); got != "NOERROR (ra) "+wwwIs1 {
			t.Errorf("after %d questions: %s", asked.Load(), got)
		}
	})
}

// TestDeadUpstream: after the first query a silent first server is asked last,
// so that it is hardly asked any more.
func TestDeadUpstream(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dead := startResolver(t, upstream, silent)
		startResolver(t, upstream2, always("198.51.100.1"))
		cfg := loConfig(t)
		writeResolvConf(t, cfg.ResolvConf, upstream, upstream2)
		s := open(t, cfg, patience, time.Second)
		for i := range 20 {
			if r := ask(t, "udp", gateway, question(fmt.Sprintf("h%d.example.com.", i), dns.TypeA)); len(r.Answer) != 1 {
				t.Errorf("query %d: %v", i, r)
			}
		}
		if n := dead.asked(); n < 1 || n > 10 {
			t.Errorf("the silent server was asked %d times", n)
		}
		if s.Stats().UpstreamDemotions == 0 {
			t.Error("the silent server is in its old place")
		}
		port := func(ip string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(ip), 53) }
		want := []dnsd.Upstream{{Addr: port(upstream), Failing: true}, {Addr: port(upstream2)}}
		if diff := cmp.Diff(want, s.Upstreams(), cmpopts.IgnoreFields(dnsd.Upstream{}, "Case", "EDNS", "TCP", "RTT"),
			cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Errorf("upstreams (-want +got):\n%s", diff)
		}
	})
}

// TestUpstreamsOfDomains lists servers for one domain behind those for all.
func TestUpstreamsOfDomains(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cfg := loConfig(t)
		writeResolvConf(t, cfg.ResolvConf, upstream)
		cfg.Forwarders = []dnsd.Forwarder{{Domain: "corp.example", Addr: netip.MustParseAddr(upstream2), Port: 5353}}
		var got []string
		for _, u := range start(t, cfg).Upstreams() {
			got = append(got, u.Addr.String()+" "+u.Domain)
		}
		if diff := cmp.Diff([]string{upstream + ":53 ", upstream2 + ":5353 corp.example"}, got); diff != "" {
			t.Errorf("upstreams (-want +got):\n%s", diff)
		}
	})
}

// TestResolvConf changes the file in every way while the server runs.
func TestResolvConf(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		startResolver(t, upstream, always("198.51.100.1"))
		startResolver(t, upstream2, always("198.51.100.2"))
		cfg := loConfig(t)
		path := cfg.ResolvConf
		start(t, cfg)
		becomes := func(what, want string) {
			t.Helper()
			try := 0
			nstest.Eventually(t, limit, what, func() error {
				name := "www.example.com."
				if try++; strings.HasPrefix(want, "SERVFAIL") {
					name = fmt.Sprintf("h%d.%d.example.com.", try, len(what)) // not in the cache
				}
				r, err := tryAsk("udp", gateway, question(name, dns.TypeA))
				if err == nil && gist(r) != want {
					err = errors.New(gist(r))
				}
				return err
			})
		}
		const one, two = "NOERROR (ra) " + wwwIs1, "NOERROR (ra) www.example.com. 60 IN A 198.51.100.2"
		becomes("no file", "SERVFAIL (ra)")
		writeResolvConf(t, path, upstream)
		becomes("appears", one)
		writeResolvConf(t, path, upstream2)
		becomes("renamed over", two)
		rewrite(t, path, "nameserver "+upstream+"\n")
		becomes("rewritten", one)
		writeResolvConf(t, path+".target", upstream2)
		relink(t, path, path+".target")
		becomes("is a link now", two)
		writeResolvConf(t, path+".target", upstream)
		becomes("the link's target is replaced", one)
		writeResolvConf(t, path+".target", gateway)
		becomes("names only us: no loop", "SERVFAIL (ra)")
		writeResolvConf(t, path+".target", gateway, gateway6, upstream2)
		becomes("names us and another", two)
		relink(t, path, path+".nowhere")
		becomes("a link to nothing", "SERVFAIL (ra)")
		writeResolvConf(t, path+".nowhere", upstream)
		becomes("which appears", one)
	})
}

func rewrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func relink(t *testing.T, path, target string) {
	t.Helper()
	_ = os.Remove(path)
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

// TestForwardLimit: a guest whose queries are not answered keeps nobody else
// from being served.
func TestForwardLimit(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		startResolver(t, upstream, func(_ string, q *dns.Msg) [][]byte {
			if strings.HasPrefix(strings.ToLower(q.Question[0].Name), "slow") {
				return nil
			}
			return pack(answerA(q, "198.51.100.1"))
		})
		cfg := loConfig(t)
		writeResolvConf(t, cfg.ResolvConf, upstream)
		s := start(t, cfg)
		if r := floodUntilLimited(t, s); r.Rcode != dns.RcodeServerFailure {
			t.Errorf("the client that floods: %v", r)
		}
		if r := ask(t, "udp", gateway6, question("www.example.com.", dns.TypeA)); gist(r) != "NOERROR (ra) "+wwwIs1 {
			t.Errorf("another client: %v", gist(r))
		}
		if st := s.Stats(); st.Forwarding != 2000 { // half of the places
			t.Errorf("%+v", st)
		}
	})
}

// TestForwardManySources: a guest that asks under the names of many takes all places;
// others are served all the same, and what it asked first is given up.
func TestForwardManySources(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		startResolver(t, upstream, func(_ string, q *dns.Msg) [][]byte {
			if strings.HasPrefix(strings.ToLower(q.Question[0].Name), "slow") {
				return nil
			}
			return pack(answerA(q, "198.51.100.1"))
		})
		cfg := loConfig(t)
		writeResolvConf(t, cfg.ResolvConf, upstream)
		s := start(t, cfg)
		const places = 4000
		sent := 0
		nstest.Eventually(t, limit, "all places are taken", func() error {
			for range 50 {
				sent++
				// Two questions of each address: one that many share, and one of its own.
				from := &net.UDPAddr{IP: net.IPv4(127, 2, byte(sent>>8), byte(sent))}
				c, err := net.DialUDP("udp", from, &net.UDPAddr{IP: net.ParseIP(gateway), Port: 53})
				if err != nil {
					return err
				}
				for _, name := range []string{"slow.example.com.", fmt.Sprintf("slow%d.example.com.", sent)} {
					if _, err := c.Write(mustPack(t, question(name, dns.TypeA))); err != nil {
						return err
					}
				}
				_ = c.Close()
			}
			if st := s.Stats(); st.Forwarding != places || st.Limited == 0 {
				return fmt.Errorf("%+v", st)
			}
			return nil
		})
		for _, name := range []string{"www.example.com.", "www.example.org."} {
			if got := gist(ask(t, "udp", gateway, question(name, dns.TypeA))); got != strings.Replace("NOERROR (ra) "+wwwIs1, "www.example.com.", name, 1) {
				t.Errorf("another client: %v", got)
			}
		}
		nstest.Eventually(t, limit, "what was given up has ended", func() error {
			if n := s.InFlight(); n > places {
				return fmt.Errorf("%d flights", n)
			}
			return nil
		})
	})
}

// floodUntilLimited asks what nobody answers until the client has its share,
// and returns what it is told then. Datagrams may get lost on the way.
func floodUntilLimited(t *testing.T, s *dnsd.Server) *dns.Msg {
	t.Helper()
	c, err := net.Dial("udp", net.JoinHostPort(gateway, "53"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sent := 0
	nstest.Eventually(t, limit, "the client has its share", func() error {
		for range 10 {
			sent++
			if _, err := c.Write(mustPack(t, question(fmt.Sprintf("slow%d.example.com.", sent), dns.TypeA))); err != nil {
				return err
			}
		}
		if st := s.Stats(); st.Limited == 0 {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	_ = c.SetDeadline(time.Now().Add(limit))
	buf := make([]byte, 512)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	r := new(dns.Msg)
	if err := r.Unpack(buf[:n]); err != nil {
		t.Fatal(err)
	}
	return r
}

// waiting is nil when n queries wait for an upstream.
func waiting(s *dnsd.Server, n int) error {
	if got := s.Stats().Forwarding; got != n {
		return fmt.Errorf("%d wait, want %d: %+v", got, n, s.Stats())
	}
	return nil
}
