package overlay

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// frames is the table that sees what passes bridges, and packets that which sees what comes to
// this host and what it forwards.
var (
	frames  = nfnetlink.Place{Family: unix.NFPROTO_BRIDGE, Table: firewall.SpanTable}
	packets = nfnetlink.Place{Family: unix.NFPROTO_INET, Table: firewall.SpanTable}
)

const comment = "what of networks that span hosts is each host's own"

// The numbers that nft(8) has for types, and how it joins those of keys with two fields.
const (
	typeAddr4  = 7
	typeAddr6  = 8
	typeEther  = 9
	typePort   = 13
	typeIfname = 41
	joined     = 6 // bits

	nameSize = unix.IFNAMSIZ
)

// set is a set of one of the tables, and where it is.
type set struct {
	in nfnetlink.Place
	nfnetlink.Set
}

// The sets. Keys that begin with a device are of the tunnel's end.
const (
	setLinks    = "links"
	setMACs     = "macs"     // of gateways
	setAddrs4   = "addrs4"   // of gateways
	setAddrs6   = "addrs6"   //
	setBridges  = "bridges"  // of all networks
	setPorts    = "ports"    // of tunnels
	setMembers4 = "members4" // hosts and the ports of tunnels between them
	setMembers6 = "members6" //
	setHosts    = "hosts"    // this host's own links
	setCards4   = "cards4"   // addresses of this host on these
	setCards6   = "cards6"   //
	setNear6    = "near6"    // subnets of 64 bits of which senders are there
)

// sets are all of them.
func sets() []set {
	one := func(in nfnetlink.Place, name string, number, size uint32) set {
		return set{in, nfnetlink.Set{Name: name, Key: nfnetlink.DataType{Number: number, Size: size}}}
	}
	two := func(in nfnetlink.Place, name string, first, second, size1, size2 uint32) set {
		s := one(in, name, first<<joined|second, size1+(size2+3)/4*4)
		s.Fields = []uint32{size1, size2}
		return s
	}
	ports := one(packets, setPorts, typePort, 2)
	ports.NetworkOrder = true
	return []set{
		one(frames, setLinks, typeIfname, nameSize),
		two(frames, setMACs, typeIfname, typeEther, nameSize, 6),
		two(frames, setAddrs4, typeIfname, typeAddr4, nameSize, 4),
		two(frames, setAddrs6, typeIfname, typeAddr6, nameSize, 16),
		one(packets, setBridges, typeIfname, nameSize),
		ports,
		two(packets, setMembers4, typeAddr4, typePort, 4, 2),
		two(packets, setMembers6, typeAddr6, typePort, 16, 2),
		one(packets, setHosts, typeIfname, nameSize),
		two(packets, setCards4, typeIfname, typeAddr4, nameSize, 4),
		two(packets, setCards6, typeIfname, typeAddr6, nameSize, 16),
		two(packets, setNear6, typeIfname, typeAddr6, nameSize, 16),
	}
}

// content is what is in the sets: keys, by the name of the set.
type content map[string]map[string]bool

// add puts a key into a set.
func (c content) add(set string, key []byte) {
	if c[set] == nil {
		c[set] = make(map[string]bool)
	}
	c[set][string(key)] = true
}

// join is what is in c or in o, neither of which is altered.
func join(c, o content) content {
	if len(o) == 0 {
		return c
	}
	both := make(content)
	for _, one := range []content{c, o} {
		for set, keys := range one {
			for k := range keys {
				both.add(set, []byte(k))
			}
		}
	}
	return both
}

// drop takes out what is in o.
func (c content) drop(o content) {
	for set, keys := range o {
		for k := range keys {
			delete(c[set], k)
		}
	}
}

func byFamily(a netip.Addr, four, six string) string {
	if a.Is4() {
		return four
	}
	return six
}

// name is a device's name as a key.
func name(device string) []byte { return append([]byte(device), make([]byte, nameSize-len(device))...) }

// pad fills a key up to whole registers.
func pad(key []byte) []byte { return append(key, make([]byte, (4-len(key)%4)%4)...) }

// without are the elements of the keys that are in one set and not in another, in order.
func without(keys, others map[string]bool) (all []nfnetlink.Element) {
	for k := range keys {
		if !others[k] {
			all = append(all, nfnetlink.Element{Key: []byte(k)})
		}
	}
	slices.SortFunc(all, func(a, b nfnetlink.Element) int { return bytes.Compare(a.Key, b.Key) })
	return all
}

