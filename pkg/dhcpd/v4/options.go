package v4

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// Sizes of messages. RFC 2131, section 2: a client "must be prepared to receive
// DHCP messages with an 'options' field of at least length 312 octets", a
// datagram of 576 bytes in all.
const (
	minDatagram  = 576
	maxDatagram  = 1500
	ipUDPHeaders = 28
	header       = 240 // fixed part of a message, with the cookie
	bootpVendor  = 64  // RFC 951's vendor area
	// RFC 2131, section 2: "sname" and "file" and where they begin.
	serverField, serverFieldAt = 64, 44
	bootFileField, bootFileAt  = 128, 108
)

// broadcastFlag is the only flag of a message (RFC 2131, section 2, figure 2).
const broadcastFlag = 0x8000

// magicCookie is in front of the options (RFC 2131, section 3).
const magicCookie = 0x63825363

// option is one option of a reply.
type option struct {
	code  code
	value []byte
	when  when
}

// when says which clients are sent an option.
type when uint8

const (
	ifWanted when = iota // it is on the parameter request list, or there is none
	ifAsked              // it is on the parameter request list
	always
)

// given is what a reply says of an address.
type given struct {
	addr     netip.Addr
	time     time.Duration
	hostname string // empty: not sent
}

// linkInfo is what clients are told of the link.
type linkInfo struct {
	opts   []option
	t1, t2 time.Duration // as configured; 0: not said
}

// timers returns when a client renews and rebinds a lease of that length. What is
// configured and no time within the lease counts for nothing; T1 is before T2.
//
// RFC 2131, section 4.4.5: "T1 defaults to (0.5 * duration_of_lease). T2
// defaults to (0.875 * duration_of_lease)."
func (li *linkInfo) timers(lease time.Duration) (t1, t2 time.Duration) {
	within := func(t time.Duration) bool { return t > 2*time.Second && t < lease }
	t1, t2 = lease/2, lease-lease/8
	if within(li.t1) {
		t1 = li.t1
	}
	if within(li.t2) {
		t2 = li.t2
	}
	if t1 >= t2 {
		t1 = t2 - time.Second
	}
	return t1, t2
}

// isTimer reports whether o is T1 or T2, which only those are sent who have a lease.
func isTimer(o *dhcpd.Option) bool {
	return o.Encap == 0 && (o.Code == uint16(dhcpv4.OptionRenewTimeValue.Code()) || o.Code == uint16(dhcpv4.OptionRebindingTimeValue.Code()))
}

// appendLease appends the options of an OFFER or ACK of l, in the order of their
// importance. They are what dnsmasq, set up by libvirt, sends. Their values are in p.small.
func (p *plan) appendLease(opts []option, c *request, link *linkInfo, l given) []option {
	opts = append(opts, option{code(dhcpv4.OptionIPAddressLeaseTime), p.seconds(1, l.time), always})
	if l.time < dhcpd.Infinite {
		t1, t2 := link.timers(l.time)
		opts = append(opts,
			option{code(dhcpv4.OptionRenewTimeValue), p.seconds(2, t1), always},
			option{code(dhcpv4.OptionRebindingTimeValue), p.seconds(3, t2), always})
	}
	if c.rapid {
		// RFC 4039, section 3: the option is in the DHCPACK that answers a DISCOVER.
		opts = append(opts, option{code(dhcpv4.OptionRapidCommit), nil, always})
	}
	return opts
}

// seconds is a time as an option has it, in p.small.
func (p *plan) seconds(at int, d time.Duration) []byte {
	return binary.BigEndian.AppendUint32(p.small[4*at:4*at:4*at+4], uint32(d/time.Second))
}

// appendLink appends those that tell a client of the link.
func (p *plan) appendLink(opts []option, c *request, link []option, hostname string) []option {
	opts = append(opts, link...)
	if hostname == "" {
		return opts
	}
	if !slices.ContainsFunc(p.cfg.Options, func(o dhcpd.Option) bool { return o.Code == uint16(dhcpv4.OptionHostName.Code()) && o.Encap == 0 }) {
		opts = append(opts, option{code(dhcpv4.OptionHostName), []byte(hostname), ifWanted})
	}
	// RFC 4702, section 4: a client that sent the option gets it back, whether its
	// parameter request list names it or not.
	if c.fqdn != nil {
		opts = append(opts, option{code(dhcpv4.OptionFQDN), c.fqdn.reply(hostname, p.cfg.Domain), always})
	}
	return opts
}

