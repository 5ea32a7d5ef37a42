package nft

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// rule is what one rule does, in the order in which the kernel does it.
type rule []expr.Any

// reg is the first register of keys, which follow each other in registers of 4
// bytes.
const reg = unix.NFT_REG32_00

// key is one field that is loaded into a register.
type key struct {
	size int // in bytes
	load func(register uint32) expr.Any
}

func field(base expr.PayloadBase, offset, size int) key {
	return key{size, func(r uint32) expr.Any {
		return &expr.Payload{DestRegister: r, Base: base, Offset: uint32(offset), Len: uint32(size)}
	}}
}

func fragment(offset, size int, flags uint32) key {
	return key{size, func(r uint32) expr.Any {
		return &expr.Exthdr{DestRegister: r, Type: unix.IPPROTO_FRAGMENT, Offset: uint32(offset), Len: uint32(size), Flags: flags, Op: expr.ExthdrOpIpv6}
	}}
}

func meta(k expr.MetaKey, size int) key {
	return key{size, func(r uint32) expr.Any { return &expr.Meta{Key: k, Register: r} }}
}

// The fields that rules look at.
var (
	iif      = meta(expr.MetaKeyIIF, 4)
	protocol = meta(expr.MetaKeyPROTOCOL, 2) // behind one tag
	l4       = meta(expr.MetaKeyL4PROTO, 1)
	pktType  = meta(expr.MetaKeyPKTTYPE, 1)

	// What most frames are let through by: the address of a card with the protocol
	// behind it, which for a tagged frame is that of the tag.
	etherSourceType = field(expr.PayloadBaseLLHeader, 6, 8)
	destFirst       = field(expr.PayloadBaseLLHeader, 0, 1)
	sourceFirst     = field(expr.PayloadBaseLLHeader, 6, 1)

	etherDest   = field(expr.PayloadBaseLLHeader, 0, 6)
	etherSource = field(expr.PayloadBaseLLHeader, 6, 6)
	etherType   = field(expr.PayloadBaseLLHeader, 12, 2)
	vlanTag     = field(expr.PayloadBaseLLHeader, 14, 2) // IEEE 802.1Q: priority, DEI, VLAN

	arpSenderMAC = field(expr.PayloadBaseNetworkHeader, 8, 6) // RFC 826
	arpSenderIP  = field(expr.PayloadBaseNetworkHeader, 14, 4)
	ip4Source    = field(expr.PayloadBaseNetworkHeader, 12, 4)
	ip4Dest      = field(expr.PayloadBaseNetworkHeader, 16, 4)
	ip6Source    = field(expr.PayloadBaseNetworkHeader, 8, 16)
	ip6Dest      = field(expr.PayloadBaseNetworkHeader, 24, 16)

	snap     = field(expr.PayloadBaseNetworkHeader, 0, 6) // IEEE 802: LLC and OUI, where there is no type of Ethernet
	snapType = field(expr.PayloadBaseNetworkHeader, 6, 2)

	// Of a fragment of IPv6 (RFC 8200, section 4.5): whether it is one, and its offset with three
	// flags, which another packet has not, so that no rule with it matches.
	isFragment     = fragment(0, 1, unix.NFT_EXTHDR_F_PRESENT)
	fragmentOffset = fragment(2, 2, 0)

	l4Header   = field(expr.PayloadBaseTransportHeader, 0, 4)
	destPort   = field(expr.PayloadBaseTransportHeader, 2, 2)
	icmpType   = field(expr.PayloadBaseTransportHeader, 0, 1)
	ndTarget   = field(expr.PayloadBaseTransportHeader, 8, 16) // RFC 4861, sections 4.3 and 4.4
	noIPSource = netip.IPv4Unspecified()
)

// keys loads fields one behind the other.
func keys(all ...key) rule {
	var r rule
	at := uint32(reg)
	for _, k := range all {
		r = append(r, k.load(at))
		at += uint32(k.size+3) / 4
	}
	return r
}

// is matches a field of one value.
func is(k key, value ...byte) rule { return compare(k, expr.CmpOpEq, value) }

// isNot matches a field of any other value.
func isNot(k key, value ...byte) rule { return compare(k, expr.CmpOpNeq, value) }

func compare(k key, op expr.CmpOp, value []byte) rule {
	return append(keys(k), &expr.Cmp{Op: op, Register: reg, Data: value})
}

// masked matches a field of which the bits in mask are value.
func masked(k key, op expr.CmpOp, mask, value []byte) rule {
	return append(keys(k),
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: uint32(k.size), Mask: mask, Xor: make([]byte, k.size)},
		&expr.Cmp{Op: op, Register: reg, Data: value})
}

// between matches a field from one value to another.
func between(k key, from, to byte) rule {
	return append(keys(k), &expr.Range{Op: expr.CmpOpEq, Register: reg, FromData: []byte{from}, ToData: []byte{to}})
}

// there matches a field that the packet has, whatever its value.
func there(k key) rule { return compare(k, expr.CmpOpGte, make([]byte, k.size)) }

// within matches an address in a prefix, outside one that is not.
func within(k key, p netip.Prefix) rule  { return comparePrefix(k, expr.CmpOpEq, p) }
func outside(k key, p netip.Prefix) rule { return comparePrefix(k, expr.CmpOpNeq, p) }

