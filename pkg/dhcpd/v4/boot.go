package v4

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// maxBootFile is the length of the longest boot file's name.
const maxBootFile = 255

// Boot is what clients of one kind boot.
type Boot struct {
	// Archs are the architectures that it is for, as option 93 numbers them (RFC 4578,
	// section 2.1). Empty: any.
	Archs []uint16
	// IPXE says that it is for iPXE alone, which tells by options 175 or 77.
	IPXE bool
	// HTTP says that File is a URL, for clients of UEFI's HTTP boot, which tell by option
	// 60 (UEFI specification, section 24.7) and take no other file.
	HTTP bool
	// File and Server are as BootFile and BootServer of Config.
	File   string
	Server netip.Addr
}

// bootFiles are the names of all files.
func bootFiles(all []Boot) []string {
	var files []string
	for _, b := range all {
		files = append(files, b.File)
	}
	return files
}

// bootPlan is a Boot as clients are told of it.
type bootPlan struct {
	Boot
	server netip.Addr // siaddr
	field  string     // the header's file, empty where the name is too long for it
	link   []option   // what all of them are told of the link, the boot file included
}

// newBoot is b as clients are told of it.
func (p *plan) newBoot(b Boot) bootPlan {
	bp := bootPlan{Boot: b, server: cmp.Or(b.Server, p.cfg.Server), field: b.File}
	when := ifAsked
	if len(b.File) >= bootFileField {
		bp.field, when = "", always
	}
	var opts []option
	if b.File != "" {
		opts = []option{
			{dhcpv4.OptionBootfileName, terminated(b.File), when},
			{dhcpv4.OptionTFTPServerName, []byte(bp.server.String()), ifAsked},
		}
	}
	if b.HTTP {
		opts[0].when, opts[1] = always, option{dhcpv4.OptionClassIdentifier, httpClient, always}
	}
	bp.link = p.sharedOptions(opts)
	return bp
}

// terminated is a file's name as an option: with a NUL, where there is room for it. Old
// PXE ROMs read on without one, and ask for a file with the next option in its name.
func terminated(file string) []byte {
	if len(file) == maxBootFile {
		return []byte(file)
	}
	return append([]byte(file), 0)
}

// httpClient begins option 60 of clients of HTTP boot, and is that of those who answer
// them.
var httpClient = []byte("HTTPClient")

// optionIPXE encapsulates iPXE's own options.
const optionIPXE = dhcpv4.GenericOptionCode(175)

// bootOf returns what c boots.
func (p *plan) bootOf(c *request) *bootPlan {
	last := len(p.boots) - 1
	if last == 0 {
		return &p.boots[0]
	}
	o := c.msg.Options
	ipxe := o.Has(optionIPXE) || bytes.Contains(o.Get(dhcpv4.OptionUserClassInformation), []byte("iPXE"))
	http := bytes.HasPrefix(o.Get(dhcpv4.OptionClassIdentifier), httpClient)
	var archs []uint16
	for v := o.Get(dhcpv4.OptionClientSystemArchitectureType); len(v) >= 2; v = v[2:] {
		archs = append(archs, binary.BigEndian.Uint16(v))
	}
	for i := range p.boots[:last] {
		if p.boots[i].fits(archs, ipxe, http) {
			return &p.boots[i]
		}
	}
	return &p.boots[last]
}

// fits reports whether a client boots b: one of these architectures, most wanted first.
func (b *Boot) fits(archs []uint16, ipxe, http bool) bool {
	if b.IPXE && !ipxe || b.HTTP != http {
		return false
	}
	return len(b.Archs) == 0 || slices.ContainsFunc(archs, func(a uint16) bool { return slices.Contains(b.Archs, a) })
}
