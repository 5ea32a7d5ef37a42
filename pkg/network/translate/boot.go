package translate

import (
	"net/url"
	"strings"

	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
	"github.com/vnetd/vnetd/pkg/dhcpd/v6"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// archs are the numbers of a kind of client in option 93: of one that boots by PXE, and of
// one that boots by HTTP (RFC 5970, section 3.3, and its registry). The byte code of EFI
// is what early machines with x86-64 say.
func archs(name string) (pxe, http []uint16) {
	switch name {
	case "x86-bios":
		return []uint16{0x00}, []uint16{0x14}
	case "x86-uefi":
		return []uint16{0x07, 0x09}, []uint16{0x10, 0x11}
	case "x86-uefi32":
		return []uint16{0x06}, []uint16{0x0f}
	case "arm32-uefi":
		return []uint16{0x0a}, []uint16{0x12}
	case "arm64-uefi":
		return []uint16{0x0b}, []uint16{0x13}
	case "riscv64-uefi":
		return []uint16{0x1b}, []uint16{0x1c}
	case "loongarch64-uefi":
		return []uint16{0x27}, []uint16{0x28}
	default:
		return nil, nil
	}
}

// boots are what kinds of clients boot: iPXE first, which runs on machines of the others.
func boots(all []netdef.Boot) []v4.Boot {
	var ipxe, others []v4.Boot
	for _, b := range all {
		if b.Arch == netdef.IPXE {
			ipxe = append(ipxe, v4.Boot{IPXE: true, File: b.File + b.HTTP, Server: b.Server})
			continue
		}
		pxe, http := archs(b.Arch)
		if b.File != "" {
			others = append(others, v4.Boot{Archs: pxe, File: b.File, Server: b.Server})
		}
		if b.HTTP != "" {
			others = append(others, v4.Boot{Archs: http, HTTP: true, File: b.HTTP})
		}
	}
	return append(ipxe, others...)
}

// boots6 is boots for DHCPv6, where a file is a URL as well.
func boots6(all []netdef.Boot) []v6.Boot {
	var ipxe, others []v6.Boot
	for _, b := range all {
		pxe, http := archs(b.Arch)
		file := ""
		if b.File != "" {
			at := url.URL{Scheme: "tftp", Host: "[" + b.Server.String() + "]", Path: "/" + strings.TrimPrefix(b.File, "/")}
			file = at.String()
		}
		if b.Arch == netdef.IPXE {
			ipxe = append(ipxe, v6.Boot{IPXE: true, URL: file + b.HTTP})
			continue
		}
		if file != "" {
			others = append(others, v6.Boot{Archs: pxe, URL: file})
		}
		if b.HTTP != "" {
			others = append(others, v6.Boot{Archs: http, HTTP: true, URL: b.HTTP})
		}
	}
	return append(ipxe, others...)
}
