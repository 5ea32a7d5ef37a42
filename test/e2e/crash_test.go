package e2e

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/test/story"
)

// begin tells the story up to the guest's lease.
func begin(t *testing.T) (*story.Story, *nstest.Vnetd) {
	t.Helper()
	s := story.New(t)
	s.Lab = nstest.NewLab(t)
	v := s.Lab.StartVnetd()
	startNetwork(t, s.Lab, story.Network)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for _, do := range []func(context.Context, story.Say) error{s.BootGuest, s.TakeLease} {
		if err := do(ctx, t.Logf); err != nil {
			t.Fatal(err)
		}
	}
	return s, v
}

// The download of the crash test: long enough that the daemon is gone and back
// while it runs, paced so that a stall is seen in the guest.
const (
	size = 24 << 20
	rate = 3 << 20
	// maxStall is the longest time without a byte. A connection that lost its
	// rules or its port would be reset or wait for much longer.
	maxStall = 3 * time.Second
)

func TestKilledDuringDownload(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s, v := begin(t)
		before, known := state(t), leases(t)
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		startDownload(t, ctx, s)

		v.Kill()
		awaitBytes(t, ctx, s, size/3)
		same(t, "links and rules while vnetd is gone", before, state(t))
		s.Lab.StartVnetd()
		if got := downloaded(t, ctx, s); got >= size {
			t.Fatalf("the download was complete (%d bytes) before vnetd was back", got)
		}

		finishDownload(t, ctx, s)
		same(t, "links and rules after vnetd is back", before, state(t))
		same(t, "leases", known, leases(t))
		if err := s.ResolveNames(ctx, t.Logf); err != nil {
			t.Errorf("after vnetd is back: %v", err)
		}
	})
}

// startDownload has the guest download from the LAN host, and returns when some
// of it has come.
func startDownload(t *testing.T, ctx context.Context, s *story.Story) {
	t.Helper()
	inGuest(t, ctx, s, fmt.Sprintf("wget -q -O /tmp/d 'http://%s/download?bytes=%d&rate=%d' && touch /tmp/complete &", nstest.LANHost, size, rate))
	inGuest(t, ctx, s, "while :; do echo $(cut -d' ' -f1 /proc/uptime) $(stat -c %s /tmp/d); usleep 50000; done >/tmp/samples 2>/dev/null &")
	awaitBytes(t, ctx, s, size/8)
}

// finishDownload waits for the end of the download, which must not have stalled.
func finishDownload(t *testing.T, ctx context.Context, s *story.Story) {
	t.Helper()
	awaitBytes(t, ctx, s, size)
	inGuest(t, ctx, s, "for i in 1 2 3 4 5 6 7 8 9 10; do [ -e /tmp/complete ] && break; sleep 1; done; [ -e /tmp/complete ]")
	// The last sample must have seen the last byte.
	inGuest(t, ctx, s, fmt.Sprintf("for i in 1 2 3 4 5 6 7 8 9 10; do grep -q ' %d$' /tmp/samples && break; sleep 1; done", size))
	stall := longestStall(t, inGuest(t, ctx, s, "cat /tmp/samples"))
	t.Logf("longest time without a byte: %v", stall)
	if stall > maxStall {
		t.Errorf("the guest's download stalled for %v", stall)
	}
}

// inGuest runs a command in the guest that must succeed.
func inGuest(t *testing.T, ctx context.Context, s *story.Story, command string) string {
	t.Helper()
	out, err := s.InGuest(ctx, command)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// downloaded is how many bytes the guest has.
func downloaded(t *testing.T, ctx context.Context, s *story.Story) int {
	t.Helper()
	out := inGuest(t, ctx, s, "stat -c %s /tmp/d 2>/dev/null || echo 0")
	n, err := strconv.Atoi(strings.TrimSpace(out))
	if err != nil {
		t.Fatalf("size of the download: %v", err)
	}
	return n
}

// awaitBytes waits until the guest has n bytes.
func awaitBytes(t *testing.T, ctx context.Context, s *story.Story, n int) {
	t.Helper()
	nstest.Eventually(t, limit, fmt.Sprintf("download of %d bytes", n), func() error {
		if got := downloaded(t, ctx, s); got < n {
			return fmt.Errorf("%d bytes so far", got)
		}
		return nil
	})
}

// maxGap is the most that one sample counts: a guest that was not running took
// no sample, and its pause says nothing of its network.
const maxGap = 200 * time.Millisecond

// longestStall is the longest time, by the guest's clock, in which the download
// did not grow between its first byte and its last. A sample is a line with the
// uptime in seconds and the bytes so far.
func longestStall(t *testing.T, samples string) time.Duration {
	t.Helper()
	var longest, stall, last time.Duration
	known := 0
	for line := range strings.Lines(samples) {
		var seconds float64
		var got int
		if n, _ := fmt.Sscan(line, &seconds, &got); n != 2 {
			continue
		}
		at := time.Duration(seconds * float64(time.Second))
		if known > 0 {
			stall += min(at-last, maxGap)
		}
		if got > known {
			longest, stall = max(longest, stall), 0
		}
		known, last = got, at
	}
	if known != size {
		t.Fatalf("the samples end at %d bytes of %d", known, size)
	}
	return longest
}

func TestLongestStall(t *testing.T) {
	for samples, want := range map[string]time.Duration{
		fmt.Sprintf("1.0 0\n5.0 10\n5.1 20\n5.2 %d\n9.0 %[1]d\n", size):         100 * time.Millisecond,
		fmt.Sprintf("1.0 10\n1.1 10\n1.25 10\n1.35 20\n1.4 %d\n", size):         350 * time.Millisecond,
		fmt.Sprintf("1.0 10\n9.0 10\ncut of\n9.1 20\n9.15 %d\n9.3 %[1]d", size): 300 * time.Millisecond,
	} {
		if got := longestStall(t, samples).Round(time.Millisecond); got != want {
			t.Errorf("the longest stall of %q is %v, want %v", samples, got, want)
		}
	}
}

// Wherever a start is cut off, the next daemon and the next start make it right.
func TestKilledDuringStart(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		v := l.StartVnetd()
		startNetwork(t, l, story.Network)
		want, cut := state(t), 0
		for i, moment := range moments(t) {
			vnetctl(t, l, "stop", story.Network)
			if killDuringStart(t, l, v, moment) {
				cut++
			}
			v = l.StartVnetd()
			if !networks(t)[story.Network].Active {
				vnetctl(t, l, "start", story.Network)
			}
			same(t, fmt.Sprintf("the start after the one killed at moment %d", i), want, state(t))
		}
		t.Logf("%d of %d starts were cut off", cut, len(moments(t)))
		sameAsListed(t)
		guest := nstest.Guest(t, story.Bridge, "g1", "")
		if got := leaseOf(t, guest, story.Host); got != story.Address {
			t.Errorf("the guest's address is %q, want %s", got, story.Address)
		}
	})
}