// comparePrefix compares an address with a prefix.
func comparePrefix(k key, op expr.CmpOp, p netip.Prefix) rule {
	if p.IsSingleIP() {
		return compare(k, op, p.Addr().AsSlice())
	}
	mask := make([]byte, k.size)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return masked(k, op, mask, p.Masked().Addr().AsSlice())
}

// in matches fields that are a key of a set, notIn such that are none.
func in(set string, all ...key) rule {
	return append(keys(all...), &expr.Lookup{SourceRegister: reg, SetName: set})
}

func notIn(set string, all ...key) rule {
	return append(keys(all...), &expr.Lookup{SourceRegister: reg, SetName: set, Invert: true})
}

// group matches an address of a group, which broadcast is, by its first byte.
func group(first key) rule { return masked(first, expr.CmpOpNeq, []byte{1}, []byte{0}) }

// note adds fields to a set; the rule goes on.
func note(set string, timeout time.Duration, all ...key) rule {
	return append(keys(all...), &expr.Dynset{SrcRegKey: reg, SetName: set, Operation: uint32(unix.NFT_DYNSET_OP_ADD), Timeout: timeout})
}

// count counts frames by ifindex in a set; the rule goes on.
func count(set string) rule {
	return append(keys(iif), &expr.Dynset{SrcRegKey: reg, SetName: set, Operation: uint32(unix.NFT_DYNSET_OP_ADD), Exprs: []expr.Any{&expr.Counter{}}})
}

// pace is how many frames may come.
type pace struct{ perSecond, burst int }

// over matches what comes faster from a port, which a set keeps account of.
func over(set string, p pace) rule {
	limit := &expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(p.perSecond), Unit: expr.LimitTimeSecond, Burst: uint32(p.burst), Over: true}
	return append(keys(iif), &expr.Dynset{SrcRegKey: reg, SetName: set, Operation: uint32(unix.NFT_DYNSET_OP_ADD), Exprs: []expr.Any{limit}})
}

// and matches what all match.
func and(all ...rule) rule {
	var r rule
	for _, part := range all {
		r = append(r, part...)
	}
	return r
}

// to goes to another chain and does not come back.
func (r rule) to(chain string) rule {
	return r.then(&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain})
}

// via goes to another chain and comes back.
func (r rule) via(chain string) rule {
	return r.then(&expr.Verdict{Kind: expr.VerdictJump, Chain: chain})
}

// back returns to the chain that led here.
func (r rule) back() rule { return r.then(&expr.Verdict{Kind: expr.VerdictReturn}) }

// pass lets the frame through.
func (r rule) pass() rule { return r.then(&expr.Verdict{Kind: expr.VerdictAccept}) }

// drop ends the frame.
func (r rule) drop() rule { return r.then(&expr.Verdict{Kind: expr.VerdictDrop}) }

// then is r with what is done with what it matches. r may be a part of several rules.
func (r rule) then(v *expr.Verdict) rule { return append(slices.Clip(r), v) }

// uint16be is a number as frames have it.
func uint16be(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }

// ifindex is an ifindex as the register has it.
func ifindex(n int) []byte { return binaryutil.NativeEndian.PutUint32(uint32(n)) }

// expressions are the rule in the kernel's form. The library has masquerading take a
// range of ports without the flag by which the kernel heeds it.
func (r rule) expressions(family uint8) (all [][]byte, err error) {
	all = make([][]byte, 0, len(r))
	for _, e := range r {
		if m, ok := e.(*expr.Masq); ok && m.ToPorts {
			const specified = 2 // NF_NAT_RANGE_PROTO_SPECIFIED of linux/netfilter/nf_nat.h
			data := nfnetlink.AppendNumber(nil, unix.NFTA_MASQ_FLAGS, specified)
			data = nfnetlink.AppendNumber(data, unix.NFTA_MASQ_REG_PROTO_MIN, m.RegProtoMin)
			if m.RegProtoMax != 0 {
				data = nfnetlink.AppendNumber(data, unix.NFTA_MASQ_REG_PROTO_MAX, m.RegProtoMax)
			}
			all = append(all, nfnetlink.Expression("masq", data))
			continue
		}
		b, err := expr.Marshal(family, e)
		if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	return all, nil
}

// countIn is what a counter says.
func countIn(expression []byte) (c firewall.Count) {
	for kind, data := range netlink.Attributes(expression) {
		if kind != unix.NFTA_EXPR_DATA {
			continue
		}
		for kind, value := range netlink.Attributes(data) {
			switch {
			case kind == unix.NFTA_COUNTER_PACKETS && len(value) == 8:
				c.Packets = binary.BigEndian.Uint64(value)
			case kind == unix.NFTA_COUNTER_BYTES && len(value) == 8:
				c.Bytes = binary.BigEndian.Uint64(value)
			}
		}
	}
	return c
}

// counts reports whether an expression is a counter.
func counts(expression []byte) bool {
	for kind, value := range netlink.Attributes(expression) {
		if kind == unix.NFTA_EXPR_NAME && strings.TrimRight(string(value), "\x00") == "counter" {
			return true
		}
	}
	return false
}
