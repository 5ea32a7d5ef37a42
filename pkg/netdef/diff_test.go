package netdef_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/pkg/netdef"
)

func TestDiff(t *testing.T) {
	const (
		ip   = "<ip address='192.0.2.1' prefix='24'>"
		dhcp = "<dhcp><range start='192.0.2.2' end='192.0.2.99'/>" +
			"<host mac='52:54:00:00:00:01' name='a' ip='192.0.2.7'/><host name='b' ip='192.0.2.8'/><host name='c' ip='192.0.2.9'/></dhcp>"
	)
	for _, tt := range []struct {
		name, old, new string
		want           []string
	}{
		{"the same", ip + dhcp + "</ip>", ip + dhcp + "</ip>", nil},
		{"attribute", "<mtu size='1400'/>", "<mtu size='1300'/>", []string{"network/mtu: <mtu size='1400'/> becomes <mtu size='1300'/>"}},
		{"text", "<title>a</title>", "<title>b</title>", []string{"network/title: <title>a</title> becomes <title>b</title>"}},
		{"new", ip + "</ip>", "<forward mode='nat'><nat><port start='5000' end='6000'/></nat></forward>" + ip + "</ip>", []string{"network/forward: <forward mode='nat'> is new"}},
		{
			"address", ip + dhcp + "</ip>", strings.ReplaceAll(ip+dhcp+"</ip>", "192.0.2.1'", "192.0.2.254'"),
			[]string{"network/ip: <ip address='192.0.2.1' prefix='24'> becomes <ip address='192.0.2.254' prefix='24'>"},
		},
		{
			"one host of three", ip + dhcp + "</ip>", ip + strings.Replace(dhcp, "192.0.2.7", "192.0.2.17", 1) + "</ip>",
			[]string{"network/ip/dhcp/host[1]: <host mac='52:54:00:00:00:01' name='a' ip='192.0.2.7'/> becomes <host mac='52:54:00:00:00:01' name='a' ip='192.0.2.17'/>"},
		},
		{
			"a host goes, a host comes", ip + dhcp + "</ip>", ip + strings.Replace(dhcp, "name='b'", "name='d'", 1) + "</ip>",
			[]string{"network/ip/dhcp/host[2]: <host name='b' ip='192.0.2.8'/> becomes <host name='d' ip='192.0.2.8'/>"},
		},
		{
			"order", "<route address='10.0.0.0' prefix='8' gateway='192.0.2.2'/><route address='172.16.0.0' prefix='12' gateway='192.0.2.2'/>" + ip + "</ip>",
			"<route address='172.16.0.0' prefix='12' gateway='192.0.2.2'/><route address='10.0.0.0' prefix='8' gateway='192.0.2.2'/>" + ip + "</ip>", nil,
		},
		{
			"a second address before the first", ip + "</ip>", "<ip address='198.51.100.1' prefix='24'/>" + ip + "</ip>",
			[]string{"network/ip[1]: <ip address='198.51.100.1' prefix='24'/> is new"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, c := range netdef.Diff(parse(t, []byte(network(tt.old))), parse(t, []byte(network(tt.new)))) {
				got = append(got, c.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Diff (-want +got):\n%s", diff)
			}
		})
	}
}
