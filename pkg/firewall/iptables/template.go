package iptables

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// The kernel holds a rule of iptables-nft as a list of expressions, and each
// version of iptables has its own way to make them. A template is learned from a rule
// that the iptables of this host wrote; rules that differ from it in devices, subnets,
// ports and where they lead alone are then written as it would write them, without
// executing it.

// template is what rules have in common that differ in operands alone.
type template struct {
	expressions []expression
	proto       byte // of -p, 0 for none
}

// expression is one expression of a template.
type expression struct {
	raw []byte // as the kernel lists it; nil: has an operand
	// name is the kernel's of the expression, flag the operand's, size the number of its
	// bytes that are in it, and rest its other attributes, which come before.
	name, flag string
	size       int
	rest       []byte
	info       []byte // of a match of ports, which stand in it at its size
}

// operands are what differs between rules of one template, as it stands in expressions,
// by the flag of iptables: devices of -i and -o, addresses of -s and -d, ports of --dport,
// in the order of the network, two of a range; and of --to-destination a struct
// nf_nat_range2 of linux/netfilter/nf_nat.h.
type operands map[string][]byte

// The flags of operands that begin with a word.
const (
	flagPort = "--dport"
	flagLead = "--to-destination"
)

// parameterize splits a rule into what its template depends on, and its operands.
// What iptables-save prints is split at blanks safely, because what rules of ours have
// in quotes, a prefix of the log, holds no flag.
func parameterize(f firewall.Family, args string) (string, operands) {
	words := strings.Split(args, " ")
	found := operands{}
	for i := 0; i+1 < len(words); i++ {
		value := words[i+1]
		switch words[i] {
		case "-i", "-o":
			found[words[i]], words[i+1] = append([]byte(value), 0), ""
		case "-s", "-d":
			if subnet, err := netip.ParsePrefix(value); err == nil {
				_, length, _ := strings.Cut(value, "/")
				found[words[i]], words[i+1] = subnet.Masked().Addr().AsSlice(), "/"+length
			}
		case flagPort:
			if ports, form := portOperand(value); ports != nil {
				found[flagPort], words[i+1] = ports, form
			}
		case flagLead:
			if lead, form := leadOperand(value); lead != nil {
				found[flagLead], words[i+1] = lead, form
			}
		}
	}
	return f.String() + " " + strings.Join(words, " "), found
}

// portOperand is the operand of --dport, and what all ports, or ranges, have in common. It is
// nil where the text is neither.
func portOperand(text string) (ports []byte, form string) {
	first, last, ranged := strings.Cut(text, ":")
	if ranged {
		form = ":"
	} else {
		last = first
	}
	from, err1 := strconv.ParseUint(first, 10, 16)
	to, err2 := strconv.ParseUint(last, 10, 16)
	if err1 != nil || err2 != nil {
		return nil, ""
	}
	ports = binary.BigEndian.AppendUint16(nil, uint16(from))
	if ranged {
		ports = binary.BigEndian.AppendUint16(ports, uint16(to))
	}
	return ports, form
}

// leadOperand is the operand of --to-destination that is one address, alone, with a port, or
// with ports that are counted from a base, and what all such have in common. It is nil for
// others.
func leadOperand(text string) (lead []byte, form string) {
	const (
		mapAddress = 1 << 0 // NF_NAT_RANGE_MAP_IPS
		mapPort    = 1 << 1 // NF_NAT_RANGE_PROTO_SPECIFIED
		mapOffset  = 1 << 5 // NF_NAT_RANGE_PROTO_OFFSET
	)
	text, base, shifted := strings.Cut(text, "/")
	last := ""
	if shifted {
		text, last, _ = strings.Cut(text, "-")
	}
	flags := uint32(mapAddress)
	var ports [3]uint16 // the lowest, the highest, and from which of the packets' they are counted
	addr, err := netip.ParseAddr(text)
	if err != nil {
		at, err := netip.ParseAddrPort(text)
		if err != nil {
			return nil, ""
		}
		addr, ports[0], ports[1], form = at.Addr(), at.Port(), at.Port(), ":"
		flags |= mapPort
	}
	if shifted {
		to, err1 := strconv.ParseUint(last, 10, 16)
		from, err2 := strconv.ParseUint(base, 10, 16)
		if err1 != nil || err2 != nil || form == "" {
			return nil, ""
		}
		ports[1], ports[2], form = uint16(to), uint16(from), "/"
		flags |= mapOffset
	}
	var padded [16]byte
	copy(padded[:], addr.AsSlice())
	lead = binary.NativeEndian.AppendUint32(nil, flags)
	lead = append(append(lead, padded[:]...), padded[:]...) // the lowest and the highest
	for _, port := range ports {
		lead = binary.BigEndian.AppendUint16(lead, port)
	}
	return lead, form
}