// removal deletes both tables, there or not.
func removal() [][]byte {
	return [][]byte{frames.NewTable(0, ""), frames.DeleteTable(), packets.NewTable(0, ""), packets.DeleteTable()}
}

// change brings the sets from what is in them to what shall be.
func change(is, shall content) (messages [][]byte) {
	for _, s := range sets() {
		messages = append(messages, s.in.DeleteElements(s.Name, without(is[s.Name], shall[s.Name]))...)
		messages = append(messages, s.in.NewElements(s.Name, without(shall[s.Name], is[s.Name]))...)
	}
	return messages
}

// chain is one of the tables'.
type chain struct {
	in    nfnetlink.Place
	name  string
	hook  *nfnetlink.Hook // where the kernel asks it, or nil
	rules []rule
}

// The chains to which others jump: of frames that come by a tunnel, of those that go by one, and of
// packets that come by this host's own links.
const (
	chainArriving = "arriving"
	chainLeaving  = "leaving"
	chainCard     = "card"
)

// chains are all of them, those to which others jump first. Hooks of bridges have the numbers
// that those of IP have (linux/netfilter_bridge.h). What bridges say by themselves, to each
// other or of groups, passes but the two in the middle. Of a frame that has nothing to do with
// a tunnel no more is seen than that.
func chains() []chain {
	const in, out = unix.NFT_META_IIFNAME, unix.NFT_META_OIFNAME
	return []chain{
		{frames, chainArriving, nil, crossing(in)},
		{frames, chainLeaving, nil, crossing(out)},
		{packets, chainCard, nil, card()},
		{frames, "prerouting", ahead(unix.NF_INET_PRE_ROUTING), []rule{lead(in, setLinks, chainArriving)}},
		{frames, "input", ahead(unix.NF_INET_LOCAL_IN), []rule{lead(in, setLinks, chainArriving)}},
		{frames, "output", ahead(unix.NF_INET_LOCAL_OUT), []rule{lead(out, setLinks, chainLeaving)}},
		{frames, "postrouting", ahead(unix.NF_INET_POST_ROUTING), []rule{lead(out, setLinks, chainLeaving)}},
		{packets, "input", ahead(unix.NF_INET_LOCAL_IN), arriving()},
		{packets, "forward", ahead(unix.NF_INET_FORWARD), passing()},
	}
}

// ahead is a hook, ahead of what others have there.
func ahead(number uint32) *nfnetlink.Hook {
	return &nfnetlink.Hook{Number: number, Priority: -350, Type: "filter"}
}

// creation makes the tables, which must not be there, with that in their sets.
func creation(shall content) [][]byte {
	messages := [][]byte{frames.NewTable(0, comment), packets.NewTable(0, comment)}
	for i, s := range sets() {
		messages = append(messages, s.in.NewSet(s.Set, uint32(i+1)))
	}
	messages = append(messages, change(nil, shall)...)
	for _, c := range chains() {
		messages = append(messages, c.in.NewChain(c.name, c.hook))
		for _, r := range c.rules {
			messages = append(messages, c.in.NewRule(c.name, r...))
		}
	}
	return messages
}

// rule are the expressions of one.
type rule = [][]byte

// The registers of 16 bytes and where in them that of 4 bytes begins which is behind an
// address of IPv4.
const (
	first     = unix.NFT_REG_1
	second    = unix.NFT_REG_2
	behindIP4 = unix.NFT_REG32_00 + 1
)

// field is a part of a packet.
type field struct{ base, offset, size uint32 }

