package translate

import (
	"net/netip"
	"testing"

	"github.com/vnetd/vnetd/pkg/netdef"
)

func TestPoolCountsAnAddressOnce(t *testing.T) {
	addr := netip.MustParseAddr
	for _, c := range []struct {
		address string
		ranges  []netdef.DHCPRange
		want    uint64
	}{
		{"192.0.2.1", []netdef.DHCPRange{{Start: addr("192.0.2.50"), End: addr("192.0.2.70")}, {Start: addr("192.0.2.2"), End: addr("192.0.2.60")}}, 69},
		{"192.0.2.5", []netdef.DHCPRange{{Start: addr("192.0.2.2"), End: addr("192.0.2.9")}, {Start: addr("192.0.2.4"), End: addr("192.0.2.6")}}, 7},
		{"2001:db8::1", []netdef.DHCPRange{{Start: addr("2001:db8::2"), End: addr("2001:db9::")}, {Start: addr("2001:db8::5"), End: addr("2001:dba::")}}, 1<<64 - 1},
		{"::2", []netdef.DHCPRange{
			{Start: addr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0"), End: addr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")},
			{Start: addr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), End: addr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")},
		}, 16},
	} {
		ip := &netdef.IP{Address: addr(c.address), DHCP: &netdef.DHCP{Ranges: c.ranges}}
		if got := newPool(ip, nil).Size; got != c.want {
			t.Errorf("%v has %d addresses, want %d", c.ranges, got, c.want)
		}
	}
}
