package nft

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// element is one of a set, comparable.
type element struct {
	set, from, to string // to: the end of an interval, or empty
	verdict       string // of a map: a chain to go to, or accepted
	returns       bool   // the chain leads back
	value         string // of a map of values
	said          string // the value's text
	single        bool   // the interval is of a set of one field
	comment       string
	text          string // of the key
}

// part is one field of an element's key: a value, or a range of values in a set of
// intervals.
type part struct {
	from, to string // as registers have it
	text     string // as nft(8) lists it
}

// nameSize is the size of a device's name in registers, IFNAMSIZ of linux/if.h.
const nameSize = unix.IFNAMSIZ

// device is a device by its name.
func device(name string) part {
	b := make([]byte, nameSize)
	copy(b, name)
	return part{string(b), string(b), strconv.Quote(name)}
}

// subnet is all addresses of a prefix.
func subnet(p netip.Prefix) part {
	text := p.Masked().String()
	if p.IsSingleIP() {
		text = p.Addr().String()
	}
	return part{string(p.Masked().Addr().AsSlice()), string(last(p).AsSlice()), text}
}

// network is the first address of a prefix, which stands for all of it where addresses are
// cut to its length.
func network(p netip.Prefix) part {
	a := p.Masked().Addr()
	return part{string(a.AsSlice()), string(a.AsSlice()), a.String()}
}

// transport is a protocol of layer 4, "tcp" or "udp".
func transport(name string) part {
	b := padded([]byte{protocols[name]})
	return part{b, b, name}
}

// protocols are the protocols with ports, by the names that rules have.
var protocols = map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP}

// service is a port of layer 4.
func service(port uint16) part {
	b := padded(uint16be(port))
	return part{b, b, strconv.Itoa(int(port))}
}

// within is a range of keys in a set of intervals.
func (e element) within(key ...part) element {
	var texts []string
	for _, p := range key {
		e.from, e.to = e.from+p.from, e.to+p.to
		texts = append(texts, p.text)
	}
	e.single = len(key) == 1
	e.text = strings.Join(texts, " . ")
	return e
}

// at is one key in a set without intervals.
func (e element) at(key ...part) element {
	e = e.within(key...)
	e.to, e.single = "", false
	return e
}

// jump is a map's element that leads to a chain, or accepts.
func jump(set, verdict string) element { return element{set: set, verdict: verdict} }

// The verdict of a map's element that is no chain to go to.
const accepted = "accept"

// value is a port as maps' elements have it.
func value(port uint16) string { return string(binaryutil.BigEndian.PutUint16(port)) }

// String is the element as nft(8) lists it, without its set.
func (e element) String() string {
	s := e.text
	switch {
	case e.verdict == accepted:
		s += commentText(e.comment) + " : accept"
	case e.returns:
		s += commentText(e.comment) + " : jump " + e.verdict
	case e.verdict != "":
		s += commentText(e.comment) + " : goto " + e.verdict
	case e.value != "":
		s += commentText(e.comment) + " : " + e.said
	default:
		s += commentText(e.comment)
	}
	return s
}

// commentText is a comment as nft(8) lists it.
func commentText(comment string) string {
	if comment == "" {
		return ""
	}
	return " comment " + strconv.Quote(comment)
}

// padded is a field as it stands in registers of four bytes.
func padded(b []byte) string { return string(append(slices.Clone(b), make([]byte, (4-len(b)%4)%4)...)) }

func compareElements(a, b element) int {
	if c := strings.Compare(a.set, b.set); c != 0 {
		return c
	}
	if c := strings.Compare(a.from, b.from); c != 0 {
		return c
	}
	return strings.Compare(a.to, b.to)
}

// last is the last address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// messages are the element in messages of nftables. An interval of a set of one field is
// two: where it begins, and where what is behind it does.
func (e element) messages() []nfnetlink.Element {
	m := nfnetlink.Element{Key: []byte(e.from), Comment: e.comment}
	if e.to != "" && !e.single {
		m.KeyEnd = []byte(e.to)
	}
	switch {
	case e.verdict == accepted:
		m.Verdict = binary.BigEndian.AppendUint32(nil, nfAccept)
	case e.verdict != "":
		target := int32(unix.NFT_GOTO)
		if e.returns {
			target = unix.NFT_JUMP
		}
		m.Verdict, m.Chain = binary.BigEndian.AppendUint32(nil, uint32(target)), []byte(e.verdict+"\x00")
	case e.value != "":
		m.Value = []byte(e.value)
	}
	if behind, ok := e.behind(); ok {
		return []nfnetlink.Element{m, {Key: []byte(behind), Ends: true}}
	}
	return []nfnetlink.Element{m}
}

