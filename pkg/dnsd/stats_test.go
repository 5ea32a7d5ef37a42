package dnsd_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/histogram"
	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dnsd"
)

// TestStats asks in all ways and has each counted once: where its answer came from,
// its rcode, how long it took, and what the upstream was asked for it.
func TestStats(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		startResolver(t, upstream, authority)
		cfg := loConfig(t)
		cfg.Forwarders = []dnsd.Forwarder{{Addr: addr(upstream)}, {Domain: "corp.example", Addr: addr(upstream)}}
		s := start(t, cfg)
		old := question("gateway.", dns.TypeA)
		old.SetEdns0(1232, false)
		old.IsEdns0().SetVersion(1)
		for _, m := range []*dns.Msg{
			question("gateway.", dns.TypeA),
			question("99.2.0.192.in-addr.arpa.", dns.TypePTR),
			question("gateway.", dns.TypeAXFR),
			old,
			question("www.example.com.", dns.TypeA),
			question("www.example.com.", dns.TypeA),
			question("none.corp.example.", dns.TypeA),
			question("none.corp.example.", dns.TypeA),
			question("fail.corp.example.", dns.TypeA),
		} {
			for _, proto := range []string{"udp", "tcp"} {
				ask(t, proto, gateway, m)
			}
		}
		want := map[string]uint64{
			"local NOERROR": 2, "local NXDOMAIN": 2, "local REFUSED": 2, "local BADVERS": 2,
			"cache NOERROR": 3, "cache NXDOMAIN": 3, "stale NOERROR": 0,
			"upstream NOERROR": 1, "upstream NXDOMAIN": 1, "upstream SERVFAIL": 2,
		}
		got := make(map[string]uint64)
		for _, a := range s.Stats().Answers {
			got[a.Source+" "+a.Rcode] += a.Count
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("answers (-want +got):\n%s", diff)
		}
		// The time of one that has been sent is noted a moment later.
		nstest.Eventually(t, limit, "the times are counted", func() error {
			st := s.Stats()
			if atOnce, forwarded := count(st.AtOnce), count(st.Forwarded); atOnce != 14 || forwarded != 4 || st.AtOnce.Sum <= 0 || st.Forwarded.Sum <= 0 {
				return fmt.Errorf("%d at once, %d forwarded: %+v", atOnce, forwarded, st)
			}
			return nil
		})
		asked := s.Asked()
		if len(asked) != 1 || asked[0].RTT <= 0 {
			t.Fatalf("asked: %+v", asked)
		}
		asked[0].RTT = 0
		if want := (dnsd.Asked{Addr: netip.MustParseAddrPort(upstream + ":53"), Queries: 4, Failures: 2}); asked[0] != want {
			t.Errorf("asked: %+v, want %+v", asked[0], want)
		}
	})
}

// count is how many times a histogram has.
func count(l histogram.Counts) (n uint64) {
	for _, c := range l.Counts {
		n += c
	}
	return n
}

// TestLatencyBounds: the classes of a histogram ascend, and there is one above all.
func TestLatencyBounds(t *testing.T) {
	bounds := dnsd.LatencyBounds()
	if l := dnsd.NewUnbound(dnsd.Config{}).Stats().AtOnce; len(l.Counts) != len(bounds)+1 {
		t.Errorf("%d classes, %d bounds", len(l.Counts), len(bounds))
	}
	for i := range bounds[1:] {
		if bounds[i] >= bounds[i+1] {
			t.Errorf("%v stands before %v", bounds[i], bounds[i+1])
		}
	}
}
