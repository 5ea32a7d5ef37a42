package dnsmasq_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vnetd/vnetd/pkg/dnsmasq"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// parseDNS returns what lines say of names, and what is not understood.
func parseDNS(lines ...string) (dnsmasq.DNS, []string) {
	o := dnsmasq.Parse(lines)
	return o.DNS, o.Unknown
}

// optionCases are options and what they say, nil where they are not understood.
var optionCases = []struct {
	option string
	want   *dnsmasq.DNS
}{
	{"address=/example.com/192.0.2.7", &dnsmasq.DNS{Addresses: []dnsmasq.Address{{Domain: "example.com", Addr: addr("192.0.2.7")}}}},
	{"address=/.apps.example/api.example/2001:db8::7", &dnsmasq.DNS{Addresses: []dnsmasq.Address{
		{Domain: "apps.example", Addr: addr("2001:db8::7")}, {Domain: "api.example", Addr: addr("2001:db8::7")},
	}}},
	{"address=/#/192.0.2.7", &dnsmasq.DNS{Addresses: []dnsmasq.Address{{Addr: addr("192.0.2.7")}}}},
	{"address=/ads.example/#", &dnsmasq.DNS{Addresses: []dnsmasq.Address{
		{Domain: "ads.example", Addr: addr("0.0.0.0")}, {Domain: "ads.example", Addr: addr("::")},
	}}},
	{"address=/ads.example/", &dnsmasq.DNS{LocalDomains: []string{"ads.example"}}},
	{"server=/corp.example/lab.example/192.0.2.53", &dnsmasq.DNS{Servers: []dnsmasq.Server{
		{Domain: "corp.example", Addr: addr("192.0.2.53")}, {Domain: "lab.example", Addr: addr("192.0.2.53")},
	}}},
	{"server=/corp.example/192.0.2.53#5353", &dnsmasq.DNS{Servers: []dnsmasq.Server{{Domain: "corp.example", Addr: addr("192.0.2.53"), Port: 5353}}}},
	{"server=2001:db8::53", &dnsmasq.DNS{Servers: []dnsmasq.Server{{Addr: addr("2001:db8::53")}}}},
	{"server=/open.corp.example/#", &dnsmasq.DNS{Servers: []dnsmasq.Server{{Domain: "open.corp.example"}}}},
	{" server = /lan.example/ ", &dnsmasq.DNS{LocalDomains: []string{"lan.example"}}},
	{"dhcp-ttl=60", &dnsmasq.DNS{HostTTL: time.Minute}},
	{"dhcp-ttl=soon", nil},
	{"stop-dns-rebind", &dnsmasq.DNS{StopRebind: true}},
	{"stop-dns-rebind=1", nil},
	{"rebind-domain-ok=/a.example/b.example/", &dnsmasq.DNS{RebindDomains: []string{"a.example", "b.example"}}},
	{"rebind-domain-ok=/a.example/192.0.2.1", nil},
	{"local=/lan.example/", &dnsmasq.DNS{LocalDomains: []string{"lan.example"}}},
	{"cname=www,web.vm.example,host,60", &dnsmasq.DNS{CNAMEs: []dnsmasq.CNAME{
		{Name: "www", Target: "host", TTL: time.Minute}, {Name: "web.vm.example", Target: "host", TTL: time.Minute},
	}}},
	{"cname=*.apps.example,host", &dnsmasq.DNS{CNAMEs: []dnsmasq.CNAME{{Name: "*.apps.example", Target: "host"}}}},
	{"cname=www,host", &dnsmasq.DNS{CNAMEs: []dnsmasq.CNAME{{Name: "www", Target: "host"}}}},
	{"host-record=a,b.vm.example,192.0.2.7,2001:db8::7,30", &dnsmasq.DNS{Hosts: []dnsmasq.HostRecord{
		{Name: "a", Addr: addr("192.0.2.7"), TTL: 30 * time.Second},
		{Name: "a", Addr: addr("2001:db8::7"), TTL: 30 * time.Second},
		{Name: "b.vm.example", Addr: addr("192.0.2.7"), TTL: 30 * time.Second},
		{Name: "b.vm.example", Addr: addr("2001:db8::7"), TTL: 30 * time.Second},
	}}},
	{`txt-record=note,"a, b",c`, &dnsmasq.DNS{TXT: []dnsmasq.TXT{{Name: "note", Value: `"a, b",c`}}}},
	{"txt-record=note", &dnsmasq.DNS{TXT: []dnsmasq.TXT{{Name: "note"}}}},
	{"srv-host=_ldap._tcp.example.com,dc.example.com,389,1,2", &dnsmasq.DNS{SRV: []dnsmasq.SRV{
		{Service: "ldap", Protocol: "tcp", Domain: "example.com", Target: "dc.example.com", Port: 389, Priority: 1, Weight: 2},
	}}},
	{"srv-host=_sip._udp", &dnsmasq.DNS{SRV: []dnsmasq.SRV{{Service: "sip", Protocol: "udp"}}}},

	{"", nil},
	{"address", nil},
	{"address=/example.com", nil},
	{"address=/exa mple/192.0.2.7", nil},
	{"address=/example.com/192.0.2.300", nil},
	{"address=/good.example//192.0.2.7", nil},
	{"server=/corp.example/192.0.2.53@eth0", nil},
	{"server=/corp.example/192.0.2.53#0", nil},
	{"server=/#/192.0.2.53", nil},
	{"server=//192.0.2.53", nil},
	{"server=#", nil},
	{"server=", nil},
	{"cname=*,host", nil},
	{"cname=a.*.example.com,host", nil},
	{"cname=www,*.example.com", nil},
	{"cname=www", nil},
	{"cname=www,60", nil},
	{"host-record=a", nil},
	{"host-record=192.0.2.7", nil},
	{"host-record=a,192.0.2.7,b", nil},
	{"txt-record=", nil},
	{"srv-host=sip.udp", nil},
	{"srv-host=_sip._udp,target,65536", nil},
	{"srv-host=_sip._udp,a b", nil},
	{"srv-host=_sip._udp,a,1,2,3,4", nil},
}

// TestDNS reads each option alone, and all of them.
func TestDNS(t *testing.T) {
	var all, bad []string
	for _, c := range optionCases {
		got, unknown := parseDNS(c.option)
		want, wantUnknown := c.want, []string(nil)
		if want == nil {
			want, wantUnknown = new(dnsmasq.DNS), []string{c.option}
			bad = append(bad, c.option)
		}
		if diff := cmp.Diff(*want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("%q (-want +got):\n%s", c.option, diff)
		}
		if !slices.Equal(unknown, wantUnknown) {
			t.Errorf("%q: unknown are %q", c.option, unknown)
		}
		all = append(all, c.option)
	}
	_, unknown := parseDNS(all...)
	if diff := cmp.Diff(bad, unknown); diff != "" {
		t.Errorf("unknown of all (-want +got):\n%s", diff)
	}
}
