package netdef

import (
	"fmt"
	"net/netip"
	"net/url"
)

// Limits of the names of boot files: the file field of a message, terminated (RFC 2131,
// section 2), and an option.
const (
	maxBootFile = 127
	maxBootURL  = 254
)

// IPXE is the arch of a Boot for iPXE, on whatever machine: what it goes on with once it
// was loaded itself.
const IPXE = "ipxe"

// Boot is what IPv4 clients of one kind boot, in the place of Bootp.
type Boot struct {
	Arch   string     // of the client's firmware, or IPXE
	File   string     // by TFTP; "": nothing
	Server netip.Addr // of File; zero: the network's address
	HTTP   string     // URL, for HTTP boot or iPXE; "": nothing
}

// parseBootArch reads the words for what clients are.
var parseBootArch = parseWord("x86-bios", "x86-uefi", "x86-uefi32", "arm32-uefi", "arm64-uefi", "riscv64-uefi", "loongarch64-uefi", IPXE)

// boot decodes <vnetd:boot>.
func (e element) boot() Boot {
	b := Boot{File: e.str("file"), Server: value(e, "server", parseAddr), HTTP: e.str("http"), Arch: value(e, "arch", parseBootArch)}
	if e.str("arch") == "" {
		e.fault("@arch", "", "missing, want the kind of client")
	}
	return b
}

// boots checks every <vnetd:boot>.
func (c *checker) boots(path string, ip *IP) {
	seen := make(map[string]bool)
	for i, b := range ip.DHCP.Boots {
		at := fmt.Sprintf("%s[%d]", path, i+1)
		switch {
		case ip.Address.Is6():
			c.add(at, "", "not allowed in an IPv6 <ip>")
			continue
		case b.Arch != "" && seen[b.Arch]:
			c.add(at+"/@arch", b.Arch, "want each kind of client once")
		}
		seen[b.Arch] = true
		c.boot(at, b)
	}
}

// boot checks one <vnetd:boot>.
func (c *checker) boot(at string, b Boot) {
	switch {
	case b.File == "" && b.HTTP == "":
		c.add(at, "", "want file, http or both: there is nothing to boot")
	case b.Arch == IPXE && b.File != "" && b.HTTP != "":
		c.add(at+"/@http", b.HTTP, "want file or http for iPXE, which takes either")
	}
	if len(b.File) > maxBootFile {
		c.addf(at+"/@file", b.File, "the name has %d bytes, want at most %d", len(b.File), maxBootFile)
	}
	if b.Server.Is6() {
		c.add(at+"/@server", b.Server.String(), "want an IPv4 address")
	}
	if b.Server.IsValid() && b.File == "" {
		c.add(at+"/@server", b.Server.String(), "want file: the server is where it is")
	}
	if b.HTTP != "" {
		c.bootURL(at+"/@http", b.HTTP)
	}
}

// bootURL checks the URL of a boot file.
func (c *checker) bootURL(at, file string) {
	u, err := url.Parse(file)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		c.add(at, file, "want a URL that begins with http:// or https://")
	case len(file) > maxBootURL:
		c.addf(at, file, "the URL has %d bytes, want at most %d", len(file), maxBootURL)
	}
}
