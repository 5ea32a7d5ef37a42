package iptables_test

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/iptables"
)

// numbered is a NAT network of its own for each number.
func numbered(i int) firewall.Network {
	return firewall.Network{
		Bridge: fmt.Sprintf("virbr%d", i), Mode: firewall.ModeNAT, DHCP: true,
		Subnets: subnets(fmt.Sprintf("10.%d.%d.1/24", i/250, i%250)),
	}
}

// benchmarkNetworks measures beside a number of other networks.
func benchmarkNetworks(b *testing.B, variant string, others int) {
	f, err := newFirewall(b.Context(), iptables.Config{IPTables: "iptables-" + variant, IP6Tables: "ip6tables-" + variant})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for i := range others {
		f.Adopt(numbered(i))
	}
	if _, err := f.Repair(b.Context()); err != nil {
		b.Fatal(err)
	}
	n := numbered(others)
	b.Run("Set", func(b *testing.B) {
		added := others
		for b.Loop() {
			if err := f.Set(b.Context(), numbered(added)); err != nil {
				b.Fatal(err)
			}
			added++
		}
		for i := others; i < added; i++ {
			if err := f.Delete(b.Context(), numbered(i)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Delete", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			if err := f.Set(b.Context(), n); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			if err := f.Delete(b.Context(), n); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Rewrite", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			for _, command := range []string{"-F", "-X", "-t nat -F", "-t nat -X", "-t mangle -F", "-t mangle -X"} {
				nstest.Exec(b, "sh", "-c", "iptables-"+variant+" "+command)
			}
			b.StartTimer()
			if _, err := f.Repair(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	if err := f.Purge(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// envBenchmark tells a benchmark that it runs in a namespace of its own.
const envBenchmark = "VNETD_BENCHMARK"

// BenchmarkNetworks shows what a network's start and end cost beside others, and
// what it costs to write all of them anew after a flush.
func BenchmarkNetworks(b *testing.B) {
	if os.Getenv(envBenchmark) == "" {
		b.Skipf("run it in namespaces of its own: %s=1 unshare -n -m go test -bench Networks", envBenchmark)
	}
	for _, variant := range []string{"nft", "legacy"} {
		for _, others := range []int{0, 99, 499} {
			b.Run(fmt.Sprintf("%s/others=%d", variant, others), func(b *testing.B) { benchmarkNetworks(b, variant, others) })
		}
	}
}

// manyForwards is a network of so many forwards to other ports, the last of which comes first.
func manyForwards(n int) firewall.Network {
	network := numbered(0)
	for i := range n {
		port := uint16(10000 + n - 1 - i)
		network.Forwards = append(network.Forwards, firewall.Forward{
			Protocol: "tcp", Ports: firewall.PortRange{Start: port, End: port}, To: netip.AddrFrom4([4]byte{10, 0, 0, byte(2 + port%200)}), ToPort: port - 5000,
		})
	}
	return network
}

// BenchmarkForwards shows what one more forward costs among others.
func BenchmarkForwards(b *testing.B) {
	if os.Getenv(envBenchmark) == "" {
		b.Skipf("run it in namespaces of its own: %s=1 unshare -n -m go test -bench Forwards", envBenchmark)
	}
	for _, others := range []int{0, 100, 1000} {
		b.Run(fmt.Sprintf("others=%d", others), func(b *testing.B) {
			f, err := newFirewall(b.Context(), iptables.Config{IPTables: "iptables-nft", IP6Tables: "ip6tables-nft"})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = f.Close() }()
			n := others
			if err := f.Set(b.Context(), manyForwards(n)); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				n++
				if err := f.Set(b.Context(), manyForwards(n)); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			if err := f.Purge(b.Context()); err != nil {
				b.Fatal(err)
			}
		})
	}
}
