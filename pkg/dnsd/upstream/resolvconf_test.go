package upstream_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/pkg/dnsd/upstream"
)

// FuzzResolvConf reads any file.
func FuzzResolvConf(f *testing.F) {
	for _, c := range resolvConfCases {
		f.Add([]byte(c.text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		addrs := upstream.ParseResolvConf(text)
		if len(addrs) > 8 {
			t.Errorf("%d servers", len(addrs))
		}
		for i, a := range addrs {
			if !a.IsValid() || a.Is4In6() || slices.Contains(addrs[:i], a) {
				t.Errorf("%v", addrs)
			}
		}
	})
}

var resolvConfCases = []struct {
	text string
	want []string
}{
	{"", nil},
	{"nameserver 192.0.2.53\n", []string{"192.0.2.53"}},
	{"nameserver 192.0.2.53", []string{"192.0.2.53"}},
	{"# nameserver 192.0.2.1\n; nameserver 192.0.2.2\n\tnameserver\t192.0.2.3 # mine\r\n", []string{"192.0.2.3"}},
	{"search example.com\noptions timeout:1 rotate\nnameserver 2001:db8::53\nnameserver fe80::1%eth0\n", []string{"2001:db8::53", "fe80::1%eth0"}},
	{"nameserver\nnameserver example.com\nnameserver 192.0.2.300\nnameserver 192.0.2.4\n", []string{"192.0.2.4"}},
	{"nameserver 192.0.2.1\nnameserver ::ffff:192.0.2.1\nnameserver 192.0.2.1\n", []string{"192.0.2.1"}},
	{"nameservers 192.0.2.1\nNameserver 192.0.2.2\n", nil},
	{
		"nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\nnameserver 192.0.2.5\n" +
			"nameserver 192.0.2.6\nnameserver 192.0.2.7\nnameserver 192.0.2.8\nnameserver 192.0.2.9\n",
		[]string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5", "192.0.2.6", "192.0.2.7", "192.0.2.8"},
	},
}

func TestParseResolvConf(t *testing.T) {
	for _, c := range resolvConfCases {
		var got []string
		for _, a := range upstream.ParseResolvConf([]byte(c.text)) {
			got = append(got, a.String())
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", c.text, diff)
		}
	}
}
