package dnsmasq_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/pkg/dnsmasq"
)

// applied is what lines say of DHCP, in short, and what is not understood.
func applied(lines ...string) (options, hosts, boot string, unknown []string) {
	o := dnsmasq.Parse(lines)
	for _, opt := range o.DHCP.Options {
		options += fmt.Sprintf("%d:%q ", opt.Code, opt.At(netip.MustParseAddr("192.0.2.1")))
		if opt.Force {
			options += "force "
		}
	}
	for _, h := range o.DHCP.Hosts {
		var macs []string
		for _, m := range h.MACs {
			macs = append(macs, m.Addr.String())
		}
		hosts += strings.TrimSpace(fmt.Sprintf("%s %x %s %v %v", strings.Join(macs, "+"), h.ID, h.Name, h.Addrs, h.LeaseTime))
		if h.Ignore {
			hosts += " ignore"
		}
		if h.NoID {
			hosts += " no id"
		}
		if len(h.Set)+len(h.Tags) > 0 {
			hosts += fmt.Sprint(" ", h.Set, h.Tags)
		}
		hosts += "; "
	}
	for _, b := range o.DHCP.Boots {
		boot += fmt.Sprint(b.File, " ", b.Server)
	}
	return options, hosts, boot, o.Unknown
}

func TestDHCPOption(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"dhcp-option=3", `3:"" `},
		{"dhcp-option=3,192.0.2.9", `3:"\xc0\x00\x02\t" `},
		{"dhcp-option=option:router,192.0.2.9", `3:"\xc0\x00\x02\t" `},
		{"dhcp-option=option:ntp-server,0.0.0.0,192.0.2.9", `42:"\xc0\x00\x02\x01\xc0\x00\x02\t" `},
		{"dhcp-option = option:domain-search , vm.example,b.example.", `119:"\x02vm\aexample\x00\x01b\xc0\x03" `},
		{"dhcp-option=121,198.51.100.0/24,192.0.2.9", `121:"\x18\xc63d\xc0\x00\x02\t" `},
		{"dhcp-option=26,1400", `26:"\x05x" `},
		{"dhcp-option=66,192.0.2.9", `66:"192.0.2.9\x00" `},
		{"dhcp-option-force=208,f1:00:74:7e", `208:"\xf1\x00t~" force `},
		{`dhcp-option=67,"a,b"`, `67:"a,b\x00" `},
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

func TestDHCPHost(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"dhcp-host=00:00:5e:00:53:02,192.0.2.20", "00:00:5e:00:53:02   [192.0.2.20] 0s; "},
		{"dhcp-host=00:00:5e:00:53:02,guest,192.0.2.20,1h", "00:00:5e:00:53:02  guest [192.0.2.20] 1h0m0s; "},
		{"dhcp-host=guest,192.0.2.20,infinite", fmt.Sprintf("guest [192.0.2.20] %v; ", dnsmasq.Infinite)},
		{"dhcp-host=id:0:3:0:1:2:3,[2001:db8:1::20],guest", "000300010203 guest [2001:db8:1::20] 0s; "},
		{"dhcp-host=id:0:3:0:1:2:3,192.0.2.20,[2001:db8:1::20],guest", "000300010203 guest [192.0.2.20 2001:db8:1::20] 0s; "},
		{"dhcp-host=00:00:5e:00:53:02,00:00:5e:00:53:03,192.0.2.20", "00:00:5e:00:53:02+00:00:5e:00:53:03   [192.0.2.20] 0s; "},
		{"dhcp-host=00:00:5e:00:53:02,ignore", "00:00:5e:00:53:02   [] 0s ignore; "},
		{"dhcp-host=guest,ignore", "guest [] 0s ignore; "},
		{"dhcp-host=00:00:5e:00:53:02,id:*,192.0.2.20", "00:00:5e:00:53:02   [192.0.2.20] 0s no id; "},
		{"dhcp-host=guest,set:red", "guest [] 0s [red] []; "},
		{"dhcp-host=00:00:5e:00:53:02,tag:!red,set:blue,192.0.2.20", "00:00:5e:00:53:02   [192.0.2.20] 0s [blue] [!red]; "},
		{"dhcp-host=00:00:5e:00:53:02,guest,45m", "00:00:5e:00:53:02  guest [] 45m0s; "},
	} {
		if _, got, _, unknown := applied(c.line); got != c.want || len(unknown) != 0 {
			t.Errorf("%s: got %s, want %s; unknown %q", c.line, got, c.want, unknown)
		}
	}
}

func TestDHCPBoot(t *testing.T) {
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
func TestDHCPUnknown(t *testing.T) {
	lines := []string{
		"", "dhcp-option", "dhcp-option=", "dhcp-option=53,1",
		"dhcp-option=256,1", "dhcp-option=option:nosuch,1", "dhcp-option=option6:nosuch,1", "dhcp-option=option6:3,1", "dhcp-option=option6:dns-server,192.0.2.1",
		"dhcp-option=option6:dns-server,[fe80::]", "dhcp-option=encap:175,option6:23,1", "dhcp-option=121,192.0.2.1", "dhcp-option=58,x", "dhcp-option=59",
		"dhcp-option=121,2001:db8::/32,192.0.2.1", "dhcp-option=26,x", "dhcp-option=26,70000", "dhcp-option=119,a b", "dhcp-option=208,1::2",
		`dhcp-option=67,"open`, "dhcp-option=vendor:,1,0.0.0.0", "dhcp-option=encap:256,1,2",
		"dhcp-host=", "dhcp-host=192.0.2.20", "dhcp-host=guest,two,192.0.2.20", "dhcp-host=id:*,192.0.2.20",
		"dhcp-host=id:zz:,192.0.2.20", "dhcp-host=guest,[2001:db8::1", "dhcp-host=guest,[192.0.2.1]", "dhcp-host=guest,[2001:db8::/126]",
		"dhcp-vendorclass=set:a,enterprise:x,MSFT", "dhcp-match=set:a,vi-encap:x",
		"dhcp-boot=", "dhcp-boot=tag:efi", "pxe-service=x86PC,boot,pxelinux", "pxe-prompt=wait,5", "dhcp-boot=f,s,x", "dhcp-range=192.0.2.1,192.0.2.9", "log-dhcp",
	}
	options, hosts, boot, unknown := applied(lines...)
	if diff := cmp.Diff(lines, unknown); diff != "" || options+hosts+boot != "" {
		t.Errorf("not understood (-want +got):\n%s\nthe rest made %q", diff, options+hosts+boot)
	}
}

func TestParseDUID(t *testing.T) {
	want := []byte{0, 3, 0, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56}
	for _, s := range []string{"0:3:0:1:52:54:0:12:34:56", "00:03:00:01:52:54:00:12:34:56"} {
		if got, ok := dnsmasq.ParseDUID(s); !ok || !bytes.Equal(got, want) {
			t.Errorf("%s: %x, %t", s, got, ok)
		}
	}
	for _, s := range []string{"", "0:3", "x:y:z", "0:3::1", "000:1:2"} {
		if got, ok := dnsmasq.ParseDUID(s); ok {
			t.Errorf("%q became %x", s, got)
		}
	}
}
