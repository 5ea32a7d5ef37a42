package dnsd_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/pkg/dnsd"
)

// manyNames are static names, each with an address of its own.
func manyNames(n int) []dnsd.Host {
	all := make([]dnsd.Host, n)
	for i := range all {
		all[i] = dnsd.Host{Name: fmt.Sprintf("host%d", i), Addr: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})}
	}
	return all
}

// BenchmarkLoad loads 50,000 static names, checked as Open checks them.
func BenchmarkLoad(b *testing.B) {
	cfg := dnsd.Config{
		Network: "bench", Domain: "vm.example", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, NoForward: true,
		Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Static: manyNames(50_000),
	}
	var s *dnsd.Server
	for b.Loop() {
		if err := cfg.Validate(); err != nil {
			b.Fatal(err)
		}
		s = dnsd.NewUnbound(cfg)
	}
	if reply, _ := s.RespondUDP(mustPack(b, question("host49999.vm.example.", dns.TypeA)), nil); len(reply) == 0 {
		b.Fatal("a name is missing")
	}
}

// BenchmarkCachedName has as many names in a cache as it takes and says what one costs,
// with everything that is kept for it.
func BenchmarkCachedName(b *testing.B) {
	const names = 16 << 10
	var kept, most int
	for b.Loop() {
		s := dnsd.NewUnbound(dnsd.Config{Network: "bench", Forwarders: []dnsd.Forwarder{{Addr: netip.MustParseAddr("192.0.2.1")}}})
		before := heap()
		for i := range names {
			q := question(fmt.Sprintf("name%d.example.com.", i), dns.TypeA)
			a := answerA(q, "198.51.100.1")
			s.AnswerFrom(mustPack(b, q), mustPack(b, a), true)
		}
		most = int(heap()-before) / max(s.Stats().CacheEntries, 1)
		kept = s.Stats().CacheEntries
		runtime.KeepAlive(s)
	}
	b.ReportMetric(float64(most), "B/name")
	b.ReportMetric(float64(kept), "names")
}
