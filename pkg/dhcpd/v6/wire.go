package v6

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// Sizes of parts of messages (RFC 8415, sections 8, 9 and 21).
const (
	header       = 4  // type, transaction
	optionHeader = 4  // code, length
	relayHeader  = 34 // type, hops, link-address, peer-address
	iaHeader     = 12 // IAID, T1, T2
	iaAddrSize   = 24 // address, preferred and valid lifetime
	addrSize     = 16
)

// maxHops is how many relays may stand between a client and us (RFC 8415,
// section 7.6: HOP_COUNT_LIMIT).
const maxHops = 8

// options are the options of a message, or of an option, as they came. A malformed
// value harms nobody but its reader, and a client gets its DUID back whatever is in
// it. The library, which reads all options or refuses the message, can do neither,
// and takes three times as long to read a Request and write its Reply, with twice as
// many allocations (BenchmarkReply).
type options []option

type option struct {
	code  dhcpv6.OptionCode
	value []byte
}

// parse splits b, in the memory of o. The values are parts of b.
func (o options) parse(b []byte) (options, error) {
	count := 0
	for rest := b; len(rest) > 0; count++ {
		if len(rest) < optionHeader {
			return nil, errors.New("an option is cut off")
		}
		code, n := binary.BigEndian.Uint16(rest), int(binary.BigEndian.Uint16(rest[2:]))
		if len(rest) < optionHeader+n {
			return nil, fmt.Errorf("option %d is cut off", code)
		}
		rest = rest[optionHeader+n:]
	}
	opts := slices.Grow(o[:0], count)
	for len(b) > 0 {
		code, end := binary.BigEndian.Uint16(b), optionHeader+int(binary.BigEndian.Uint16(b[2:]))
		opts = append(opts, option{dhcpv6.OptionCode(code), b[optionHeader:end]})
		b = b[end:]
	}
	return opts, nil
}

// get returns the value of the first option of that code; false when there is none.
func (o options) get(code dhcpv6.OptionCode) ([]byte, bool) {
	i := slices.IndexFunc(o, func(o option) bool { return o.code == code })
	if i < 0 {
		return nil, false
	}
	return o[i].value, true
}

// size is how many bytes the options take in a message.
func (o options) size() (n int) {
	for _, o := range o {
		n += optionHeader + len(o.value)
	}
	return n
}

// appendTo does the inverse of parse. No value may be longer than 65535 bytes.
func (o options) appendTo(b []byte) []byte {
	for _, o := range o {
		b = append(appendOptionHeader(b, o.code, len(o.value)), o.value...)
	}
	return b
}

// appendOptionHeader appends what is ahead of the value of an option.
func appendOptionHeader(b []byte, code dhcpv6.OptionCode, size int) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, uint16(code)), uint16(size))
}

// relay is one relay on the way of a message (RFC 8415, section 9).
type relay struct {
	hops       byte
	link, peer netip.Addr
	options    options
}

// unwrap takes a client's message out of what relays put around it, in the memory of relays. The
// outermost relay comes first.
func unwrap(b []byte, relays []relay) ([]byte, []relay, error) {
	relays = relays[:0]
	for len(b) > 0 && b[0] == byte(dhcpv6.MessageTypeRelayForward) {
		if len(b) < relayHeader || len(relays) == maxHops {
			return nil, nil, errors.New("a relay's message is malformed")
		}
		var r *relay
		relays, r = extended(relays)
		opts, err := r.options.parse(b[relayHeader:])
		if err != nil {
			return nil, nil, fmt.Errorf("a relay's message: %w", err)
		}
		inner, ok := opts.get(dhcpv6.OptionRelayMsg)
		if !ok {
			return nil, nil, errors.New("a relay's message is empty")
		}
		*r = relay{hops: b[1], link: netip.AddrFrom16([16]byte(b[2:18])), peer: netip.AddrFrom16([16]byte(b[18:34])), options: opts}
		b = inner
	}
	return b, relays, nil
}

// extended is all with one more, which has what stood at its place, whose memory may be taken.
func extended[T any](all []T) (_ []T, last *T) {
	n := len(all)
	all = slices.Grow(all, 1)[:n+1]
	return all, &all[n]
}

// wrap appends the reply that takes a message back through the relays, of which there are.
//
// RFC 8415, section 19.3: "The server copies the peer-address and link-address
// fields" and the Interface-Id option.
func wrap(to, b []byte, relays []relay) []byte {
	for i, r := range slices.Backward(relays) {
		var room [2]option
		opts := options(room[:0])
		if id, ok := r.options.get(dhcpv6.OptionInterfaceID); ok {
			opts = append(opts, option{dhcpv6.OptionInterfaceID, id})
		}
		opts = append(opts, option{dhcpv6.OptionRelayMsg, b})
		out := to
		if i > 0 { // inside of another one
			out = make([]byte, 0, relayHeader+opts.size())
		}
		out = append(out, byte(dhcpv6.MessageTypeRelayReply), r.hops)
		link, peer := r.link.As16(), r.peer.As16()
		b = opts.appendTo(append(append(out, link[:]...), peer[:]...))
	}
	return b
}

