package network

import (
	"net/netip"
	"testing"
	"time"
)

func TestPoolDistance(t *testing.T) {
	for _, c := range []struct {
		start, end string
		want       uint64
	}{
		{"192.0.2.10", "192.0.2.20", 10},
		{"192.0.1.255", "192.0.2.0", 1},
		{"2001:db8::ff", "2001:db8::1:0", 0xff01},
		{"2001:db8::", "2001:db8::ffff:ffff:ffff:ffff", 1<<64 - 1},
		{"2001:db8::", "2001:db9::", 1<<64 - 1},
	} {
		if got := distance(netip.MustParseAddr(c.start), netip.MustParseAddr(c.end)); got != c.want {
			t.Errorf("from %s to %s: %d, want %d", c.start, c.end, got, c.want)
		}
	}
}

func TestPaceOfLines(t *testing.T) {
	var p pace
	now := time.Now()
	passed := 0
	for range 5000 {
		if _, ok := p.allow(now); ok {
			passed++
		}
	}
	left, ok := p.allow(now.Add(time.Second))
	if passed != lineBurst || !ok || left != 5000-lineBurst {
		t.Errorf("%d lines passed, then %v after %d", passed, ok, left)
	}
}
