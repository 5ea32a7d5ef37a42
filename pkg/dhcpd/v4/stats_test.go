package v4_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vnetd/vnetd/internal/histogram"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
)

// The state of the pool follows what clients do.
func TestPoolStats(t *testing.T) {
	cfg := func() v4.Config {
		c := testConfig()
		c.Reservations = append(c.Reservations, dhcpd.Reservation{MAC: mac(9), Addr: ip(105)})
		return c
	}
	simulated(t, cfg, func(t *testing.T, e *env) {
		want := func(when string, want dhcpd.PoolStats) {
			t.Helper()
			want.Dynamic, want.Reserved = 9, 2
			if diff := cmp.Diff(want, e.srv.Stats().Pool); diff != "" {
				t.Errorf("%s (-want +got):\n%s", when, diff)
			}
		}
		want("in the beginning", dhcpd.PoolStats{})
		a := e.lease(mac(2))
		e.discover(mac(3))
		want("a lease and an offer", dhcpd.PoolStats{Bound: 1, Offered: 1})
		e.release(mac(2), a) // and the probe's lease
		want("a release", dhcpd.PoolStats{Bound: 1, Offered: 1, Former: 1})
		b := e.lease(mac(4))
		e.send(dhcpv4.MessageTypeDecline, mac(4), requested(b), serverID(serverAddr))
		e.quiet()
		want("a conflict", dhcpd.PoolStats{Bound: 1, Offered: 1, Former: 1, Declined: 1})
		if n := e.srv.Stats().Conflicts; n != 1 {
			t.Errorf("%d conflicts, want 1", n)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		want("two hours later", dhcpd.PoolStats{Former: 2})
	})
}

// Each call of the store falls into one class of the histogram.
func TestCommitLatency(t *testing.T) {
	simulated(t, testConfig, func(t *testing.T, e *env) {
		e.lease(mac(2))
		e.store.Gate = make(chan struct{})
		go func() {
			time.Sleep(30 * time.Millisecond)
			close(e.store.Gate)
		}()
		e.lease(mac(3))
		got := e.srv.Stats().CommitLatency
		want := histogram.Counts{Bounds: got.Bounds, Counts: make([]uint64, len(got.Bounds)+1), Sum: 30 * time.Millisecond}
		want.Counts[0] = 1
		for i, bound := range got.Bounds {
			if bound == 50*time.Millisecond {
				want.Counts[i] = 1
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("latency (-want +got):\n%s", diff)
		}
	})
}

// TestOverlappingRangesCountOnce counts the addresses of ranges that overlap, of which
// one is the server's own and one is reserved.
func TestOverlappingRangesCountOnce(t *testing.T) {
	cfg := func() v4.Config {
		c := testConfig()
		c.Ranges = []dhcpd.Range{
			{Start: ip(30), End: ip(49)}, {Start: c.Server, End: c.Server}, {Start: ip(40), End: ip(59)}, {Start: ip(45), End: ip(48)},
		}
		c.Reservations = []dhcpd.Reservation{{MAC: mac(9), Addr: ip(45)}}
		return c
	}
	simulated(t, cfg, func(t *testing.T, e *env) {
		if got := e.srv.Stats().Pool.Dynamic; got != 29 {
			t.Errorf("%d addresses are for everybody, want 29", got)
		}
	})
}
