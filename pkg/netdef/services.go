package netdef

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"github.com/vnetd/vnetd/internal/dnsname"
	"github.com/vnetd/vnetd/pkg/netdef/schema"
	"github.com/vnetd/vnetd/pkg/netdef/xmldoc"
)

// maxTTL is the longest time for which a record may be kept: RFC 2181 section 8.
const maxTTL = 1<<31 - 1

// wildcard begins the name of a record that all the names below the rest have of which
// nothing else is known (RFC 4592).
const wildcard = "*."

// RecordName returns the whole name of a record. One that does not end with a dot is in the
// network's domain, whether it says so or not.
func (n *Network) RecordName(name string) string {
	whole, absolute := strings.CutSuffix(name, ".")
	if absolute || n.Domain == nil || n.Domain.Name == "" {
		return whole
	}
	domain := strings.TrimSuffix(n.Domain.Name, ".")
	if lower := "." + strings.ToLower(whole); strings.HasSuffix(lower, "."+strings.ToLower(domain)) {
		return whole
	}
	return whole + "." + domain
}

// decodeRecords decodes all <vnetd:record>.
func decodeRecords(e xmldoc.Element) []Record {
	var all []Record
	for _, r := range e.Children(schema.NamespaceVnetd, "record") {
		all = append(all, decodeRecord(r))
	}
	return all
}

// decodeRecord decodes one.
func decodeRecord(e xmldoc.Element) Record {
	return Record{
		Name: e.Str("name"), Type: e.Str("type"), Value: e.Str("value"),
		TTL: xmldoc.Value(e, "ttl", parseUint[int](0, maxTTL)),
	}
}

// printRecords prints them.
func printRecords(p *xmldoc.Printer, n *Network) {
	for i := range n.Records {
		printRecord(p, &n.Records[i])
	}
}

// printRecord prints one.
func printRecord(p *xmldoc.Printer, r *Record) {
	p.Leaf("vnetd:record", xmldoc.Always("name", r.Name), xmldoc.Always("type", r.Type), xmldoc.Always("value", r.Value), xmldoc.Num("ttl", r.TTL))
}

// checkRecords checks all <vnetd:record>.
func checkRecords(c *checker) {
	const path = "network/vnetd:record"
	switch {
	case len(c.n.Records) == 0:
		return
	case !c.mode.OwnsBridge():
		c.Addf(path, "", "not allowed in mode %s: the network serves no DNS", c.mode)
	case c.n.DNS != nil && c.n.DNS.Enable == No:
		c.Add(path, "", "not allowed with <dns enable='no'/>")
	}
	types := make(map[string]string) // of the first record of a name
	for i, r := range c.n.Records {
		at := fmt.Sprintf("%s[%d]", path, i+1)
		checkRecord(c, at, r)
		name := strings.ToLower(c.n.RecordName(r.Name))
		first, again := types[name]
		if again && (first == "CNAME" || r.Type == "CNAME") {
			c.Add(at+"/@name", r.Name, "want nothing else of a name that has a CNAME record")
		}
		if !again {
			types[name] = r.Type
		}
	}
}

// checkRecord checks one <vnetd:record>.
func checkRecord(c *checker, path string, r Record) {
	if r.Name == "" {
		c.Add(path+"/@name", "", "missing, want the name of the record")
	} else {
		c.dnsRule(path+"/@name", strings.TrimPrefix(c.n.RecordName(r.Name), wildcard), dnsname.Record)
	}
	if _, _, err := dnsname.Data(r.Type, r.Value); err != nil {
		at, what := "/@value", r.Value
		if _, ok := dnsname.Code(r.Type); !ok {
			at, what = "/@type", r.Type
		}
		c.Add(path+at, what, err.Error())
	}
}

// Limits of the names of boot files: the file field of a message, terminated (RFC 2131,
// section 2), and an option.
const (
	maxBootFile = 127
	maxBootURL  = 254
)

// IPXE is the arch of a Boot for iPXE, on whatever machine: what it goes on with once it
// was loaded itself.
const IPXE = "ipxe"

// parseBootArch reads the words for what clients are.
var parseBootArch = parseWord("x86-bios", "x86-uefi", "x86-uefi32", "arm32-uefi", "arm64-uefi", "riscv64-uefi", "loongarch64-uefi", IPXE)

// decodeBoot decodes <vnetd:boot>.
func decodeBoot(e xmldoc.Element) Boot {
	b := Boot{File: e.Str("file"), Server: xmldoc.Value(e, "server", parseAddr), HTTP: e.Str("http"), Arch: xmldoc.Value(e, "arch", parseBootArch)}
	if e.Str("arch") == "" {
		e.Fault("@arch", "", "missing, want the kind of client")
	}
	return b
}

