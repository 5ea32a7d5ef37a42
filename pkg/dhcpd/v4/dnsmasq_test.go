package v4_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
	"github.com/vnetd/vnetd/pkg/dhcpd/v6"
)

// applied is what lines make of a network, in short, and what is not understood.
func applied(lines ...string) (options, hosts, boot string, unknown []string) {
	o, unknown := v4.ParseDnsmasqOptions(lines)
	c := v4.Config{Server: serverAddr}
	c6 := v6.Config{}
	o.Apply(&c)
	c6.Reservations = o.Reservations6()
	for _, opt := range c.Options {
		options += fmt.Sprintf("%d:%q ", opt.Code, opt.Value)
		if opt.Force {
			options += "force "
		}
	}
	for _, r := range append(c.Reservations, c6.Reservations...) {
		hosts += strings.TrimSpace(fmt.Sprintf("%v %x %s %v %v", r.MAC, r.DUID, r.Name, r.Addr, r.LeaseTime)) + "; "
	}
	if c.BootFile != "" {
		boot = fmt.Sprint(c.BootFile, " ", c.BootServer)
	}
	return options, hosts, boot, unknown
}

func TestDnsmasqOption(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"dhcp-option=3", `3:"" `},
		{"dhcp-option=3,192.0.2.9", `3:"\xc0\x00\x02\t" `},
		{"dhcp-option=option:router,192.0.2.9", `3:"\xc0\x00\x02\t" `},
		{"dhcp-option=option:ntp-server,0.0.0.0,192.0.2.9", `42:"\xc0\x00\x02\x01\xc0\x00\x02\t" `},
		{"dhcp-option = option:domain-search , vm.example,b.example.", `119:"\x02vm\aexample\x00\x01b\aexample\x00" `},
		{"dhcp-option=121,198.51.100.0/24,192.0.2.9", `121:"\x18\xc63d\xc0\x00\x02\t" `},
		{"dhcp-option=26,1400", `26:"\x05x" `},
		{"dhcp-option=66,192.0.2.9", `66:"192.0.2.9" `},
		{"dhcp-option-force=208,f1:00:74:7e", `208:"\xf1\x00t~" force `},
		{`dhcp-option=67,"a,b"`, `67:"a,b" `},
		{"dhcp-option=200,7", `200:"\a" `},
		{"dhcp-option=200,300", `200:"\x01," `},
		{"dhcp-option=200,70000", `200:"\x00\x01\x11p" `},
		{"dhcp-option=200,some text", `200:"some text" `},
		{"dhcp-option=252,", `252:"" `},
	} {
		got, _, _, unknown := applied("dhcp-option=3,1.1.1.1", c.line)
		got = strings.TrimPrefix(got, `3:"\x01\x01\x01\x01" `)
		if got != c.want || len(unknown) != 0 {
			t.Errorf("%s: got %s, want %s; unknown %q", c.line, got, c.want, unknown)
		}
	}
}

func TestDnsmasqHost(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"dhcp-host=00:00:5e:00:53:02,192.0.2.20", "00:00:5e:00:53:02   192.0.2.20 0s; "},
		{"dhcp-host=00:00:5e:00:53:02,guest,192.0.2.20,1h", "00:00:5e:00:53:02  guest 192.0.2.20 1h0m0s; "},
		{"dhcp-host=guest,192.0.2.20,infinite", fmt.Sprintf("guest 192.0.2.20 %v; ", dhcpd.Infinite)},
		{"dhcp-host=id:0:3:0:1:2:3,[2001:db8:1::20],guest", "000300010203 guest 2001:db8:1::20 0s; "},
		{"dhcp-host=id:0:3:0:1:2:3,192.0.2.20,[2001:db8:1::20],guest", "guest 192.0.2.20 0s; 000300010203 guest 2001:db8:1::20 0s; "},
		{"dhcp-host=00:00:5e:00:53:02,192.0.2.20,[2001:db8:1::20]", "00:00:5e:00:53:02   192.0.2.20 0s; 00:00:5e:00:53:02   2001:db8:1::20 0s; "},
	} {
		if _, got, _, unknown := applied(c.line); got != c.want || len(unknown) != 0 {
			t.Errorf("%s: got %s, want %s; unknown %q", c.line, got, c.want, unknown)
		}
	}
}

func TestDnsmasqBoot(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"dhcp-boot=pxelinux.0", "pxelinux.0 invalid IP"},
		{"dhcp-boot=pxelinux.0,server,192.0.2.9", "pxelinux.0 192.0.2.9"},
		{"dhcp-boot=http://boot.example/ipxe", "http://boot.example/ipxe invalid IP"},
	} {
		if _, _, got, unknown := applied(c.line); got != c.want || len(unknown) != 0 {
			t.Errorf("%s: got %s, want %s; unknown %q", c.line, got, c.want, unknown)
		}
	}
}