// behind is the first key behind an interval of one field; false if there is none.
func (e element) behind() (string, bool) {
	if !e.single {
		return "", false
	}
	b := []byte(e.to)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i]++; b[i] != 0 {
			return string(b), true
		}
	}
	return "", false
}

// nfAccept is NF_ACCEPT of linux/netfilter.h.
const nfAccept = 1

// clause is a rule, or a part of one, with the text that nft(8) lists for it.
type clause struct {
	rule rule
	text string
}

// stage is a chain of networks' tables.
type stage struct {
	name    string
	hook    *nfnetlink.Hook // at which the kernel asks it; nil: at none
	clauses []clause
}

// both is one clause after the other.
func both(a, b clause) clause {
	text := a.text
	if text != "" && b.text != "" {
		text += " "
	}
	return clause{and(a.rule, b.rule), text + b.text}
}

// inPrefix matches an address in a prefix: as nft(8) has it, by the first bytes alone where
// the prefix ends with one.
func inPrefix(text string, k key, p netip.Prefix) clause {
	c := clause{within(k, p), text + " " + subnet(p).text}
	if load, ok := k.load(reg).(*expr.Payload); ok && p.Bits() > 0 && p.Bits()%8 == 0 {
		load.Len = uint32(p.Bits() / 8)
		c.rule = rule{load, &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: p.Masked().Addr().AsSlice()[:load.Len]}}
	}
	return c
}

// verdict accepts, or goes to a chain.
func verdict(to string) clause {
	if to == accepted {
		return clause{rule{}.pass(), accepted}
	}
	return clause{rule{}.to(to), "goto " + to}
}

// back returns to the chain that led here.
func back() clause { return clause{rule{}.back(), "return"} }

// rewrite rewrites the source: to one of addrs, or where these are zero to the address
// of the device by which a packet leaves, with a port of a range, or any where that is
// zero.
func rewrite(f ipFamily, addrs firewall.AddrRange, ports firewall.PortRange) clause {
	const addrMin, addrMax, portMin, portMax = unix.NFT_REG_1, unix.NFT_REG_2, unix.NFT_REG_3, unix.NFT_REG_4
	c := clause{text: "masquerade"}
	load := func(register uint32, data []byte) uint32 {
		c.rule = append(c.rule, &expr.Immediate{Register: register, Data: data})
		return register
	}
	nat := &expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(f.number)}
	if addrs.Start.IsValid() {
		c.text = "snat to " + addrs.Start.String()
		nat.RegAddrMin = load(addrMin, addrs.Start.AsSlice())
		if end := addrs.End; end.IsValid() && end != addrs.Start {
			c.text += "-" + end.String()
			nat.RegAddrMax = load(addrMax, end.AsSlice())
		}
	}
	if ports != (firewall.PortRange{}) {
		if !addrs.Start.IsValid() {
			c.text += " to "
		}
		c.text += ":" + strconv.Itoa(int(ports.Start))
		nat.Specified, nat.RegProtoMin = true, load(portMin, uint16be(ports.Start))
		if ports.End != ports.Start {
			c.text += "-" + strconv.Itoa(int(ports.End))
			nat.RegProtoMax = load(portMax, uint16be(ports.End))
		}
	}
	if addrs.Start.IsValid() {
		c.rule = append(c.rule, nat)
	} else {
		c.rule = append(c.rule, &expr.Masq{ToPorts: nat.Specified, RegProtoMin: nat.RegProtoMin, RegProtoMax: nat.RegProtoMax})
	}
	return c
}

// bySet are messages about elements, a set's together.
func bySet(all []element, about func(set string, all []nfnetlink.Element) [][]byte) (messages [][]byte) {
	sets := map[string][]nfnetlink.Element{}
	for i := range all {
		sets[all[i].set] = append(sets[all[i].set], all[i].messages()...)
	}
	for _, set := range slices.Sorted(maps.Keys(sets)) {
		messages = append(messages, about(set, sets[set])...)
	}
	return messages
}
