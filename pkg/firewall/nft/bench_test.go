package nft_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/nft"
)

// BenchmarkForwards shows what one more forward costs among others, of one port each and
// of ranges to other ports.
func BenchmarkForwards(b *testing.B) {
	if os.Getenv("VNETD_BENCHMARK") == "" {
		b.Skip("run it in namespaces of its own: VNETD_BENCHMARK=1 unshare -n -m go test -bench Forwards")
	}
	for _, c := range []struct{ others, ports int }{{0, 1}, {1000, 1}, {8, 1000}} {
		b.Run(fmt.Sprintf("others=%d,ports=%d", c.others, c.ports), func(b *testing.B) {
			f := firewall.New(nft.New(nft.Config{}), firewall.Config{})
			defer func() { _ = f.Close() }()
			network := firewall.Network{Bridge: "virbr0", Mode: firewall.ModeNAT, Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}}
			add := func(first, ports int) {
				network.Forwards = append(network.Forwards, firewall.Forward{
					Protocol: "tcp", Ports: firewall.PortRange{Start: uint16(first), End: uint16(first + ports - 1)}, To: netip.MustParseAddr("10.0.0.2"), ToPort: uint16(first - 500),
				})
			}
			for i := range c.others {
				add(1000+i*c.ports, c.ports)
			}
			if err := f.Set(b.Context(), network); err != nil {
				b.Fatal(err)
			}
			port := 30000
			for b.Loop() {
				port++
				add(port, 1)
				if err := f.Set(b.Context(), network); err != nil {
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

// cpu is the time that the process has had of processors, the kernel's part included.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// nth is a network like all others.
func nth(i int) firewall.Network {
	return firewall.Network{
		Name: fmt.Sprintf("network%d", i), Bridge: fmt.Sprintf("virbr%d", i), Mode: firewall.ModeNAT, DHCP: true,
		Subnets: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), 24)},
	}
}

// BenchmarkNetworks shows what one more network costs among others, its end, and what all cost
// after a flush, in the time of processors.
func BenchmarkNetworks(b *testing.B) {
	if os.Getenv("VNETD_BENCHMARK") == "" {
		b.Skip("run it in namespaces of its own: VNETD_BENCHMARK=1 unshare -n -m go test -bench Networks")
	}
	for _, others := range []int{0, 99, 499} {
		f := firewall.New(nft.New(nft.Config{}), firewall.Config{})
		set := func(b *testing.B, n firewall.Network) {
			if err := f.Set(b.Context(), n); err != nil {
				b.Fatal(err)
			}
		}
		for i := range others {
			set(b, nth(i))
		}
		for _, end := range []bool{false, true} {
			b.Run(fmt.Sprintf("others=%d,end=%v", others, end), func(b *testing.B) {
				var used time.Duration
				for i := 0; b.Loop(); i++ {
					n := nth(others + i%1000)
					before := cpu(b)
					set(b, n)
					if end {
						before = cpu(b)
					}
					if !end {
						used += cpu(b) - before
					}
					if err := f.Delete(b.Context(), n); err != nil {
						b.Fatal(err)
					}
					if end {
						used += cpu(b) - before
					}
				}
				b.ReportMetric(float64(used.Microseconds())/float64(b.N), "cpu-µs/op")
			})
		}
		b.Run(fmt.Sprintf("others=%d,flush", others), func(b *testing.B) {
			var used time.Duration
			set(b, nth(others))
			for b.Loop() {
				if err := exec.Command("nft", "flush", "ruleset").Run(); err != nil {
					b.Fatal(err)
				}
				before := cpu(b)
				if _, err := f.Repair(b.Context()); err != nil {
					b.Fatal(err)
				}
				used += cpu(b) - before
			}
			b.ReportMetric(float64(used.Microseconds())/float64(b.N), "cpu-µs/op")
		})
		if err := errors.Join(f.Purge(b.Context()), f.Close()); err != nil {
			b.Fatal(err)
		}
	}
}
