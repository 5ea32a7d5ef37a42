package dnsd_test

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dnsd"
)

// TestRebind asks for names to which an upstream gives the address that stands in
// them ("10-1-2-3.example.com").
func TestRebind(t *testing.T) {
	stop := dnsd.Config{StopRebind: true}
	passed, kept := true, false
	for _, c := range []struct {
		cfg  dnsd.Config
		name string
		want bool
	}{
		{dnsd.Config{}, "10-1-2-3.example.com.", passed},
		{stop, "10-1-2-3.example.com.", kept},
		{stop, "172-31-255-255.example.com.", kept},
		{stop, "172-32-0-1.example.com.", passed},
		{stop, "192-168-0-1.example.com.", kept},
		{stop, "169-254-169-254.example.com.", kept},
		{stop, "100-64-0-1.example.com.", kept},
		{stop, "100-128-0-1.example.com.", passed},
		{stop, "127-0-0-1.example.com.", kept},
		{stop, "0-0-0-0.example.com.", kept},
		{stop, "198-51-100-1.example.com.", passed},
		{dnsd.Config{StopRebind: true, RebindLocalhost: true}, "127-0-0-1.example.com.", passed},
		{dnsd.Config{StopRebind: true, RebindLocalhost: true}, "10-1-2-3.example.com.", kept},
		{dnsd.Config{StopRebind: true, RebindDomains: []string{"vpn.example", "example.com"}}, "10-1-2-3.example.com.", passed},
		{dnsd.Config{StopRebind: true, RebindDomains: []string{"example.com"}}, "10-1-2-3.EXAMPLE.com.", passed},
		{dnsd.Config{StopRebind: true, RebindDomains: []string{"example.com"}}, "10-1-2-3.anexample.com.", kept},
	} {
		s := dnsd.NewUnbound(c.cfg)
		q := question(c.name, dns.TypeA)
		q.SetEdns0(1232, false)
		ip := strings.ReplaceAll(strings.Split(c.name, ".")[0], "-", ".")
		reply := new(dns.Msg)
		if err := reply.Unpack(s.AnswerFrom(mustPack(t, q), mustPack(t, answerA(q, ip)), true)); err != nil {
			t.Fatal(err)
		}
		if reply.Rcode != dns.RcodeSuccess || len(reply.Question) != 1 || reply.IsEdns0() == nil || (len(reply.Answer) == 1) != c.want {
			t.Errorf("with %+v the answer is\n%v", c.cfg, reply)
		}
	}
}

// TestRebindServed changes a running server's mind: what was kept in the cache
// before does not get past it.
func TestRebindServed(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		startResolver(t, upstream, always("192.168.1.1"))
		cfg := loConfig(t)
		writeResolvConf(t, cfg.ResolvConf, upstream)
		log := new(lines)
		cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
		s := start(t, cfg)
		var got []int
		for _, cfg.StopRebind = range []bool{false, true, false} {
			if err := s.Reconfigure(cfg); err != nil {
				t.Fatal(err)
			}
			for _, proto := range []string{"udp", "tcp"} {
				got = append(got, len(ask(t, proto, gateway, question("router.example.com.", dns.TypeA)).Answer))
			}
		}
		if diff := cmp.Diff([]int{1, 1, 0, 0, 1, 1}, got); diff != "" {
			t.Errorf("addresses in the answers (-want +got):\n%s", diff)
		}
		if n := strings.Count(log.String(), "private address"); n != 1 {
			t.Errorf("%d lines in the log tell of it", n)
		}
		if n := s.Stats().UpstreamRebinds; n != 2 {
			t.Errorf("%d answers were kept from guests", n)
		}
	})
}
