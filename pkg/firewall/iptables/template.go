package iptables

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// The kernel holds a rule of iptables-nft as a list of expressions, and each
// version of iptables has its own way to make them. A template is learned from a rule
// that the iptables of this host wrote; rules that differ from it in devices and
// subnets alone are then written as it would write them, without executing it.

// template is what rules have in common that differ in operands alone.
type template struct {
	expressions []expression
	proto       byte // of -p, 0 for none
}

// expression is one expression of a template.
type expression struct {
	raw []byte // as the kernel lists it; nil: compares what was loaded with an operand
	// flag is the operand's, size the number of its bytes that are compared, and
	// operator the register and the operator of the comparison.
	flag     string
	size     int
	operator []byte
}

// operands are a rule's devices and addresses as they stand in expressions, by
// the flag of iptables: -i, -o, -s and -d.
type operands map[string][]byte

// parameterize splits a rule into what its template depends on, and its operands.
// What iptables-save prints is split at blanks safely, because rules of ours have
// no quotes.
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
		}
	}
	return f.String() + " " + strings.Join(words, " "), found
}

// protocol is the number of the -p of a rule, 0 for none.
func protocol(args string) byte {
	switch {
	case strings.Contains(" "+args, " -p tcp "):
		return unix.IPPROTO_TCP
	case strings.Contains(" "+args, " -p udp "):
		return unix.IPPROTO_UDP
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
		case name == "cmp" && loaded != "":
			p, ok := comparison(loaded, data, left[loaded])
			if !ok {
				return nil
			}
			out.expressions = append(out.expressions, p)
			delete(left, loaded)
			loaded = ""
			continue
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
	switch {
	case name == "meta" && number[unix.NFTA_META_KEY] == unix.NFT_META_IIFNAME:
		return "-i"
	case name == "meta" && number[unix.NFTA_META_KEY] == unix.NFT_META_OIFNAME:
		return "-o"
	case name == "meta" || number[unix.NFTA_PAYLOAD_BASE] != unix.NFT_PAYLOAD_NETWORK_HEADER:
		return ""
	case number[unix.NFTA_PAYLOAD_OFFSET] == source:
		return "-s"
	case number[unix.NFTA_PAYLOAD_OFFSET] == destination:
		return "-d"
	}
	return ""
}

// comparison is the expression for a comparison with an operand. It is false if it
// compares with something else.
func comparison(flag string, data, operand []byte) (expression, bool) {
	p := expression{flag: flag}
	for kind, value := range netlink.Attributes(data) {
		if kind != unix.NFTA_CMP_DATA {
			p.operator = netlink.AppendAttribute(p.operator, kind, value)
			continue
		}
		for kind, compared := range netlink.Attributes(value) {
			whole := flag == "-s" || flag == "-d" || len(compared) == len(operand)
			if kind != unix.NFTA_DATA_VALUE || !whole || !bytes.HasPrefix(operand, compared) {
				return p, false
			}
			p.size = len(compared)
		}
	}
	return p, p.size > 0
}

// zeroCounter is the expression of a counter that has counted nothing.
func zeroCounter() []byte {
	counts := netlink.AppendAttribute(nil, unix.NFTA_COUNTER_BYTES, make([]byte, 8))
	counts = netlink.AppendAttribute(counts, unix.NFTA_COUNTER_PACKETS, make([]byte, 8))
	return newExpression("counter", counts)
}

// newExpression is an expression of that name and those attributes.
func newExpression(name string, data []byte) []byte {
	b := netlink.AppendAttribute(nil, unix.NFTA_EXPR_NAME, []byte(name+"\x00"))
	return netlink.AppendAttribute(b, unix.NLA_F_NESTED|unix.NFTA_EXPR_DATA, data)
}

// attributes are those of a rule of this template in a message that makes it.
func (t *template) attributes(values operands) []byte {
	var list []byte
	for _, p := range t.expressions {
		element := p.raw
		if element == nil {
			value := values[p.flag]
			if p.flag == "-s" || p.flag == "-d" {
				value = value[:p.size]
			}
			compared := netlink.AppendAttribute(nil, unix.NFTA_DATA_VALUE, value)
			element = newExpression("cmp", netlink.AppendAttribute(slices.Clone(p.operator), unix.NLA_F_NESTED|unix.NFTA_CMP_DATA, compared))
		}
		list = netlink.AppendAttribute(list, unix.NLA_F_NESTED|unix.NFTA_LIST_ELEM, element)
	}
	out := netlink.AppendAttribute(nil, unix.NLA_F_NESTED|unix.NFTA_RULE_EXPRESSIONS, list)
	if t.proto == 0 {
		return out
	}
	compat := netlink.AppendAttribute(nil, unix.NFTA_RULE_COMPAT_PROTO, []byte{0, 0, 0, t.proto})
	compat = netlink.AppendAttribute(compat, unix.NFTA_RULE_COMPAT_FLAGS, make([]byte, 4))
	return netlink.AppendAttribute(out, unix.NLA_F_NESTED|unix.NFTA_RULE_COMPAT, compat)
}
