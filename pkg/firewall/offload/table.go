package offload

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// What is in the table.
const (
	flowtableName = "flows"
	chainName     = "forward"
	setBridges    = "bridges"  // of networks whose connections are offloaded
	setLinks      = "links"    // those of the flowtable, bridges included
	setAnswered   = "answered" // connections of which an answer has passed all rules since the table was made
	comment       = "established connections of guests that go past the rules"
)

const (
	// chainPriority is behind all that may refuse a packet: iptables and nftables at 0,
	// firewalld at 10, SELinux' marks at 50.
	chainPriority = 500
	// ingressPriority is behind the guards of ports and what holds devices to a bandwidth.
	ingressPriority = 2000
)

// Elements of setAnswered: for how many milliseconds, and how many at a time. A connection
// for which there is no room passes all rules until there is.
const (
	answeredTime = 60_000
	maxAnswered  = 1 << 16
)

// place is the table. One of the family inet has connections of both families.
var place = nfnetlink.Place{Family: unix.NFPROTO_INET, Table: firewall.OffloadTable}

// nameSize is the size of a device's name in a key, and nameType its type in nft(8), idType
// that of what tells connections apart.
const (
	nameSize = unix.IFNAMSIZ
	nameType = 41 // TYPE_IFNAME
	idType   = 19 // TYPE_MARK, a number that nft(8) shows in hexadecimal
)

// removal deletes the table, there or not.
func removal() [][]byte { return [][]byte{place.NewTable(0, ""), place.DeleteTable()} }

// creation makes the table, which must not be there.
func creation(bridges, devices []string, hardware bool) [][]byte {
	name := nfnetlink.DataType{Number: nameType, Size: nameSize}
	messages := [][]byte{
		place.NewTable(0, comment),
		place.NewSet(nfnetlink.Set{Name: setBridges, Key: name}, 1),
		place.NewSet(nfnetlink.Set{Name: setLinks, Key: name}, 2),
		place.NewSet(nfnetlink.Set{Name: setAnswered, Key: nfnetlink.DataType{Number: idType, Size: 4}, Dynamic: true, Timeout: answeredTime, Size: maxAnswered}, 3),
	}
	messages = append(messages, place.NewElements(setBridges, elements(bridges))...)
	messages = append(messages, place.NewElements(setLinks, elements(devices))...)
	return append(messages,
		flowtable(devices, hardware),
		place.NewChain(chainName, &nfnetlink.Hook{Number: unix.NF_INET_FORWARD, Priority: chainPriority, Type: "filter"}),
		place.NewRule(chainName, learn(unix.NFT_META_IIFNAME, unix.NFT_META_OIFNAME)...),
		place.NewRule(chainName, learn(unix.NFT_META_OIFNAME, unix.NFT_META_IIFNAME)...),
		place.NewRule(chainName, offload(unix.NFT_META_IIFNAME, unix.NFT_META_OIFNAME)...),
		place.NewRule(chainName, offload(unix.NFT_META_OIFNAME, unix.NFT_META_IIFNAME)...),
	)
}

// addition puts more into the table, which is there.
func addition(bridges, devices []string, hardware bool) (messages [][]byte) {
	messages = append(messages, place.NewElements(setBridges, elements(bridges))...)
	messages = append(messages, place.NewElements(setLinks, elements(devices))...)
	if len(devices) > 0 {
		messages = append(messages, flowtable(devices, hardware))
	}
	return messages
}

// flowtable makes the flowtable or adds devices to it.
func flowtable(devices []string, hardware bool) []byte {
	return place.NewFlowtable(nfnetlink.Flowtable{Name: flowtableName, Priority: ingressPriority, Devices: devices, Hardware: hardware})
}

// elements are devices' names as keys.
func elements(names []string) []nfnetlink.Element {
	all := make([]nfnetlink.Element, len(names))
	for i, name := range names {
		all[i].Key = append([]byte(name), make([]byte, nameSize-len(name))...)
	}
	return all
}

