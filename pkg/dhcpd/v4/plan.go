package v4

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// plan is what a Config asks of DHCPv4. It never changes
// but for its scope and scratch.
type plan struct {
	cfg      Config
	serverID []byte
	boots    []bootPlan // the last one is for all that no other fits
	tagged   bool       // the configured options depend on what a client sends
	scratch  []option   // see head
	dhcpd.Scope
}

// newPlan derives the plan of a valid cfg.
func newPlan(cfg *Config, log *slog.Logger) *plan {
	p := &plan{cfg: *cfg}
	p.cfg.Prefix = cfg.Prefix.Masked()
	if p.cfg.LeaseTime == 0 {
		p.cfg.LeaseTime = DefaultLeaseTime
	}
	p.Scope = dhcpd.Scope{
		Network: cfg.Network, Prefix: p.cfg.Prefix, Domain: cfg.Domain,
		Ranges: cfg.Ranges, DefaultTime: p.cfg.LeaseTime, Identity: cfg.Identity,
		Never: map[netip.Addr]bool{cfg.Server: true, cfg.Router: true},
	}
	// RFC 3021: a prefix of 31 bits has neither a network nor a broadcast address.
	if p.Prefix.Bits() < 31 {
		p.Never[p.Prefix.Addr()] = true
		p.Never[broadcastOf(p.Prefix)] = true
	}
	p.ReserveAll(cfg.Reservations, log)
	p.serverID = cfg.Server.AsSlice()
	p.tagged = slices.ContainsFunc(cfg.Options, func(o Option) bool { return len(o.Tags) > 0 || o.Vendor != "" })
	for _, b := range append(slices.Clip(cfg.Boots), Boot{File: cfg.BootFile, Server: cfg.BootServer}) {
		p.boots = append(p.boots, p.newBoot(b))
	}
	return p
}

// broadcastOf returns the last address of p, an IPv4 prefix.
func broadcastOf(p netip.Prefix) netip.Addr {
	a := p.Masked().Addr().As4()
	host := ^uint32(0) >> p.Bits()
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(a[:])|host)))
}

// bootPlan is a Boot as clients are told of it.
type bootPlan struct {
	Boot
	server netip.Addr // siaddr
	field  string     // the header's file, empty where the name is too long for it
	opts   []option   // the boot file's
	link   []option   // what all of them are told of the link, the boot file included
}

// newBoot is b as clients are told of it.
func (p *plan) newBoot(b Boot) bootPlan {
	bp := bootPlan{Boot: b, server: cmp.Or(b.Server, p.cfg.Server), field: b.File}
	when := ifAsked
	if len(b.File) >= bootFileField {
		bp.field, when = "", always
	}
	if b.File != "" {
		bp.opts = []option{
			{dhcpv4.OptionBootfileName, terminated(b.File), when},
			{dhcpv4.OptionTFTPServerName, []byte(cmp.Or(b.Name, bp.server.String())), ifAsked},
		}
	}
	if b.HTTP {
		bp.opts[0].when, bp.opts[1] = always, option{dhcpv4.OptionClassIdentifier, httpClient, always}
	}
	bp.link = p.sharedOptions(bp.opts, combined(p.cfg.Options))
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

// tags returns those that c has.
func (p *plan) tags(c *request) map[string]bool {
	has := map[string]bool{p.cfg.Interface: true}
	if c.Reserved != nil {
		has["known"] = true
	}
	if c.typ == dhcpv4.MessageTypeNone {
		has["bootp"] = true
	}
	for i := range p.cfg.Tags {
		if r := &p.cfg.Tags[i]; r.matches(c) {
			has[r.Tag] = true
		}
	}
	return has
}

// matches reports whether c sends what r describes.
func (r *TagRule) matches(c *request) bool {
	sent := c.MAC[:]
	if r.Option != 0 {
		if sent = c.msg.Options.Get(dhcpv4.GenericOptionCode(r.Option)); sent == nil {
			return false
		}
	}
	if r.Step < 0 {
		return len(sent) == len(r.Value) && r.stands(sent)
	}
	for at := 0; at+len(r.Value) <= len(sent); at += r.Step {
		if r.stands(sent[at:]) {
			return true
		}
		if r.Step == 0 {
			return false
		}
	}
	return false
}

// stands reports whether b begins with r's value.
func (r *TagRule) stands(b []byte) bool {
	for i, want := range r.Value {
		if (r.Mask == nil || r.Mask[i] != 0) && b[i] != want {
			return false
		}
	}
	return true
}

// hasAll reports whether a client that has these tags has all of want.
func hasAll(has map[string]bool, want []string) bool {
	return !slices.ContainsFunc(want, func(tag string) bool {
		name, not := strings.CutPrefix(tag, "!")
		return has[name] == not
	})
}

// effective returns the configured options that c is sent when it asks for them.
func (p *plan) effective(c *request) []Option {
	has := p.tags(c)
	class := string(c.msg.Options.Get(dhcpv4.OptionClassIdentifier))
	var plain, tagged, parts []Option
	known := false // something is for c's vendor class
	for _, o := range p.cfg.Options {
		switch {
		case !hasAll(has, o.Tags) || !strings.Contains(class, o.Vendor):
		case o.Encap != 0:
			parts = append(parts, o)
			known = known || o.Vendor != ""
		case len(o.Tags) > 0:
			tagged = append(tagged, o)
		default:
			plain = append(plain, o)
		}
	}
	if known {
		// The class comes back with what is for it, unless another one is configured.
		plain = slices.Insert(plain, 0, Option{Code: dhcpv4.OptionClassIdentifier.Code(), Value: []byte(class)})
	}
	return combined(slices.Concat(plain, tagged, parts))
}

// reservedID returns the reservation of the client with that identifier, nil for none.
// Some clients put a zero, for no type, before an identifier that is a text.
func (p *plan) reservedID(id []byte) *dhcpd.Reservation {
	if r := p.ByID(id); r != nil || len(id) == 0 || id[0] != 0 {
		return r
	}
	return p.ByID(id[1:])
}

// linkOptions returns what c, which boots boot, is told of the link.
func (p *plan) linkOptions(c *request, boot *bootPlan) []option {
	if !p.tagged {
		return boot.link
	}
	return p.sharedOptions(boot.opts, p.effective(c))
}

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
		b := &p.boots[i]
		if len(b.Tags) > 0 && !hasAll(p.tags(c), b.Tags) {
			continue
		}
		if b.Any || b.fits(archs, ipxe, http) {
			return b
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