// The fields: RFC 894, RFC 826, RFC 791, RFC 8200, RFC 768, and RFC 4861 sections 4.3 and 4.4.
var (
	etherDest   = field{unix.NFT_PAYLOAD_LL_HEADER, 0, 6}
	etherSource = field{unix.NFT_PAYLOAD_LL_HEADER, 6, 6}
	arpSender   = field{unix.NFT_PAYLOAD_NETWORK_HEADER, 14, 4}
	arpTarget   = field{unix.NFT_PAYLOAD_NETWORK_HEADER, 24, 4}
	ip4Source   = field{unix.NFT_PAYLOAD_NETWORK_HEADER, 12, 4}
	ip4Dest     = field{unix.NFT_PAYLOAD_NETWORK_HEADER, 16, 4}
	ip6Source   = field{unix.NFT_PAYLOAD_NETWORK_HEADER, 8, 16}
	ip6Dest     = field{unix.NFT_PAYLOAD_NETWORK_HEADER, 24, 16}
	ip6Kind     = field{unix.NFT_PAYLOAD_NETWORK_HEADER, 24, 1} // of the destination
	destPort    = field{unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2}
	icmpType    = field{unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1}
	ndTarget    = field{unix.NFT_PAYLOAD_TRANSPORT_HEADER, 8, 16}
)

// crossing are the rules of frames that cross to or from other hosts by a device. Each host's
// own is what concerns the gateway, what bridges tell each other (IEEE 802.1Q section 8.6.3),
// DHCP of both families, and router solicitations, advertisements and redirects.
func crossing(device uint32) []rule {
	of := func(set string, f field) rule { return rule{meta(device, first), load(f, second), lookup(set, false)} }
	nd := slices.Concat(protocol(unix.IPPROTO_ICMPV6), between(icmpType, 135, 136)) // neighbour solicitations and advertisements
	arp := rule{meta(unix.NFT_META_PROTOCOL, first), compare(unix.NFT_CMP_EQ, []byte{0x08, 0x06})}
	group := rule{load(etherDest, first), mask([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xf0}), compare(unix.NFT_CMP_EQ, []byte{0x01, 0x80, 0xc2, 0, 0, 0})}
	return []rule{
		drop(of(setMACs, etherSource)),
		drop(of(setMACs, etherDest)),
		drop(arp, of(setAddrs4, arpSender)),
		drop(arp, of(setAddrs4, arpTarget)),
		drop(nd, of(setAddrs6, ndTarget)),
		drop(nd, of(setAddrs6, ip6Source)),
		drop(group),
		drop(protocol(unix.IPPROTO_UDP), between(destPort, 67, 68)),
		drop(protocol(unix.IPPROTO_UDP), between(destPort, 546, 547)),
		drop(protocol(unix.IPPROTO_ICMPV6), between(icmpType, 133, 134)),
		drop(protocol(unix.IPPROTO_ICMPV6), between(icmpType, 137, 137)),
	}
}

// lead is the rule by which what has a device of a set goes on in a chain.
func lead(device uint32, set, chain string) rule {
	return rule{meta(device, first), lookup(set, false), jump(chain)}
}

// arriving are the rules of what comes to this host: to a tunnel from peers alone, and by no
// network's bridge, whatever address it claims to come from.
func arriving() []rule {
	ours := append(protocol(unix.IPPROTO_UDP), load(destPort, first), lookup(setPorts, false))
	return []rule{
		lead(unix.NFT_META_IIFNAME, setHosts, chainCard),
		drop(ours, rule{meta(unix.NFT_META_IIFNAME, first), lookup(setBridges, false)}),
		drop(ours, family(unix.NFPROTO_IPV4), rule{load(ip4Source, first), load(destPort, behindIP4), lookup(setMembers4, true)}),
		drop(ours, family(unix.NFPROTO_IPV6), rule{load(ip6Source, first), load(destPort, second), lookup(setMembers6, true)}),
	}
}

// card are the rules of what comes by this host's own links: it is for the address that this host has
// there, or for a group, and from the network itself. Of IPv4 the kernel looks at that.
func card() []rule {
	by := func(set string, f field, more ...[]byte) rule {
		return slices.Concat(rule{meta(unix.NFT_META_IIFNAME, first), load(f, second)}, more, rule{lookup(set, true)})
	}
	const group = 0xff // RFC 4291 section 2.7
	subnet := maskAt(second, slices.Concat(bytes.Repeat([]byte{0xff}, 8), make([]byte, 8)))
	return []rule{
		drop(family(unix.NFPROTO_IPV4), by(setCards4, ip4Dest)),
		drop(family(unix.NFPROTO_IPV6), rule{load(ip6Kind, first), compare(unix.NFT_CMP_NEQ, []byte{group})}, by(setCards6, ip6Dest)),
		drop(family(unix.NFPROTO_IPV6), by(setNear6, ip6Source, subnet)),
	}
}