// checkBoots checks every <vnetd:boot>.
func checkBoots(c *checker, path string, ip *IP) {
	seen := make(map[string]bool)
	for i, b := range ip.DHCP.Boots {
		at := fmt.Sprintf("%s[%d]", path, i+1)
		if b.Arch != "" && seen[b.Arch] {
			c.Add(at+"/@arch", b.Arch, "want each kind of client once")
		}
		seen[b.Arch] = true
		checkBoot(c, at, b)
		checkBootServer(c, at, b, ip.Address)
	}
}

// checkBoot checks one <vnetd:boot>.
func checkBoot(c *checker, at string, b Boot) {
	switch {
	case b.File == "" && b.HTTP == "":
		c.Add(at, "", "want file, http or both: there is nothing to boot")
	case b.Arch == IPXE && b.File != "" && b.HTTP != "":
		c.Add(at+"/@http", b.HTTP, "want file or http for iPXE, which takes either")
	}
	if len(b.File) > maxBootFile {
		c.Addf(at+"/@file", b.File, "the name has %d bytes, want at most %d", len(b.File), maxBootFile)
	}
	if b.Server.IsValid() && b.File == "" {
		c.Add(at+"/@server", b.Server.String(), "want file: the server is where it is")
	}
	if b.HTTP != "" {
		checkBootURL(c, at+"/@http", b.HTTP)
	}
}

// checkBootServer checks where the file of a <vnetd:boot> is: our own TFTP serves IPv4
// alone.
func checkBootServer(c *checker, at string, b Boot, ip netip.Addr) {
	switch {
	case ip.Is4() && b.Server.Is6():
		c.Add(at+"/@server", b.Server.String(), "want an IPv4 address")
	case ip.Is6() && b.Server.Is4():
		c.Add(at+"/@server", b.Server.String(), "want an IPv6 address")
	case ip.Is6() && b.File != "" && !b.Server.IsValid():
		c.Add(at+"/@server", "", "missing, want the IPv6 address of a TFTP server, or http instead of file: the network's own TFTP is IPv4's")
	}
}

// checkBootURL checks the URL of a boot file.
func checkBootURL(c *checker, at, file string) {
	u, err := url.Parse(file)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		c.Add(at, file, "want a URL that begins with http:// or https://")
	case len(file) > maxBootURL:
		c.Addf(at, file, "the URL has %d bytes, want at most %d", len(file), maxBootURL)
	}
}

// slaacBits is the length of the prefixes of which guests can make addresses (RFC 4862,
// section 5.5.3; RFC 2464, section 4: interface identifiers have 64 bits).
const slaacBits = 64

// Autonomous reports whether guests on an IPv6 <ip> shall make addresses by themselves: by
// default where there is no <dhcp>, and the prefix has a length of which they can.
func (ip *IP) Autonomous() bool {
	if ip.RA.Autonomous != Unset {
		return ip.RA.Autonomous == Yes
	}
	return ip.DHCP == nil && ip.Prefix().Bits() == slaacBits
}

// Managed reports whether guests on an IPv6 <ip> shall ask DHCPv6: by default where there
// is <dhcp>.
func (ip *IP) Managed() bool {
	return ip.DHCP != nil && ip.RA.Managed != No
}

// Addressless reports whether guests on an IPv6 <ip> find no address, although nothing says
// that they shall have none.
func (ip *IP) Addressless() bool {
	return ip.Address.Is6() && ip.DHCP == nil && ip.RA.Autonomous == Unset && !ip.Autonomous()
}

// decodeRAPolicy decodes <vnetd:ra>.
func decodeRAPolicy(e xmldoc.Element) RAPolicy {
	e, ok := ours(e, "ra")
	if !ok {
		return RAPolicy{}
	}
	return RAPolicy{Autonomous: xmldoc.Value(e, "autonomous", parseTristate), Managed: xmldoc.Value(e, "managed", parseTristate)}
}

// printRAPolicy prints <vnetd:ra>.
func printRAPolicy(p *xmldoc.Printer, r RAPolicy) {
	if r != (RAPolicy{}) {
		p.Leaf("vnetd:ra", xmldoc.Opt("autonomous", r.Autonomous), xmldoc.Opt("managed", r.Managed))
	}
}

// checkRAPolicy checks <vnetd:ra>.
func checkRAPolicy(c *checker, path string, ip *IP) {
	switch {
	case ip.RA == (RAPolicy{}) || !ip.Address.IsValid():
		return
	case ip.Address.Is4():
		c.Add(path, "", "not allowed in an IPv4 <ip>")
		return
	case !c.mode.OwnsBridge():
		c.Addf(path, "", "not allowed in mode %s: the network advertises nothing", c.mode)
		return
	}
	if bits := ip.Prefix().Bits(); ip.RA.Autonomous == Yes && bits != slaacBits {
		c.Addf(path+"/@autonomous", string(Yes), "guests can make addresses of a prefix of %d bits only, this one has %d: want another prefix, or <dhcp>", slaacBits, bits)
	}
	if ip.RA.Managed == Yes && ip.DHCP == nil {
		c.Add(path+"/@managed", string(Yes), "want <dhcp> with a range or a host: there is no DHCPv6 to ask")
	}
}