// What is not understood is handed back, and changes nothing.
func TestDnsmasqUnknown(t *testing.T) {
	lines := []string{
		"", "address=/foo/192.0.2.1", "dhcp-option", "dhcp-option=", "dhcp-option=tag:red,3,192.0.2.1", "dhcp-option=53,1",
		"dhcp-option=256,1", "dhcp-option=option:nosuch,1", "dhcp-option=option6:dns-server,[::]", "dhcp-option=121,192.0.2.1",
		"dhcp-option=121,2001:db8::/32,192.0.2.1", "dhcp-option=26,x", "dhcp-option=26,70000", "dhcp-option=119,a b",
		`dhcp-option=67,"open`, "dhcp-option=vendor:PXEClient,1,0.0.0.0", "dhcp-option=encap:175,1,2",
		"dhcp-host=", "dhcp-host=192.0.2.20", "dhcp-host=00:00:5e:00:53:02", "dhcp-host=00:00:5e:00:53:02,set:red,192.0.2.20",
		"dhcp-host=00:00:5e:00:53:02,ignore", "dhcp-host=00:00:5e:00:53:*,192.0.2.20", "dhcp-host=guest,two,192.0.2.20",
		"dhcp-host=id:zz,192.0.2.20", "dhcp-host=id:0:3:0:1:2:3,192.0.2.20", "dhcp-host=guest,[2001:db8::1", "dhcp-host=guest,[192.0.2.1]",
		"dhcp-boot=", "dhcp-boot=tag:efi,ipxe.efi", "dhcp-boot=f,s,x", "dhcp-range=192.0.2.1,192.0.2.9", "log-dhcp",
	}
	options, hosts, boot, unknown := applied(lines...)
	if diff := cmp.Diff(lines, unknown); diff != "" || options+hosts+boot != "" {
		t.Errorf("not understood (-want +got):\n%s\nthe rest made %q", diff, options+hosts+boot)
	}
}

// A guest gets what the lines say.
func TestDnsmasqServed(t *testing.T) {
	cfg := func() v4.Config {
		c := testConfig()
		o, _ := v4.ParseDnsmasqOptions([]string{
			"dhcp-option=3", "dhcp-option=option:ntp-server,0.0.0.0", "dhcp-host=" + mac(2).String() + ",192.0.2.20,10m", "dhcp-boot=a.efi,,192.0.2.9",
		})
		o.Apply(&c)
		return c
	}
	simulated(t, cfg, func(t *testing.T, e *env) {
		r := e.selecting(mac(2), e.discover(mac(2)))
		e.want(r, "ACK 192.0.2.20")
		if got := codes(r); got != "1 6 15 28 42 51 53 54 58 59" {
			t.Errorf("options %s", got)
		}
		if r.BootFileName != "a.efi" || r.ServerIPAddr.String() != "192.0.2.9" || r.IPAddressLeaseTime(0) != 10*time.Minute {
			t.Errorf("got %v", r.Summary())
		}
	})
}

// FuzzDnsmasqOptions: whatever a line is, what it makes of a network is valid.
func FuzzDnsmasqOptions(f *testing.F) {
	for _, s := range []string{
		"dhcp-option=3", "dhcp-option=option:ntp-server,0.0.0.0", "dhcp-option=121,10.0.0.0/8,192.0.2.9", "dhcp-option=208,f1:00",
		"dhcp-host=00:00:5e:00:53:02,guest,192.0.2.20,1h", "dhcp-host=id:0:3:0:1:2:3,[2001:db8:1::20]", "dhcp-boot=f,s,192.0.2.9", `dhcp-option=67,"a,b"`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		o, unknown := v4.ParseDnsmasqOptions([]string{line})
		if len(unknown) > 1 || len(unknown) == 1 && unknown[0] != line {
			t.Errorf("%q: not understood is %q", line, unknown)
		}
		c := testConfig()
		c6 := v6.Config{
			Interface: "br0", MAC: mac(1), Server: dhcpdtest.IP6(1), Prefix: netip.PrefixFrom(dhcpdtest.IP6(0), 64), Store: dhcpdtest.NewStore(),
		}
		o.Apply(&c)
		c6.Reservations = append(o.Reservations6(), c6.Reservations...)
		if err := c.Validate(); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		if err := c6.Validate(); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		for _, r := range c.Reservations {
			if r.Addr == (netip.Addr{}) {
				t.Errorf("%q reserves nothing", line)
			}
		}
	})
}