// protocol is the number of the -p of a rule, 0 for none.
func protocol(args string) byte {
	switch {
	case strings.Contains(" "+args, " -p tcp "):
		return unix.IPPROTO_TCP
	case strings.Contains(" "+args, " -p udp "):
		return unix.IPPROTO_UDP
	case strings.Contains(" "+args, " -p sctp "):
		return unix.IPPROTO_SCTP
	case strings.Contains(" "+args, " -p icmp "):
		return unix.IPPROTO_ICMP
	case strings.Contains(" "+args, " -p ipv6-icmp "):
		return unix.IPPROTO_ICMPV6
	}
	return 0
}

// learn makes a template of a rule's expressions; nil if they have anything
// about the rule's operands that is not understood.
func learn(f firewall.Family, args string, expressions []byte) *template {
	_, left := parameterize(f, args)
	out := &template{proto: protocol(args)}
	loaded := ""
	for _, element := range netlink.Attributes(expressions) {
		name, data := splitExpression(element)
		switch {
		case name == "meta" || name == "payload":
			loaded = operandLoaded(f, name, data)
		case name == "bitwise":
		case variable[name] != nil && (loaded != "" || name == "target" || name == "match"):
			p, ok := variable[name](loaded, data, left)
			if !ok {
				return nil
			}
			loaded = ""
			if p.flag != "" {
				out.expressions = append(out.expressions, p)
				delete(left, p.flag)
				continue
			}
		case name == "counter":
			element = zeroCounter()
		default:
			loaded = ""
		}
		out.expressions = append(out.expressions, expression{raw: slices.Clone(element)})
	}
	if len(left) > 0 {
		return nil
	}
	return out
}

// variable read expressions that may have an operand, by their name: one that was loaded by
// the expression before, "" for none, of those that are left. An expression without a flag
// has none. They are false if the operand is not as it is understood here.
var variable = map[string]func(loaded string, data []byte, left operands) (expression, bool){
	"cmp": comparison, "range": between, "match": match, "target": target,
}

// splitExpression splits an expression into its name and its attributes.
func splitExpression(element []byte) (name string, data []byte) {
	for kind, value := range netlink.Attributes(element) {
		switch kind {
		case unix.NFTA_EXPR_NAME:
			name = strings.TrimRight(string(value), "\x00")
		case unix.NFTA_EXPR_DATA:
			data = value
		}
	}
	return name, data
}

// operandLoaded is the flag of the operand that a load is about, "" for others.
func operandLoaded(f firewall.Family, name string, data []byte) string {
	source, destination := uint32(12), uint32(16) // RFC 791 section 3.1
	if f == firewall.IPv6 {
		source, destination = 8, 24 // RFC 8200 section 3
	}
	number := map[uint16]uint32{}
	for kind, value := range netlink.Attributes(data) {
		if len(value) == 4 {
			number[kind] = binary.BigEndian.Uint32(value)
		}
	}
	const transportDestination = 2 // of TCP, UDP and SCTP
	base := number[unix.NFTA_PAYLOAD_BASE]
	switch {
	case name == "meta" && number[unix.NFTA_META_KEY] == unix.NFT_META_IIFNAME:
		return "-i"
	case name == "meta" && number[unix.NFTA_META_KEY] == unix.NFT_META_OIFNAME:
		return "-o"
	case name == "payload" && base == unix.NFT_PAYLOAD_TRANSPORT_HEADER && number[unix.NFTA_PAYLOAD_OFFSET] == transportDestination:
		return flagPort
	case name == "meta" || base != unix.NFT_PAYLOAD_NETWORK_HEADER:
		return ""
	case number[unix.NFTA_PAYLOAD_OFFSET] == source:
		return "-s"
	case number[unix.NFTA_PAYLOAD_OFFSET] == destination:
		return "-d"
	}
	return ""
}

// comparison is the expression for a comparison with an operand.
func comparison(flag string, data []byte, left operands) (expression, bool) {
	p := expression{name: "cmp", flag: flag}
	for kind, value := range netlink.Attributes(data) {
		if kind != unix.NFTA_CMP_DATA {
			p.rest = netlink.AppendAttribute(p.rest, kind, value)
			continue
		}
		operand, compared := left[flag], dataValue(value)
		whole := flag == "-s" || flag == "-d" || len(compared) == len(operand)
		if !whole || !bytes.HasPrefix(operand, compared) {
			return p, false
		}
		p.size = len(compared)
	}
	return p, p.size > 0
}

// between is the expression for a comparison with a range of ports.
func between(flag string, data []byte, left operands) (expression, bool) {
	p := expression{name: "range", flag: flag}
	var from, to []byte
	for kind, value := range netlink.Attributes(data) {
		switch kind {
		case unix.NFTA_RANGE_FROM_DATA:
			from = dataValue(value)
		case unix.NFTA_RANGE_TO_DATA:
			to = dataValue(value)
		default:
			p.rest = netlink.AppendAttribute(p.rest, kind, value)
		}
	}
	p.size = len(from) + len(to)
	return p, flag == flagPort && len(from) == len(to) && p.size > 0 && bytes.Equal(left[flag], slices.Concat(from, to))
}