// identityAssoc is an identity association (RFC 8415, section 21.4): one interface of a
// client and the addresses that it has or would like.
type identityAssoc struct {
	code  dhcpv6.OptionCode
	iaid  uint32
	addrs []iaAddr
	// client is whose it is, once it is known; see handler.identity.
	client dhcpd.Client
	known  bool
	// value is memory for option.
	value []byte
}

// iaAddr is an address with its lifetimes.
type iaAddr struct {
	addr             netip.Addr
	preferred, valid time.Duration
}

// parse makes ia what the value of an IA_NA, IA_TA or IA_PD option says, in the memory that it has.
// Addresses that are malformed are left out.
func (ia *identityAssoc) parse(code dhcpv6.OptionCode, b []byte) error {
	if len(b) < 4 {
		return errors.New("an IA is cut off")
	}
	*ia = identityAssoc{code: code, iaid: binary.BigEndian.Uint32(b), addrs: ia.addrs[:0], value: ia.value[:0]}
	if code != dhcpv6.OptionIANA {
		return nil
	}
	if len(b) < iaHeader {
		return errors.New("an IA_NA is cut off")
	}
	var room [maxIAs]option
	opts, err := options(room[:0]).parse(b[iaHeader:])
	if err != nil {
		return fmt.Errorf("an IA_NA: %w", err)
	}
	for _, o := range opts {
		if o.code == dhcpv6.OptionIAAddr && len(o.value) >= iaAddrSize && len(ia.addrs) < maxIAs {
			ia.addrs = append(ia.addrs, iaAddr{
				addr:      netip.AddrFrom16([16]byte(o.value)),
				preferred: lifetime(o.value[addrSize:]), valid: lifetime(o.value[addrSize+4:]),
			})
		}
	}
	return nil
}

// lifetime reads a time of a message.
func lifetime(b []byte) time.Duration {
	return time.Duration(binary.BigEndian.Uint32(b)) * time.Second
}

// option returns the IA with what it was given: addresses, those without lifetimes
// last, and a status unless that is a success. It is valid until ia is asked again, or parsed.
func (ia *identityAssoc) option(given []iaAddr, status iana.StatusCode) option {
	var end options
	if status != iana.StatusSuccess {
		end = options{statusOption(status)}
	}
	value := binary.BigEndian.AppendUint32(ia.value[:0], ia.iaid)
	if ia.code != dhcpv6.OptionIATA {
		value = appendTimes(value, given)
	}
	for _, a := range given {
		addr := a.addr.As16()
		value = append(appendOptionHeader(value, dhcpv6.OptionIAAddr, iaAddrSize), addr[:]...)
		value = appendSeconds(appendSeconds(value, a.preferred), a.valid)
	}
	ia.value = end.appendTo(value)
	return option{ia.code, ia.value}
}

// appendSeconds appends a time as a message has it.
func appendSeconds(b []byte, d time.Duration) []byte {
	return binary.BigEndian.AppendUint32(b, uint32(d/time.Second))
}

// appendTimes appends T1 and T2. RFC 8415, section 21.4: "Recommended values for
// T1 and T2 are 0.5 and 0.8 times the shortest preferred lifetime"; dnsmasq's T2
// is 0.875 times it, as in DHCPv4.
func appendTimes(b []byte, given []iaAddr) []byte {
	var t time.Duration
	if len(given) > 0 {
		t = given[0].preferred
	}
	if t >= dhcpd.Infinite {
		return appendSeconds(appendSeconds(b, t), t)
	}
	return appendSeconds(appendSeconds(b, t/2), t-t/8)
}

// statusOption returns the Status Code option (RFC 8415, section 21.13).
func statusOption(status iana.StatusCode) option {
	text := map[iana.StatusCode]string{
		iana.StatusSuccess:       "success",
		iana.StatusNoAddrsAvail:  "no addresses available",
		iana.StatusNoBinding:     "no binding",
		iana.StatusNotOnLink:     "not on link",
		iana.StatusUseMulticast:  "use multicast",
		iana.StatusNoPrefixAvail: "no prefixes available",
	}[status]
	return option{dhcpv6.OptionStatusCode, append(binary.BigEndian.AppendUint16(nil, uint16(status)), text...)}
}
