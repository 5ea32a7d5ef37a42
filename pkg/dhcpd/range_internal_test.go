package dhcpd

import (
	"net/netip"
	"testing"
)

func TestDistance(t *testing.T) {
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