// matchedPorts are where matches of ports have those to which packets go, as two numbers in the
// order of the host: in struct xt_tcp and xt_udp of linux/netfilter/xt_tcpudp.h, and in
// xt_sctp_info of xt_sctp.h.
var matchedPorts = map[string]int{"tcp": 4, "udp": 4, "sctp": 0}

// match is the expression of a match of ports, and none for other matches.
func match(_ string, data []byte, left operands) (expression, bool) {
	p := expression{name: "match", flag: flagPort}
	kind := ""
	for attribute, value := range netlink.Attributes(data) {
		if attribute == unix.NFTA_MATCH_INFO {
			p.info = value
			continue
		}
		if attribute == unix.NFTA_MATCH_NAME {
			kind = strings.TrimRight(string(value), "\x00")
		}
		p.rest = netlink.AppendAttribute(p.rest, attribute, value)
	}
	at, known := matchedPorts[kind]
	if !known || left[flagPort] == nil {
		return expression{}, true
	}
	ports := nativePorts(left[flagPort])
	if p.size = at; len(p.info) < at+len(ports) || !bytes.Equal(p.info[at:at+len(ports)], ports) {
		return p, false
	}
	p.info = slices.Clone(p.info)
	return p, true
}

// nativePorts are the first and the last of an operand of --dport in the order of the host.
func nativePorts(operand []byte) []byte {
	first, last := binary.BigEndian.Uint16(operand), binary.BigEndian.Uint16(operand[len(operand)-2:])
	return binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(nil, first), last)
}

// target is the expression for where packets are led, and none for other targets.
func target(_ string, data []byte, left operands) (expression, bool) {
	p := expression{name: "target", flag: flagLead}
	var info []byte
	for kind, value := range netlink.Attributes(data) {
		switch {
		case kind == unix.NFTA_TARGET_INFO:
			info = value
			continue
		case kind == unix.NFTA_TARGET_NAME && strings.TrimRight(string(value), "\x00") != "DNAT":
			return expression{}, true
		}
		p.rest = netlink.AppendAttribute(p.rest, kind, value)
	}
	if left[flagLead] == nil {
		return expression{}, true
	}
	p.size = len(info) // the kernel fills up
	return p, bytes.HasPrefix(info, left[flagLead]) && len(bytes.Trim(info[len(left[flagLead]):], "\x00")) == 0
}

// dataValue is the value in a NFTA_…_DATA, nil for none.
func dataValue(b []byte) []byte {
	for kind, value := range netlink.Attributes(b) {
		if kind == unix.NFTA_DATA_VALUE {
			return value
		}
	}
	return nil
}

// element is the expression with its operand.
func (p *expression) element(values operands) []byte {
	if p.raw != nil {
		return p.raw
	}
	rest, value := slices.Clone(p.rest), values[p.flag]
	if p.info != nil {
		info := slices.Clone(p.info)
		copy(info[p.size:], nativePorts(value))
		return nfnetlink.Expression(p.name, netlink.AppendAttribute(rest, unix.NFTA_MATCH_INFO, info))
	}
	data := func(kind uint16, b []byte) {
		rest = netlink.AppendAttribute(rest, unix.NLA_F_NESTED|kind, netlink.AppendAttribute(nil, unix.NFTA_DATA_VALUE, b))
	}
	switch p.name {
	case "range":
		data(unix.NFTA_RANGE_FROM_DATA, value[:p.size/2])
		data(unix.NFTA_RANGE_TO_DATA, value[p.size/2:])
	case "target":
		info := make([]byte, p.size)
		copy(info, value)
		rest = netlink.AppendAttribute(rest, unix.NFTA_TARGET_INFO, info)
	default:
		if p.flag == "-s" || p.flag == "-d" {
			value = value[:p.size]
		}
		data(unix.NFTA_CMP_DATA, value)
	}
	return nfnetlink.Expression(p.name, rest)
}

// zeroCounter is the expression of a counter that has counted nothing.
func zeroCounter() []byte {
	counts := netlink.AppendAttribute(nil, unix.NFTA_COUNTER_BYTES, make([]byte, 8))
	counts = netlink.AppendAttribute(counts, unix.NFTA_COUNTER_PACKETS, make([]byte, 8))
	return nfnetlink.Expression("counter", counts)
}

// attributes are those of a rule of this template in a message that makes it.
func (t *template) attributes(values operands) []byte {
	var list []byte
	for i := range t.expressions {
		list = netlink.AppendAttribute(list, unix.NLA_F_NESTED|unix.NFTA_LIST_ELEM, t.expressions[i].element(values))
	}
	out := netlink.AppendAttribute(nil, unix.NLA_F_NESTED|unix.NFTA_RULE_EXPRESSIONS, list)
	if t.proto == 0 {
		return out
	}
	compat := netlink.AppendAttribute(nil, unix.NFTA_RULE_COMPAT_PROTO, []byte{0, 0, 0, t.proto})
	compat = netlink.AppendAttribute(compat, unix.NFTA_RULE_COMPAT_FLAGS, make([]byte, 4))
	return netlink.AppendAttribute(out, unix.NLA_F_NESTED|unix.NFTA_RULE_COMPAT, compat)
}
