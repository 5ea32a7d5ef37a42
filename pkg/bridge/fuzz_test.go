package bridge

import (
	"bytes"
	"maps"
	"os"
	"testing"
)

// FuzzSysctlFile: a file that was read and written reads the same.
func FuzzSysctlFile(f *testing.F) {
	f.Add([]byte("# comment\nnet/ipv4/ip_forward = 1\nnet/ipv6/conf/eno1.5/accept_ra = 2\n"))
	f.Add([]byte("net.ipv4.ip_forward=1\nnet/a = b = c\n = \nnet/x =  \r"))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys := parseSysctlFile(data)
		if again := parseSysctlFile(formatSysctlFile(keys)); !maps.Equal(keys, again) {
			t.Errorf("%q: read %q, then %q", data, keys, again)
		}
	})
}

// FuzzAdvertisedRoutes reads what /proc/net/ipv6_route could hold.
func FuzzAdvertisedRoutes(f *testing.F) {
	zero := "00000000000000000000000000000000"
	f.Add([]byte(zero + " 00 " + zero + " 00 fe800000000000000000000000000001 00000400 00000001 00000000 00450003     eno1\n"))
	f.Add([]byte(zero + " 00 " + zero + " 00 xx 00000400 00000001 00000000 00450003     eno1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := parseAdvertised(bytes.NewReader(data))
		if err == nil && len(all) > len(data) {
			t.Errorf("%d routes of %d bytes", len(all), len(data))
		}
	})
}

// TestAdvertisedRoutesOfThisKernel: the format is what the running kernel writes.
func TestAdvertisedRoutesOfThisKernel(t *testing.T) {
	data, err := os.ReadFile("/proc/net/ipv6_route")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseAdvertised(bytes.NewReader(data)); err != nil {
		t.Error(err)
	}
}
