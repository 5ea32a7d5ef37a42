package subnet_test

import (
	"bytes"
	"cmp"
	"net/netip"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/pkg/netdef/subnet"
)

// takenBy reports as taken what overlaps one of the prefixes.
func takenBy(prefixes ...string) func(netip.Prefix) bool {
	return func(p netip.Prefix) bool {
		for _, text := range prefixes {
			if netip.MustParsePrefix(text).Overlaps(p) {
				return true
			}
		}
		return false
	}
}

func TestChoose4(t *testing.T) {
	for name, tt := range map[string]struct {
		taken []string
		want  string
		bits  int
	}{
		"nothing is taken":           {nil, "192.168.100.0/24", 0},
		"the first is":               {[]string{"192.168.100.0/24"}, "192.168.101.0/24", 0},
		"part of the first is":       {[]string{"192.168.100.128/25"}, "192.168.101.0/24", 0},
		"libvirt's default is next":  {[]string{"192.168.96.0/20", "192.168.112.0/21", "192.168.120.0/23"}, "192.168.123.0/24", 0},
		"all of 192.168 is a VPN's":  {[]string{"192.168.0.0/16"}, "10.112.0.0/24", 0},
		"a third octet comes to end": {[]string{"192.168.0.0/16", "10.112.0.0/16"}, "10.113.0.0/24", 0},
		"a large one":                {[]string{"192.168.100.5/32"}, "192.168.104.0/22", 22},
		"one that fits in 10 alone":  {nil, "10.112.0.0/12", 12},
		"a small one":                {[]string{"192.168.100.64/26"}, "192.168.100.0/26", 26},
		"the next small one":         {[]string{"192.168.100.0/26"}, "192.168.101.0/30", 30},
	} {
		got, err := subnet.Choose4(cmp.Or(tt.bits, subnet.Bits4), takenBy(tt.taken...))
		if err != nil || got.String() != tt.want {
			t.Errorf("%s: %v, %v, want %s", name, got, err, tt.want)
		}
	}
	if got, err := subnet.Choose4(9, takenBy()); err == nil || !strings.Contains(err.Error(), "/9 ") {
		t.Errorf("one that has room nowhere: %v, %v", got, err)
	}
	if got, err := subnet.Choose4(24, takenBy("0.0.0.0/0")); err == nil || !strings.Contains(err.Error(), "192.168.100.0/24") {
		t.Errorf("everything is taken: %v, %v, want an error that says what was looked at", got, err)
	}
}

// TestChoose4LeavesPools takes subnets one after the other, far into the second span:
// none of them is a container engine's or a VPN's, and none comes twice.
func TestChoose4LeavesPools(t *testing.T) {
	pools := takenBy("172.16.0.0/12", "10.88.0.0/16", "10.42.0.0/16", "10.43.0.0/16", "10.244.0.0/16", "100.64.0.0/10", "10.96.0.0/12", "192.168.122.0/24")
	given := make(map[netip.Prefix]bool)
	for range 500 {
		p, err := subnet.Choose4(24, func(p netip.Prefix) bool { return given[p] })
		if err != nil || given[p] || !p.Addr().IsPrivate() || pools(p) {
			t.Fatalf("after %d: %v, %v, want a private one that is no program's", len(given), p, err)
		}
		given[p] = true
	}
}

func TestChoose6(t *testing.T) {
	random := []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	got, err := subnet.Choose6(bytes.NewReader(random), 64, takenBy("fd01:203:405::/48"))
	if err != nil || got.String() != "fd06:708:90a::/64" {
		t.Errorf("the second one: %v, %v, want fd06:708:90a::/64", got, err)
	}
	for bits, want := range map[int]string{44: "fd01:203:400::/44", 56: "fd01:203:405::/56", 120: "fd01:203:405::/120"} {
		if got, err := subnet.Choose6(bytes.NewReader(random), bits, takenBy()); err != nil || got.String() != want {
			t.Errorf("one of %d bits: %v, %v, want %s", bits, got, err, want)
		}
	}
	if got, err := subnet.Choose6(bytes.NewReader(random), 64, takenBy("fd00::/8")); err == nil {
		t.Errorf("without randomness: %v, want an error", got)
	}
	if got, err := subnet.Choose6(zeros{}, 64, takenBy("fc00::/7")); err == nil || !strings.Contains(err.Error(), "fd00::/8") {
		t.Errorf("all are taken: %v, %v, want an error that says so", got, err)
	}
}

// zeros is a source of bytes that are all zero.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