// sharedOptions returns the options of appendLink that are the same for all clients that
// boot the same and for whom the same is configured. Absent ones are left out.
func (p *plan) sharedOptions(boot []option, configured []dhcpd.Option) linkInfo {
	opts := append([]option{
		{code(dhcpv4.OptionSubnetMask), net.CIDRMask(p.cfg.Prefix.Bits(), 32), always},
		{code(dhcpv4.OptionBroadcastAddress), broadcastOf(p.cfg.Prefix).AsSlice(), always},
		{code(dhcpv4.OptionRouter), p.cfg.Router.AsSlice(), ifWanted},
		{code(dhcpv4.OptionDomainNameServer), dhcpd.AddrBytes(p.cfg.DNS), ifWanted},
		{code(dhcpv4.OptionDomainName), []byte(p.cfg.Domain), ifWanted},
		{code(dhcpv4.OptionNTPServers), dhcpd.AddrBytes(p.cfg.NTP), ifWanted},
	}, boot...)
	if p.cfg.MTU != 0 {
		opts = append(opts, option{code(dhcpv4.OptionInterfaceMTU), binary.BigEndian.AppendUint16(nil, uint16(p.cfg.MTU)), ifWanted})
	}
	if len(p.cfg.Routes) > 0 {
		routes := p.classlessRoutes()
		opts = append(opts,
			option{code(dhcpv4.OptionClasslessStaticRoute), routes, ifWanted},
			option{optionMicrosoftRoutes, routes, ifAsked})
	}
	if domain := strings.Trim(p.cfg.Domain, "."); dhcpd.ValidDomain(domain) {
		// RFC 3397, section 2.
		opts = append(opts, option{code(dhcpv4.OptionDNSDomainSearchList), dhcpd.ToLabels(domain), ifAsked})
	}
	opts = slices.DeleteFunc(opts, func(o option) bool { return len(o.value) == 0 })
	return override(opts, configured)
}

// optionMicrosoftRoutes is what Windows asks for instead of option 121.
const optionMicrosoftRoutes = code(249)

// classlessRoutes returns the routes as option 121 has them, with the default route:
//
// RFC 3442: "If the DHCP server returns both a Classless Static Routes option and
// a Router option, the DHCP client MUST ignore the Router option."
func (p *plan) classlessRoutes() []byte {
	var b []byte
	if p.cfg.Router.IsValid() {
		b = append([]byte{0}, p.cfg.Router.AsSlice()...)
	}
	for _, r := range p.cfg.Routes {
		// "the significant octets of the destination descriptor"
		bits := r.Dst.Bits()
		b = append(append(b, byte(bits)), r.Dst.Masked().Addr().AsSlice()[:(bits+7)/8]...)
		b = append(b, r.Gateway.AsSlice()...)
	}
	return b
}

// override puts the configured options in the place of opts of the same code, and
// behind them. One without a value takes the other away.
func override(opts []option, configured []dhcpd.Option) linkInfo {
	var li linkInfo
	for i := range configured {
		o := &configured[i]
		if isTimer(o) {
			t := time.Duration(binary.BigEndian.Uint32(o.Value)) * time.Second
			if o.Code == uint16(dhcpv4.OptionRenewTimeValue.Code()) {
				li.t1 = t
			} else {
				li.t2 = t
			}
			continue
		}
		opts = slices.DeleteFunc(opts, func(have option) bool { return uint16(have.code) == o.Code })
		when := ifWanted
		if o.Force {
			when = always
		}
		if o.Value != nil {
			opts = append(opts, option{code(o.Code), o.Value, when})
		}
	}
	li.opts = opts
	return li
}

// reply returns the value of the Client FQDN option that answers f.
func (f *fqdn) reply(hostname, domain string) []byte {
	// RFC 4702, section 4: the RCODE bytes are 255.
	value := []byte{f.flags&dhcpd.FQDNEncoded | dhcpd.FQDNAnswer(f.flags), 255, 255}
	name := dhcpd.Qualified(hostname, domain)
	if f.flags&dhcpd.FQDNEncoded == 0 {
		return append(value, name...)
	}
	return append(value, dhcpd.ToLabels(name)...)
}

// wanted leaves out the options that the client does not ask for.
//
// RFC 2131, section 4.3.1 has the server send the parameters of the list where
// it has a value. Without a list everything is sent.
func (c *request) wanted(opts []option) []option {
	list := c.msg.get(code(dhcpv4.OptionParameterRequestList))
	return slices.DeleteFunc(opts, func(o option) bool {
		switch o.when {
		case always:
			return false
		case ifWanted:
			return list != nil && !slices.Contains(list, byte(o.code))
		default:
			return !slices.Contains(list, byte(o.code))
		}
	})
}

