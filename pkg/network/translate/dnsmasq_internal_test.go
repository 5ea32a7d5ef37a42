package translate

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
	"github.com/vnetd/vnetd/pkg/dhcpd/v6"
	"github.com/vnetd/vnetd/pkg/dnsd"
	"github.com/vnetd/vnetd/pkg/dnsmasq"
)

// FuzzDnsmasq: whatever the lines are, what they make of a network is valid.
func FuzzDnsmasq(f *testing.F) {
	for _, s := range []string{
		"dhcp-option=3", "dhcp-option=option:ntp-server,0.0.0.0", "dhcp-option=121,10.0.0.0/8,192.0.2.9", "dhcp-option=208,f1:00",
		"dhcp-host=00:00:5e:00:53:02,guest,192.0.2.20,1h", "dhcp-host=id:0:3:0:1:2:3,[2001:db8:1::20]", "dhcp-boot=f,s,192.0.2.9", `dhcp-option=67,"a,b"`,
		"dhcp-host=00:00:5e:00:53:02,00:00:5e:00:53:*,tag:!red,set:blue,192.0.2.20,[::20]", "dhcp-host=guest,ignore,id:*", "dhcp-option=58,60",
		"dhcp-option=option6:ntp-server,[::],[fd00::]", "dhcp-option=vi-encap:2,option6:7,text", "dhcp-match=set:a,vi-encap:311,x",
		"dhcp-vendorclass=set:a,enterprise:343,HTTPClient", "dhcp-match=set:b,option6:61,7",
		"address=/#/192.0.2.7", "server=/corp.example/192.0.2.53#5353", "cname=*.apps.example,host,60", "host-record=a,b.vm.example,192.0.2.7,2001:db8::7,30",
		`txt-record=note,"a, b",c`, "srv-host=_ldap._tcp.example.com,dc.example.com,389,1,2", "dhcp-ttl=60", "rebind-domain-ok=/a.example/b.example/",
	} {
		f.Add(s)
	}
	mac, server, server6 := net.HardwareAddr{0, 0, 0x5e, 0, 0x53, 1}, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8:1::1")
	f.Fuzz(func(t *testing.T, text string) {
		lines := strings.Split(text, "\n")
		o := dnsmasq.Parse(lines)
		if len(o.Unknown) > len(lines) {
			t.Errorf("not understood are %q", o.Unknown)
		}
		c4 := v4.Config{Settings: dhcpd.Settings{Interface: "br0", MAC: mac, Server: server, Prefix: netip.PrefixFrom(server, 24), Store: dhcpdtest.NewStore()}}
		addDnsmasqDHCP(&c4, &o.DHCP)
		c6 := v6.Config{
			Settings: dhcpd.Settings{
				Interface: "br0",
				MAC:       mac,
				Server:    server6,
				Prefix:    netip.PrefixFrom(server6, 64),
				Store:     dhcpdtest.NewStore(),
			},
		}
		addDnsmasqDHCP6(&c6, &o.DHCP)
		dns := dnsd.Config{Addrs: []netip.Addr{server}}
		addDnsmasqDNS(&dns, &o.DNS)
		for _, err := range []error{c4.Validate(), c6.Validate(), dns.Validate()} {
			if err != nil {
				t.Errorf("%q: %v", text, err)
			}
		}
	})
}
