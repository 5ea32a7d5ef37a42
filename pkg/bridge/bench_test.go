package bridge_test

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/vnetd/vnetd/pkg/bridge"
)

// envBenchmark tells a benchmark that it runs in a namespace of its own.
const envBenchmark = "VNETD_BENCHMARK"

// numbered is a bridge with a subnet of its own for each number.
func numbered(n int) bridge.Config {
	c := defaultConfig()
	c.Name = fmt.Sprintf("virbr%d", n)
	c.Addrs = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 1}), 24)}
	return c
}

// BenchmarkNetworks shows what a network's start and end cost beside others.
func BenchmarkNetworks(b *testing.B) {
	if os.Getenv(envBenchmark) == "" {
		b.Skipf("run it in namespaces of its own: %s=1 unshare -n -m go test -bench Networks", envBenchmark)
	}
	links := newBridges(b)
	done := 0
	for _, others := range []int{0, 99, 499} {
		for ; done < others; done++ {
			ensure(b, links, numbered(done))
		}
		cfg := numbered(others)
		start := func() {
			if owner, err := links.AddressOwner(cfg.Addrs[0], ""); owner != "" || err != nil {
				b.Fatalf("owner %q, %v", owner, err)
			}
			ensure(b, links, cfg)
		}
		remove := func() {
			if err := links.Remove(cfg.Name, 0); err != nil {
				b.Fatal(err)
			}
		}
		b.Run(fmt.Sprintf("start/others=%d", others), func(b *testing.B) { alternate(b, start, remove) })
		b.Run(fmt.Sprintf("stop/others=%d", others), func(b *testing.B) {
			start()
			alternate(b, remove, start)
			remove()
		})
	}
}

// alternate times the first of two steps.
func alternate(b *testing.B, timed, other func()) {
	for b.Loop() {
		timed()
		b.StopTimer()
		other()
		b.StartTimer()
	}
}