// moments are functions that return when vnetd is to be killed: after some time,
// and at the sight of what a start makes.
func moments(t *testing.T) []func() {
	t.Helper()
	var all []func()
	for delay := range 15 {
		all = append(all, func() { time.Sleep(time.Duration(2*delay) * time.Millisecond) })
	}
	for _, made := range []string{
		"/sys/class/net/" + story.Bridge,
		"/sys/class/net/" + story.Bridge + "/bridge/stp_state",
		"/proc/sys/net/ipv6/conf/" + story.Bridge,
	} {
		all = append(all, func() {
			nstest.Eventually(t, limit, made+" to appear", func() error { _, err := os.Stat(made); return err })
		})
	}
	return all
}

// killDuringStart kills vnetd at some moment after a start was asked for. It
// reports whether the start was cut off.
func killDuringStart(t *testing.T, l *nstest.Lab, v *nstest.Vnetd, moment func()) bool {
	t.Helper()
	result := make(chan nstest.Result)
	go func() { result <- l.Vnetctl(t.Context(), "start", story.Network) }()
	moment()
	v.Kill()
	return (<-result).Code != 0
}

// Wherever the making of a port is cut off, no TAP device is left.
func TestKilledDuringPort(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		v := l.StartVnetd()
		startNetwork(t, l, story.Network)
		before := state(t)
		for delay := range 12 {
			done := make(chan struct{})
			go func() {
				defer close(done)
				// Its outcome depends on when the kill comes.
				_, _ = runHelper(t, l, nil, story.Network)
			}()
			time.Sleep(time.Duration(delay) * time.Millisecond)
			v.Kill()
			<-done
			v = l.StartVnetd()
			nstest.Eventually(t, limit, "the port going", func() error { return noPorts(t) })
			same(t, fmt.Sprintf("a port killed after %d ms", delay), before, state(t))
		}
	})
}

// Guests neither lose their port with vnetd nor keep it when they end meanwhile.
func TestPortsWhileVnetdIsGone(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		v := l.StartVnetd()
		startNetwork(t, l, story.Network)
		before := state(t)
		s := &story.Story{Lab: l}
		var guests []*nstest.QEMU
		// The bridge's name does for the network's.
		for _, network := range []string{story.Network, story.Bridge} {
			q := nstest.BootGuest(t, nstest.GuestConfig{Name: story.Host, Netdev: s.Netdev(network), NoDHCP: true})
			if _, err := q.LinkUp(t.Context()); err != nil {
				t.Fatal(err)
			}
			guests = append(guests, q)
		}
		if got := ports(t); len(got) != 2 {
			t.Fatalf("with two guests the ports are %+v", got)
		}
		v.Kill()
		guests[0].Kill()
		l.StartVnetd()
		nstest.Eventually(t, limit, "one port going", func() error {
			if got := ports(t); len(got) != 1 {
				return fmt.Errorf("there are %d ports", len(got))
			}
			return nil
		})
		if _, err := os.Stat("/sys/class/net/" + ports(t)[0].IfName); err != nil {
			t.Errorf("the port of the living guest has no device: %v", err)
		}
		guests[1].Kill()
		nstest.Eventually(t, limit, "the other port going", func() error { return noPorts(t) })
		same(t, "links and rules after both guests", before, state(t))
	})
}
