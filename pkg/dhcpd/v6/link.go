package v6

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// Boot is what clients of one kind boot.
type Boot struct {
	// Archs are the architectures that it is for, as option 61 numbers them (RFC 5970,
	// section 3.3). Empty: any.
	Archs []uint16
	// IPXE says that it is for iPXE alone, which tells by option 15.
	IPXE bool
	// HTTP says that URL is for clients of UEFI's HTTP boot, which tell by option 16 (UEFI
	// specification, section 24.7) and take no other.
	HTTP bool
	// URL is the boot file (RFC 5970, section 3.1).
	URL string
}

// fits reports whether a client boots b: one of these architectures, most wanted first.
func (b *Boot) fits(archs []uint16, ipxe, http bool) bool {
	if b.IPXE && !ipxe || !b.IPXE && b.HTTP != http {
		return false
	}
	return len(b.Archs) == 0 || slices.ContainsFunc(archs, func(a uint16) bool { return slices.Contains(b.Archs, a) })
}

// httpClient begins the vendor class of clients of HTTP boot, and is that of those who
// answer them.
const httpClient = "HTTPClient"

// enterpriseEFI is the enterprise whose vendor class UEFI's firmware sends.
const enterpriseEFI = 343

// classes returns the values of an option that is a list of them, each behind its length
// (RFC 8415, sections 21.15 and 21.16). What is cut off is left out.
func classes(v []byte) (all [][]byte) {
	for len(v) >= 2 {
		n := int(binary.BigEndian.Uint16(v))
		if v = v[2:]; n > len(v) {
			break
		}
		all, v = append(all, v[:n]), v[n:]
	}
	return all
}

// classesOf returns the classes that c is of: the user's, or those of an enterprise.
func (c *request) classesOf(code dhcpv6.OptionCode, enterprise uint32) (all [][]byte) {
	for _, o := range c.options {
		switch {
		case o.code != code:
		case code != dhcpv6.OptionVendorClass:
			return classes(o.value)
		case len(o.value) >= 4 && binary.BigEndian.Uint32(o.value) == enterprise:
			return classes(o.value[4:])
		}
	}
	return nil
}

// tags returns those that c has, whatever is reserved for it.
func (p *plan) tags(c *request) dhcpd.Tags {
	has := dhcpd.Tags{p.cfg.Interface: true, "dhcpv6": true}
	for i := range p.cfg.Tags {
		if r := &p.cfg.Tags[i]; r.Matches(c.described(r)...) {
			has[r.Tag] = true
		}
	}
	return has
}

// described returns what c sends of what r looks at.
func (c *request) described(r *dhcpd.TagRule) [][]byte {
	switch {
	case r.Option == 0:
		return [][]byte{c.MAC[:]}
	case r.Items:
		return c.classesOf(dhcpv6.OptionCode(r.Option), r.Enterprise)
	}
	if v, ok := c.options.get(dhcpv6.OptionCode(r.Option)); ok {
		return [][]byte{v}
	}
	return nil
}

// boot returns the options that tell c what it boots, none if that is nothing.
func (p *plan) boot(c *request) options {
	if len(p.cfg.Boots) == 0 {
		return nil
	}
	ipxe := slices.ContainsFunc(c.classesOf(dhcpv6.OptionUserClass, 0), func(v []byte) bool { return bytes.Contains(v, []byte("iPXE")) })
	http := slices.ContainsFunc(c.classesOf(dhcpv6.OptionVendorClass, enterpriseEFI), func(v []byte) bool { return bytes.HasPrefix(v, []byte(httpClient)) })
	var archs []uint16
	raw, _ := c.options.get(dhcpv6.OptionClientArchType)
	for ; len(raw) >= 2; raw = raw[2:] {
		archs = append(archs, binary.BigEndian.Uint16(raw))
	}
	i := slices.IndexFunc(p.cfg.Boots, func(b Boot) bool { return b.fits(archs, ipxe, http) })
	switch {
	case i < 0:
		return nil
	case p.cfg.Boots[i].HTTP:
		class := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint32(nil, enterpriseEFI), uint16(len(httpClient)))
		return options{
			{dhcpv6.OptionBootfileURL, []byte(p.cfg.Boots[i].URL)},
			{dhcpv6.OptionVendorClass, append(class, httpClient...)},
		}
	case !c.wants(dhcpv6.OptionBootfileURL):
		return nil
	default:
		return options{{dhcpv6.OptionBootfileURL, []byte(p.cfg.Boots[i].URL)}}
	}
}