// room returns how many bytes of options the client can receive.
//
// RFC 2132, section 9.10: the option "specifies the maximum length DHCP message
// that it is willing to accept. [...] The minimum legal value is 576 octets."
func (c *request) room() int {
	if c.typ == dhcpv4.MessageTypeNone {
		return bootpVendor - 4 - 1
	}
	size := minDatagram
	if v := c.msg.value(code(dhcpv4.OptionMaximumDHCPMessageSize), 2); v != nil {
		size = min(max(size, int(binary.BigEndian.Uint16(v))), maxDatagram)
	}
	return size - ipUDPHeaders - header - 1 // the end option
}

// pieces returns how many options of at most 255 bytes a value takes (RFC 3396): one where
// it is empty.
func (o option) pieces() int { return max(1, (len(o.value)+254)/255) }

// fit leaves out, in place, what does not fit into room: the last ones first.
func fit(opts []option, room int) []option {
	return slices.DeleteFunc(opts, func(o option) bool {
		size := len(o.value) + 2*o.pieces()
		if size > room {
			return true
		}
		room -= size
		return false
	})
}

// inOrder sorts options, in place, by their codes. Of two of one code the later one
// counts. RFC 3046, section 2.1 has a relay's come last. There are few, so that they are
// inserted one after the other.
func inOrder(opts []option) []option {
	for i := range opts {
		for j := i; j > 0 && opts[j].place() < opts[j-1].place(); j-- {
			opts[j], opts[j-1] = opts[j-1], opts[j]
		}
	}
	last := opts[:0]
	for i, o := range opts {
		if i+1 == len(opts) || opts[i+1].code != o.code {
			last = append(last, o)
		}
	}
	return last
}

// place is where an option stands among others.
func (o *option) place() int {
	if o.code == code(dhcpv4.OptionRelayAgentInformation) {
		return 1 << 8
	}
	return int(o.code)
}

// appendOptions appends options to a message.
func appendOptions(b []byte, opts []option) []byte {
	for _, o := range opts {
		value := o.value
		for range o.pieces() {
			n := min(len(value), 255)
			b = append(append(b, byte(o.code), byte(n)), value[:n]...)
			value = value[n:]
		}
	}
	return b
}

// combined returns opts with the parts of each option as one that has them all. Of
// parts the last one of the configuration is the first.
func combined(opts []dhcpd.Option) []dhcpd.Option {
	var whole []dhcpd.Option
	type container struct {
		encap      uint8
		enterprise uint32
	}
	parts := make(map[container]int) // where the option stands in whole
	for _, o := range slices.Backward(opts) {
		if o.Encap == 0 {
			continue
		}
		at := container{o.Encap, o.Enterprise}
		i, known := parts[at]
		if !known {
			i, parts[at] = len(whole), len(whole)
			whole = append(whole, dhcpd.Option{Code: uint16(o.Encap), Value: []byte{}, Enterprise: o.Enterprise})
		}
		w := &whole[i]
		w.Value = append(append(w.Value, byte(o.Code), byte(len(o.Value))), o.Value...)
		w.Force = w.Force || o.Force
	}
	var all []dhcpd.Option
	for _, o := range opts {
		if o.Encap == 0 {
			all = append(all, o)
		}
	}
	return append(all, closed(whole)...)
}

// closed ends options that are made of parts, and puts those of several enterprises
// together in one option (RFC 3925, section 4).
func closed(whole []dhcpd.Option) []dhcpd.Option {
	var all []dhcpd.Option
	for _, w := range whole {
		if w.Code != uint16(dhcpv4.OptionVendorIdentifyingVendorSpecific.Code()) {
			w.Value = append(w.Value, dhcpv4.OptionEnd.Code())
			all = append(all, w)
			continue
		}
		head := append(binary.BigEndian.AppendUint32(nil, w.Enterprise), byte(min(len(w.Value), 255)))
		w.Value = append(head, w.Value[:min(len(w.Value), 255)]...)
		if i := slices.IndexFunc(all, func(o dhcpd.Option) bool { return o.Code == w.Code }); i >= 0 {
			all[i].Value = append(bytes.Clone(all[i].Value), w.Value...)
			all[i].Force = all[i].Force || w.Force
			continue
		}
		all = append(all, w)
	}
	return all
}
