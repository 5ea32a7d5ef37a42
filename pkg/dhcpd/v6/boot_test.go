package v6_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/v6"
)

// Each kind of client is told its own boot file, and one of HTTP boot that the answer is
// for it.
func TestBootByArchitecture(t *testing.T) {
	cfg := testConfig6()
	cfg.Boots = []v6.Boot{
		{IPXE: true, URL: "http://[2001:db8:1::9]/menu.ipxe"},
		{Archs: []uint16{7, 9}, URL: "tftp://[2001:db8:1::9]/grub.efi"},
		{Archs: []uint16{16}, HTTP: true, URL: "http://[2001:db8:1::9]/grub.efi"},
	}
	arch := func(n byte) mod6 { return raw6(dhcpv6.OptionClientArchType, 0, n) }
	class := func(s string) mod6 {
		return raw6(dhcpv6.OptionVendorClass, append([]byte{0, 0, 1, 0x57, 0, byte(len(s))}, s...)...)
	}
	user := raw6(dhcpv6.OptionUserClass, append([]byte{0, 4}, "iPXE"...)...)
	asks := raw6(dhcpv6.OptionORO, 0, 59, 0, 60)
	for _, c := range []struct {
		name string
		mods []mod6
		want string // options 59 and 16
	}{
		{"UEFI", []mod6{asks, arch(7), class("PXEClient:Arch:00007:UNDI:003016")}, `"tftp://[2001:db8:1::9]/grub.efi" ""`},
		{"UEFI that does not ask", []mod6{raw6(dhcpv6.OptionORO, 0, 23), arch(7)}, `"" ""`},
		{"HTTP", []mod6{raw6(dhcpv6.OptionORO, 0, 23), arch(16), class("HTTPClient:Arch:00016:UNDI:003001")}, `"http://[2001:db8:1::9]/grub.efi" "\x00\x00\x01W\x00\nHTTPClient"`},
		{"iPXE", []mod6{asks, arch(7), user}, `"http://[2001:db8:1::9]/menu.ipxe" ""`},
		{"iPXE that knows HTTP boot", []mod6{asks, arch(16), user, class("HTTPClient:Arch:00016")}, `"http://[2001:db8:1::9]/menu.ipxe" ""`},
		{"unknown", []mod6{asks, arch(11)}, `"" ""`},
		{"cut off", []mod6{asks, raw6(dhcpv6.OptionClientArchType, 7), raw6(dhcpv6.OptionUserClass, 0, 9, 'i'), raw6(dhcpv6.OptionVendorClass, 0)}, `"" ""`},
	} {
		t.Run(c.name, func(t *testing.T) {
			simulated6(t, cfg, func(t *testing.T, e *env6) {
				for _, typ := range []dhcpv6.MessageType{dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeInformationRequest} {
					mods := c.mods
					if typ == dhcpv6.MessageTypeSolicit {
						mods = append([]mod6{iana6(1)}, mods...)
					}
					e.send(e.message(typ, 2, mods...))
					r := e.receive()
					value := func(code dhcpv6.OptionCode) (b []byte) {
						if o := r.GetOneOption(code); o != nil {
							b = o.ToBytes()
						}
						return b
					}
					if got := fmt.Sprintf("%q %q", value(dhcpv6.OptionBootfileURL), value(dhcpv6.OptionVendorClass)); got != c.want {
						t.Errorf("%v: got %s, want %s", typ, got, c.want)
					}
				}
			})
		})
	}
	cfg.Boots[0].URL = strings.Repeat("x", 2000)
	cfg.Options = []dhcpd.Option{{Code: 3, Value: []byte{1}}}
	err := cfg.Validate()
	if err == nil || !strings.Contains(err.Error(), "boot 0: URL of 2000 bytes, want 1 to 1024") || !strings.Contains(err.Error(), "option 3: not for configuration") {
		t.Errorf("got %v", err)
	}
}
