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
	header      = 4  // type, transaction
	relayHeader = 34 // type, hops, link-address, peer-address
	iaHeader    = 12 // IAID, T1, T2
	iaAddrSize  = 24 // address, preferred and valid lifetime
	addrSize    = 16
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

// parseOptions splits b. The values are parts of it.
func parseOptions(b []byte) (options, error) {
	var opts options
	for len(b) > 0 {
		if len(b) < 4 {
			return nil, errors.New("an option is cut off")
		}
		code, n := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		if len(b) < 4+n {
			return nil, fmt.Errorf("option %d is cut off", code)
		}
		opts = append(opts, option{dhcpv6.OptionCode(code), b[4 : 4+n]})
		b = b[4+n:]
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

// bytes does the inverse of parseOptions. No value may be longer than 65535 bytes.
func (o options) bytes() []byte {
	var b []byte
	for _, o := range o {
		b = binary.BigEndian.AppendUint16(b, uint16(o.code))
		b = binary.BigEndian.AppendUint16(b, uint16(len(o.value)))
		b = append(b, o.value...)
	}
	return b
}

// relay is one relay on the way of a message (RFC 8415, section 9).
type relay struct {
	hops       byte
	link, peer netip.Addr
	options    options
}

// unwrap takes a client's message out of what relays put around it. The outermost
// relay comes first.
func unwrap(b []byte) ([]byte, []relay, error) {
	var relays []relay
	for len(b) > 0 && b[0] == byte(dhcpv6.MessageTypeRelayForward) {
		if len(b) < relayHeader || len(relays) == maxHops {
			return nil, nil, errors.New("a relay's message is malformed")
		}
		opts, err := parseOptions(b[relayHeader:])
		if err != nil {
			return nil, nil, fmt.Errorf("a relay's message: %w", err)
		}
		inner, ok := opts.get(dhcpv6.OptionRelayMsg)
		if !ok {
			return nil, nil, errors.New("a relay's message is empty")
		}
		relays = append(relays, relay{
			hops: b[1], link: netip.AddrFrom16([16]byte(b[2:18])), peer: netip.AddrFrom16([16]byte(b[18:34])), options: opts,
		})
		b = inner
	}
	return b, relays, nil
}

// wrap returns the reply that takes a message back through the relays.
//
// RFC 8415, section 19.3: "The server copies the peer-address and link-address
// fields" and the Interface-Id option.
func wrap(b []byte, relays []relay) []byte {
	for _, r := range slices.Backward(relays) {
		opts := options{{dhcpv6.OptionRelayMsg, b}}
		if id, ok := r.options.get(dhcpv6.OptionInterfaceID); ok {
			opts = append(options{{dhcpv6.OptionInterfaceID, id}}, opts...)
		}
		out := append([]byte{byte(dhcpv6.MessageTypeRelayReply), r.hops}, r.link.AsSlice()...)
		b = append(append(out, r.peer.AsSlice()...), opts.bytes()...)
	}
	return b
}

// identityAssoc is an identity association (RFC 8415, section 21.4): one interface of a
// client and the addresses that it has or would like.
type identityAssoc struct {
	code  dhcpv6.OptionCode
	iaid  uint32
	addrs []iaAddr
}

// iaAddr is an address with its lifetimes.
type iaAddr struct {
	addr             netip.Addr
	preferred, valid time.Duration
}

// parseIA understands the value of an IA_NA, IA_TA or IA_PD option. Addresses
// that are malformed are left out.
func parseIA(code dhcpv6.OptionCode, b []byte) (identityAssoc, error) {
	if len(b) < 4 {
		return identityAssoc{}, errors.New("an IA is cut off")
	}
	ia := identityAssoc{code: code, iaid: binary.BigEndian.Uint32(b)}
	if code != dhcpv6.OptionIANA {
		return ia, nil
	}
	if len(b) < iaHeader {
		return identityAssoc{}, errors.New("an IA_NA is cut off")
	}
	opts, err := parseOptions(b[iaHeader:])
	if err != nil {
		return identityAssoc{}, fmt.Errorf("an IA_NA: %w", err)
	}
	for _, o := range opts {
		if o.code == dhcpv6.OptionIAAddr && len(o.value) >= iaAddrSize && len(ia.addrs) < maxIAs {
			ia.addrs = append(ia.addrs, iaAddr{
				addr:      netip.AddrFrom16([16]byte(o.value)),
				preferred: lifetime(o.value[addrSize:]), valid: lifetime(o.value[addrSize+4:]),
			})
		}
	}
	return ia, nil
}

// lifetime reads a time of a message.
func lifetime(b []byte) time.Duration {
	return time.Duration(binary.BigEndian.Uint32(b)) * time.Second
}

// option returns the IA with what it was given: addresses, those without lifetimes
// last, and a status unless that is a success.
func (ia *identityAssoc) option(given []iaAddr, status iana.StatusCode) option {
	value := binary.BigEndian.AppendUint32(nil, ia.iaid)
	var opts options
	if ia.code != dhcpv6.OptionIATA {
		value = appendTimes(value, given)
	}
	for _, a := range given {
		v := append(a.addr.AsSlice(), dhcpd.Seconds(a.preferred)...)
		opts = append(opts, option{dhcpv6.OptionIAAddr, append(v, dhcpd.Seconds(a.valid)...)})
	}
	if status != iana.StatusSuccess {
		opts = append(opts, statusOption(status))
	}
	return option{ia.code, append(value, opts.bytes()...)}
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
		return append(append(b, dhcpd.Seconds(t)...), dhcpd.Seconds(t)...)
	}
	return append(append(b, dhcpd.Seconds(t/2)...), dhcpd.Seconds(t*7/8)...)
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