// linkOptions appends the options that tell a client of the link.
func (p *plan) linkOptions(to options, c *request, hostname string) options {
	opts := to[len(to):]
	for _, o := range p.shared {
		if c.wants(o.code) {
			opts = append(opts, o)
		}
	}
	if c.typ == dhcpv6.MessageTypeInformationRequest {
		opts = append(opts, option{dhcpv6.OptionInformationRefreshTime, dhcpd.Seconds(refreshTime)})
	}
	opts = p.override(append(opts, p.boot(c)...), c)
	// RFC 4704, section 6: a client that sent the option gets it back.
	if c.fqdn != nil && hostname != "" {
		value := append([]byte{dhcpd.FQDNAnswer(c.fqdn[0])}, dhcpd.ToLabels(dhcpd.Qualified(hostname, p.cfg.Domain))...)
		opts = append(opts, option{dhcpv6.OptionFQDN, value})
	}
	return append(to, opts...)
}

// sharedOptions returns the options that tell of the link of cfg, the same for all who want them.
func sharedOptions(cfg *Config) (opts options) {
	if len(cfg.DNS) > 0 {
		opts = append(opts, option{dhcpv6.OptionDNSRecursiveNameServer, dhcpd.AddrBytes(cfg.DNS)})
	}
	if domain := strings.Trim(cfg.Domain, "."); dhcpd.ValidDomain(domain) {
		opts = append(opts, option{dhcpv6.OptionDomainSearchList, dhcpd.ToLabels(domain)})
	}
	return opts
}

// override puts the configured options that c is sent in the place of opts of the same
// code, and behind them. One without a value takes the other away.
func (p *plan) override(opts options, c *request) options {
	if len(p.cfg.Options) == 0 {
		return opts
	}
	for _, o := range joined(dhcpd.Select(p.cfg.Options, c.Tags)) {
		code := dhcpv6.OptionCode(o.Code)
		if !o.Force && !c.wants(code) {
			continue
		}
		if o.Encap == 0 {
			opts = slices.DeleteFunc(opts, func(have option) bool { return have.code == code })
		}
		if o.Value != nil {
			opts = append(opts, option{code, o.Value})
		}
	}
	return opts
}

// joined returns opts with the parts of one enterprise as one option 17 that has them all
// (RFC 8415, section 21.17). Of parts the last one of the configuration is the first.
func joined(opts []dhcpd.Option) []dhcpd.Option {
	var all, whole []dhcpd.Option
	for _, o := range slices.Backward(opts) {
		if o.Encap == 0 {
			all = append(all, o)
			continue
		}
		i := slices.IndexFunc(whole, func(w dhcpd.Option) bool { return w.Enterprise == o.Enterprise })
		if i < 0 {
			i = len(whole)
			whole = append(whole, dhcpd.Option{
				Code: uint16(dhcpv6.OptionVendorOpts), Encap: o.Encap, Enterprise: o.Enterprise, Value: binary.BigEndian.AppendUint32(nil, o.Enterprise),
			})
		}
		w := &whole[i]
		w.Value = append(w.Value, options{{dhcpv6.OptionCode(o.Code), o.Value}}.appendTo(nil)...)
		w.Force = w.Force || o.Force
	}
	slices.Reverse(all)
	return append(all, whole...)
}
