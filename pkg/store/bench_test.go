package store_test

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/store"
)

// BenchmarkCommit commits leases, each by itself, from so many goroutines at a
// time: an operation is a lease.
func BenchmarkCommit(b *testing.B) {
	for _, committers := range []int{1, 16, 64} {
		b.Run(fmt.Sprint(committers), func(b *testing.B) {
			s, err := store.Open(dirsIn(b.TempDir()), slog.New(slog.DiscardHandler))
			if err != nil {
				b.Fatal(err)
			}
			ls := s.Leases(uuid)
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			before := cpuTime(b)
			for range committers {
				wg.Go(func() {
					for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
						if err := ls.Commit([]dhcpd.Lease{scattered(n)}, nil); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "leases/s")
			b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/lease")
		})
	}
}

// scattered is the n-th of leases whose addresses follow each other in no order.
func scattered(n int64) dhcpd.Lease {
	a := uint16(n * 40503) // odd: meets every address
	return dhcpd.Lease{
		Addr: netip.AddrFrom4([4]byte{198, 18, byte(a >> 8), byte(a)}), State: dhcpd.StateBound,
		MAC: net.HardwareAddr{0, 0, 0x5e, 1, byte(a >> 8), byte(a)}, Expiry: time.Now().Add(time.Hour),
	}
}

// cpuTime is what this process has used, with what the kernel did for it.
func cpuTime(b *testing.B) time.Duration {
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkPresent commits sixteen leases at a time beside so many that there are: an operation
// is a commit. Now and then the journal is full, and a snapshot is written beside.
func BenchmarkPresent(b *testing.B) {
	const together = 16
	for _, present := range []int{0, 60000} {
		b.Run(fmt.Sprint(present), func(b *testing.B) {
			s, err := store.Open(dirsIn(b.TempDir()), slog.New(slog.DiscardHandler))
			if err != nil {
				b.Fatal(err)
			}
			ls := s.Leases(uuid)
			next := int64(0)
			some := func(n int) (leases []dhcpd.Lease) {
				for range n {
					leases = append(leases, scattered(next%max(int64(present), 1000)))
					next++
				}
				return leases
			}
			if err := ls.Commit(some(present), nil); err != nil {
				b.Fatal(err)
			}
			var took []time.Duration
			for b.Loop() {
				leases := some(together)
				began := time.Now()
				if err := ls.Commit(leases, nil); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
			slices.Sort(took)
			for _, of := range []struct {
				name string
				at   int
			}{{"p50-µs", len(took) / 2}, {"p99-µs", len(took) * 99 / 100}, {"worst-µs", len(took) - 1}} {
				b.ReportMetric(float64(took[of.at].Microseconds()), of.name)
			}
		})
	}
}
