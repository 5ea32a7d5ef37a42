package ruleset

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// String is the element of a set with a name as nft(8) lists it, without its comment, behind
// the name of the set.
func (e *Element) String() string {
	if e.in == nil {
		return ""
	}
	var parts []string
	for i, r := range e.Key {
		kind := ""
		if i < len(e.in.Types) {
			kind = e.in.Types[i]
		}
		parts = append(parts, r.show(kind))
	}
	text := "@" + e.in.Name + " { " + strings.Join(parts, " . ")
	if e.Verdict.Name != "" {
		text += " : " + strings.TrimSpace(e.Verdict.Name+" "+e.Verdict.Target)
	}
	return text + " }"
}

// show is a range of values of a type.
func (r Range) show(kind string) string {
	switch kind {
	case "ipv4_addr":
		return r.addresses(false)
	case "ipv6_addr":
		return r.addresses(true)
	}
	low, high := r.Low.show(kind), r.High.show(kind)
	if low == high {
		return low
	}
	return low + "-" + high
}

// addresses is a range of addresses: one, a prefix, or its two ends.
func (r Range) addresses(v6 bool) string {
	low, high := r.Low.Address(v6), r.High.Address(v6)
	differ := r.Low.Xor(r.High.Number)
	length := low.BitLen() - max(bits.Len64(differ.Lo), 64*min(bits.Len64(differ.Hi), 1)+bits.Len64(differ.Hi))
	switch p := netip.PrefixFrom(low, length); {
	case low == high:
		return low.String()
	case prefixRange(p) == r:
		return p.String()
	}
	return fmt.Sprintf("%v-%v", low, high)
}

// show is a value of a type.
func (v Value) show(kind string) string {
	switch {
	case v.Text != "":
		return strconv.Quote(strings.TrimSuffix(v.Text, Empty))
	case kind == "ether_addr":
		return net.HardwareAddr(binary.BigEndian.AppendUint64(nil, v.Lo)[2:]).String()
	case kind == "inet_proto":
		for _, name := range []string{"tcp", "udp", "sctp", "icmp", "ipv6-icmp"} {
			if symbols["protocol"][name] == v.Lo {
				return name
			}
		}
	}
	return strconv.FormatUint(v.Lo, 10)
}
