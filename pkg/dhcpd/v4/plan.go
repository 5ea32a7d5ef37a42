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
// but for its scope, scratch and small.
type plan struct {
	cfg      Config
	serverID []byte
	boots    []bootPlan // the last one is for all that no other fits
	varied   bool       // the configured options depend on what a client sends
	tagged   bool       // a client's tags matter
	scratch  []option   // see head
	small    [16]byte   // values of scratch
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
		Ranges: cfg.Ranges, DefaultTime: p.cfg.LeaseTime, Identity: cfg.Identity, PerPort: cfg.PerPort,
		Never: map[netip.Addr]bool{cfg.Server: true, cfg.Router: true},
	}
	// RFC 3021: a prefix of 31 bits has neither a network nor a broadcast address.
	if p.Prefix.Bits() < 31 {
		p.Never[p.Prefix.Addr()] = true
		p.Never[broadcastOf(p.Prefix)] = true
	}
	p.Lend(cfg.Lender)
	p.ReserveAll(cfg.Reservations, log)
	p.serverID = cfg.Server.AsSlice()
	p.varied = slices.ContainsFunc(cfg.Options, func(o dhcpd.Option) bool { return len(o.Tags) > 0 || o.Vendor != "" })
	p.tagged = p.varied || slices.ContainsFunc(cfg.Boots, func(b Boot) bool { return len(b.Tags) > 0 }) ||
		slices.ContainsFunc(cfg.Reservations, func(r dhcpd.Reservation) bool { return len(r.Tags) > 0 })
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
	link   linkInfo   // what all of them are told of the link, the boot file included
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
			{code(dhcpv4.OptionBootfileName), terminated(b.File), when},
			{code(dhcpv4.OptionTFTPServerName), []byte(cmp.Or(b.Name, bp.server.String())), ifAsked},
		}
	}
	if b.HTTP {
		bp.opts[0].when, bp.opts[1] = always, option{code(dhcpv4.OptionClassIdentifier), httpClient, always}
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
const optionIPXE = code(175)

// tags returns those that c has, whatever is reserved for it.
func (p *plan) tags(c *request) dhcpd.Tags {
	has := dhcpd.Tags{p.cfg.Interface: true}
	if c.typ == dhcpv4.MessageTypeNone {
		has["bootp"] = true
	}
	for i := range p.cfg.Tags {
		if r := &p.cfg.Tags[i]; r.Matches(c.described(r)...) {
			has[r.Tag] = true
		}
	}
	return has
}

// described returns what c sends of what r looks at.
func (c *request) described(r *dhcpd.TagRule) [][]byte {
	if r.Option == 0 {
		return [][]byte{c.MAC[:]}
	}
	v := c.msg.get(code(r.Option))
	switch {
	case v == nil:
		return nil
	case r.Items:
		return enterpriseClasses(v, r.Enterprise)
	default:
		return [][]byte{v}
	}
}

// enterpriseClasses returns the classes of one enterprise in option 124.
//
// RFC 3925, section 3: a list of "enterprise-number", "data-len" and
// "vendor-class-data", which is a list of classes, each behind its length.
func enterpriseClasses(v []byte, enterprise uint32) (all [][]byte) {
	for len(v) > 4 {
		number, data := binary.BigEndian.Uint32(v), v[5:]
		n := min(int(v[4]), len(data))
		data, v = data[:n], data[n:]
		for number == enterprise && len(data) > 0 {
			n := min(int(data[0]), len(data)-1)
			all, data = append(all, data[1:1+n]), data[1+n:]
		}
	}
	return all
}

// effective returns the configured options that c is sent when it asks for them.
func (p *plan) effective(c *request) []dhcpd.Option {
	class := string(c.msg.get(code(dhcpv4.OptionClassIdentifier)))
	all := slices.DeleteFunc(dhcpd.Select(p.cfg.Options, c.Tags), func(o dhcpd.Option) bool { return !strings.Contains(class, o.Vendor) })
	if slices.ContainsFunc(all, func(o dhcpd.Option) bool { return o.Vendor != "" }) {
		// The class comes back with what is for it, unless another one is configured.
		all = slices.Insert(all, 0, dhcpd.Option{Code: uint16(dhcpv4.OptionClassIdentifier.Code()), Value: []byte(class)})
	}
	return combined(all)
}

// linkOptions returns what c, which boots boot, is told of the link.
func (p *plan) linkOptions(c *request, boot *bootPlan) linkInfo {
	if !p.varied {
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
	o := &c.msg
	ipxe := o.has(optionIPXE) || bytes.Contains(o.get(code(dhcpv4.OptionUserClassInformation)), []byte("iPXE"))
	http := bytes.HasPrefix(o.get(code(dhcpv4.OptionClassIdentifier)), httpClient)
	var archs []uint16
	for v := o.get(code(dhcpv4.OptionClientSystemArchitectureType)); len(v) >= 2; v = v[2:] {
		archs = append(archs, binary.BigEndian.Uint16(v))
	}
	for i := range p.boots[:last] {
		b := &p.boots[i]
		if len(b.Tags) > 0 && !c.Tags.HasAll(b.Tags) {
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
