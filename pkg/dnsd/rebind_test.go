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
// them ("10-1-2-3.example.com"), with options of dnsmasq.
func TestRebind(t *testing.T) {
	const stop = "stop-dns-rebind"
	passed, kept := true, false
	for _, c := range []struct {
		options string // one blank between
		name    string
		want    bool
	}{
		{"", "10-1-2-3.example.com.", passed},
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
		{stop + " rebind-localhost-ok", "127-0-0-1.example.com.", passed},
		{stop + " rebind-localhost-ok", "10-1-2-3.example.com.", kept},
		{stop + " rebind-domain-ok=/vpn.example/example.com/", "10-1-2-3.example.com.", passed},
		{stop + " rebind-domain-ok=example.com", "10-1-2-3.EXAMPLE.com.", passed},
		{stop + " rebind-domain-ok=/example.com/", "10-1-2-3.anexample.com.", kept},
	} {
		options, unknown := dnsd.ParseDnsmasqOptions(strings.Fields(c.options))
		if len(unknown) > 0 {
			t.Errorf("not understood: %q", unknown)
		}
		s := dnsd.NewUnbound(options.AddTo(dnsd.Config{}))
		q := question(c.name, dns.TypeA)
		q.SetEdns0(1232, false)
		ip := strings.ReplaceAll(strings.Split(c.name, ".")[0], "-", ".")
		reply := new(dns.Msg)
		if err := reply.Unpack(s.AnswerFrom(mustPack(t, q), mustPack(t, answerA(q, ip)), true)); err != nil {
			t.Fatal(err)
		}
		if reply.Rcode != dns.RcodeSuccess || len(reply.Question) != 1 || reply.IsEdns0() == nil || (len(reply.Answer) == 1) != c.want {
			t.Errorf("with %q the answer is\n%v", c.options, reply)
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