// passing are the rules of what this host forwards: nothing to tunnels of peers, where it
// would come from this host once its address is translated, and nothing by this host's own links.
func passing() []rule {
	udp := protocol(unix.IPPROTO_UDP)
	return []rule{
		drop(rule{meta(unix.NFT_META_IIFNAME, first), lookup(setHosts, false)}),
		drop(rule{meta(unix.NFT_META_OIFNAME, first), lookup(setHosts, false)}),
		drop(udp, family(unix.NFPROTO_IPV4), rule{load(ip4Dest, first), load(destPort, behindIP4), lookup(setMembers4, false)}),
		drop(udp, family(unix.NFPROTO_IPV6), rule{load(ip6Dest, first), load(destPort, second), lookup(setMembers6, false)}),
	}
}

// drop is a rule that counts and drops what fits all parts.
func drop(parts ...rule) rule {
	return append(slices.Concat(parts...), nfnetlink.Expression("counter", nil), verdict(0, "")) // NF_DROP
}

// jump is the expression that goes on in another chain of the table.
func jump(chain string) []byte { return verdict(unix.NFT_JUMP, chain) }

func verdict(code int32, chain string) []byte {
	v := nfnetlink.AppendNumber(nil, unix.NFTA_VERDICT_CODE, uint32(code))
	if chain != "" {
		v = netlink.AppendAttribute(v, unix.NFTA_VERDICT_CHAIN, []byte(chain+"\x00"))
	}
	v = netlink.AppendAttribute(nil, unix.NLA_F_NESTED|unix.NFTA_DATA_VERDICT, v)
	b := nfnetlink.AppendNumber(nil, unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
	return nfnetlink.Expression("immediate", netlink.AppendAttribute(b, unix.NLA_F_NESTED|unix.NFTA_IMMEDIATE_DATA, v))
}

// numbers are attributes with numbers, the kinds of which count from 1.
func numbers(all ...uint32) (b []byte) {
	for i, n := range all {
		b = nfnetlink.AppendNumber(b, uint16(i+1), n)
	}
	return b
}

func meta(key, register uint32) []byte { return nfnetlink.Expression("meta", numbers(register, key)) }

func load(f field, register uint32) []byte {
	return nfnetlink.Expression("payload", numbers(register, f.base, f.offset, f.size))
}

// lookup looks for what begins at the first register in a set, or has it not be there.
func lookup(set string, absent bool) []byte {
	b := netlink.AppendAttribute(nil, unix.NFTA_LOOKUP_SET, []byte(set+"\x00"))
	b = nfnetlink.AppendNumber(b, unix.NFTA_LOOKUP_SREG, first)
	if absent {
		const flags, inverted = 5, 1 // NFTA_LOOKUP_FLAGS, NFT_LOOKUP_F_INV
		b = nfnetlink.AppendNumber(b, flags, inverted)
	}
	return nfnetlink.Expression("lookup", b)
}

func data(b []byte, kind uint16, value []byte) []byte {
	return netlink.AppendAttribute(b, unix.NLA_F_NESTED|kind, netlink.AppendAttribute(nil, unix.NFTA_DATA_VALUE, value))
}

func compare(operator uint32, value []byte) []byte {
	return nfnetlink.Expression("cmp", data(numbers(first, operator), unix.NFTA_CMP_DATA, value))
}

// mask leaves some bits of what is in the first register.
func mask(bits []byte) []byte { return maskAt(first, bits) }

func maskAt(register uint32, bits []byte) []byte {
	b := numbers(register, register, uint32(len(bits)))
	b = data(b, unix.NFTA_BITWISE_MASK, bits)
	return nfnetlink.Expression("bitwise", data(b, unix.NFTA_BITWISE_XOR, make([]byte, len(bits))))
}

// between are the expressions of a field from low to high.
func between(f field, low, high uint16) rule {
	value := func(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n)[2-f.size:] }
	return rule{load(f, first), compare(unix.NFT_CMP_GTE, value(low)), compare(unix.NFT_CMP_LTE, value(high))}
}

func protocol(number byte) rule {
	return rule{meta(unix.NFT_META_L4PROTO, first), compare(unix.NFT_CMP_EQ, []byte{number})}
}

func family(number byte) rule {
	return rule{meta(unix.NFT_META_NFPROTO, first), compare(unix.NFT_CMP_EQ, []byte{number})}
}
