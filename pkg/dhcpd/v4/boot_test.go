package v4_test

import (
	"fmt"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
)

// bootConfig boots each kind of client otherwise.
func bootConfig() v4.Config {
	c := testConfig()
	c.BootFile = "undionly.kpxe"
	c.Boots = []v4.Boot{
		{IPXE: true, File: "http://192.0.2.9/menu.ipxe"},
		{Archs: []uint16{7, 9}, File: "grub.efi", Server: ip(9)},
		{Archs: []uint16{16}, HTTP: true, File: "http://192.0.2.9/grub.efi"},
		{Archs: []uint16{11}, File: "arm64.efi"},
	}
	return c
}

// Each kind of client is told its own boot file.
func TestBootByArchitecture(t *testing.T) {
	arch := func(n ...byte) mod { return opt(dhcpv4.OptionClientSystemArchitectureType, n...) }
	class := func(s string) mod { return opt(dhcpv4.OptionClassIdentifier, []byte(s)...) }
	user := func(s string) mod { return opt(dhcpv4.OptionUserClassInformation, []byte(s)...) }
	ipxe := opt(dhcpv4.GenericOptionCode(175), 0xb1, 1, 1)
	const url = "http://192.0.2.9/grub.efi"
	for _, c := range []struct {
		name string
		mods []mod
		want string // siaddr, file, and options 66, 67 and 60
	}{
		{"BIOS", []mod{arch(0, 0), class("PXEClient:Arch:00000:UNDI:002001")}, `192.0.2.1 undionly.kpxe "192.0.2.1" "undionly.kpxe\x00" ""`},
		{"no PXE", nil, `192.0.2.1 undionly.kpxe "192.0.2.1" "undionly.kpxe\x00" ""`},
		{"x86 UEFI", []mod{arch(0, 7), class("PXEClient:Arch:00007:UNDI:003016")}, `192.0.2.9 grub.efi "192.0.2.9" "grub.efi\x00" ""`},
		{"x86 UEFI, early", []mod{arch(0, 9)}, `192.0.2.9 grub.efi "192.0.2.9" "grub.efi\x00" ""`},
		{"several architectures", []mod{arch(0, 6, 0, 7)}, `192.0.2.9 grub.efi "192.0.2.9" "grub.efi\x00" ""`},
		{"arm64 UEFI", []mod{arch(0, 11)}, `192.0.2.1 arm64.efi "192.0.2.1" "arm64.efi\x00" ""`},
		{"unknown", []mod{arch(1, 7)}, `192.0.2.1 undionly.kpxe "192.0.2.1" "undionly.kpxe\x00" ""`},
		{"cut off", []mod{arch(7)}, `192.0.2.1 undionly.kpxe "192.0.2.1" "undionly.kpxe\x00" ""`},
		{"HTTP", []mod{arch(0, 16), class("HTTPClient:Arch:00016:UNDI:003001")}, `192.0.2.1 ` + url + ` "" "` + url + `\x00" "HTTPClient"`},
		{"iPXE on BIOS", []mod{arch(0, 0), ipxe}, `192.0.2.1 http://192.0.2.9/menu.ipxe "192.0.2.1" "http://192.0.2.9/menu.ipxe\x00" ""`},
		{"iPXE on UEFI", []mod{arch(0, 7), user("iPXE")}, `192.0.2.1 http://192.0.2.9/menu.ipxe "192.0.2.1" "http://192.0.2.9/menu.ipxe\x00" ""`},
		{"iPXE by a list of classes", []mod{arch(0, 7), user("\x04iPXE")}, `192.0.2.1 http://192.0.2.9/menu.ipxe "192.0.2.1" "http://192.0.2.9/menu.ipxe\x00" ""`},
	} {
		t.Run(c.name, func(t *testing.T) {
			simulated(t, bootConfig, func(t *testing.T, e *env) {
				list := opt(dhcpv4.OptionParameterRequestList, 1, 3, 6, 60, 66, 67)
				for _, typ := range []dhcpv4.MessageType{dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest} {
					r := e.ask(typ, mac(2), append(c.mods, list, requested(ip(100)))...)
					got := fmt.Sprintf("%v %s %q %q %q", r.ServerIPAddr, r.BootFileName, r.Options[66], r.Options[67], r.Options[60])
					if got != c.want {
						t.Errorf("%v\ngot  %s\nwant %s", r.MessageType(), got, c.want)
					}
				}
			})
		})
	}
}

// A client of HTTP boot is told the URL whether it asks for it or not, and other clients
// are not taken for one.
func TestHTTPBootIsSaid(t *testing.T) {
	simulated(t, bootConfig, func(t *testing.T, e *env) {
		list := opt(dhcpv4.OptionParameterRequestList, 1)
		r := e.ask(dhcpv4.MessageTypeDiscover, mac(2), list, opt(dhcpv4.OptionClassIdentifier, []byte("HTTPClient")...), opt(dhcpv4.OptionClientSystemArchitectureType, 0, 16))
		if string(r.Options[60]) != "HTTPClient" || len(r.Options[67]) == 0 {
			t.Errorf("it is told %q, %q", r.Options[60], r.Options[67])
		}
		if r := e.ask(dhcpv4.MessageTypeDiscover, mac(3), opt(dhcpv4.OptionClientSystemArchitectureType, 0, 16)); r.BootFileName != "undionly.kpxe" || r.Options[60] != nil {
			t.Errorf("one that is no such client is told %q, %q", r.BootFileName, r.Options[60])
		}
	})
	cfg := bootConfig()
	cfg.Boots[0].File = ""
	if cfg.Validate() == nil {
		t.Error("a boot without a file is taken")
	}
}