// learn are the expressions of a rule: that an answer has passed all rules is remembered of
// its connection, one of whose devices is a bridge and the other in the flowtable.
func learn(bridge, device uint32) [][]byte {
	update := netlink.AppendAttribute(nil, unix.NFTA_DYNSET_SET_NAME, []byte(setAnswered+"\x00"))
	for _, n := range [][2]uint32{{unix.NFTA_DYNSET_OP, unix.NFT_DYNSET_OP_UPDATE}, {unix.NFTA_DYNSET_SREG_KEY, unix.NFT_REG_1}} {
		update = nfnetlink.AppendNumber(update, uint16(n[0]), n[1])
	}
	return slices.Concat(going(directionReply), isIn(bridge, setBridges), isIn(device, setLinks),
		[][]byte{ctKey(unix.NFT_CT_ID), nfnetlink.Expression("dynset", update)})
}

// offload are the expressions of a rule: a packet the other way has passed all rules as
// well, so that the connection goes into the flowtable.
func offload(bridge, device uint32) [][]byte {
	flow := netlink.AppendAttribute(nil, 1, []byte(flowtableName+"\x00")) // NFTA_FLOW_TABLE_NAME
	return slices.Concat(going(directionOriginal), isIn(bridge, setBridges), isIn(device, setLinks),
		[][]byte{ctKey(unix.NFT_CT_ID), lookup(setAnswered), nfnetlink.Expression("counter", nil), nfnetlink.Expression("flow_offload", flow)})
}

// isIn are the expressions that look for a device's name in a set.
func isIn(key uint32, set string) [][]byte {
	load := nfnetlink.AppendNumber(nfnetlink.AppendNumber(nil, unix.NFTA_META_DREG, unix.NFT_REG_1), unix.NFTA_META_KEY, key)
	return [][]byte{nfnetlink.Expression("meta", load), lookup(set)}
}

// lookup is the expression that looks for what was loaded in a set.
func lookup(set string) []byte {
	look := netlink.AppendAttribute(nil, unix.NFTA_LOOKUP_SET, []byte(set+"\x00"))
	return nfnetlink.Expression("lookup", nfnetlink.AppendNumber(look, unix.NFTA_LOOKUP_SREG, unix.NFT_REG_1))
}

// ctKey is the expression that loads something of the connection.
func ctKey(key uint32) []byte {
	load := nfnetlink.AppendNumber(nil, unix.NFTA_CT_DREG, unix.NFT_REG_1)
	return nfnetlink.Expression("ct", nfnetlink.AppendNumber(load, unix.NFTA_CT_KEY, key))
}

// The directions of connections, as the kernel counts them.
const (
	directionOriginal = 0
	directionReply    = 1
)

// going are the expressions of "ct state established ct direction ...".
func going(direction byte) [][]byte {
	const established = 1 << 1 // NF_CT_STATE_BIT(IP_CT_ESTABLISHED)
	data := func(b []byte, kind uint16, value []byte) []byte {
		return netlink.AppendAttribute(b, unix.NLA_F_NESTED|kind, netlink.AppendAttribute(nil, unix.NFTA_DATA_VALUE, value))
	}
	compare := func(op uint32, value []byte) []byte {
		b := nfnetlink.AppendNumber(nfnetlink.AppendNumber(nil, unix.NFTA_CMP_SREG, unix.NFT_REG_1), unix.NFTA_CMP_OP, op)
		return nfnetlink.Expression("cmp", data(b, unix.NFTA_CMP_DATA, value))
	}
	mask := nfnetlink.AppendNumber(nfnetlink.AppendNumber(nil, unix.NFTA_BITWISE_SREG, unix.NFT_REG_1), unix.NFTA_BITWISE_DREG, unix.NFT_REG_1)
	mask = data(nfnetlink.AppendNumber(mask, unix.NFTA_BITWISE_LEN, 4), unix.NFTA_BITWISE_MASK, netlink.Uint32(established))
	mask = data(mask, unix.NFTA_BITWISE_XOR, netlink.Uint32(0))
	return [][]byte{
		ctKey(unix.NFT_CT_STATE), nfnetlink.Expression("bitwise", mask), compare(unix.NFT_CMP_NEQ, netlink.Uint32(0)),
		ctKey(unix.NFT_CT_DIRECTION), compare(unix.NFT_CMP_EQ, []byte{direction}),
	}
}
